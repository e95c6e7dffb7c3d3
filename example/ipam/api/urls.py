from rest_framework.routers import DefaultRouter

from ipam.api import views

app_name = "ipam-api"

router = DefaultRouter()
router.include_format_suffixes = False
router.register("vrfs", views.VRFViewSet)
router.register("aggregates", views.AggregateViewSet)
router.register("prefixes", views.PrefixViewSet)
router.register("ip-addresses", views.IPAddressViewSet)
router.register("vlan-groups", views.VLANGroupViewSet)
router.register("vlans", views.VLANViewSet)
router.register("services", views.ServiceViewSet)

urlpatterns = router.urls
