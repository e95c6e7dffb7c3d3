from rest_framework.routers import DefaultRouter

from dcim.api import views

app_name = "dcim-api"

router = DefaultRouter()
router.include_format_suffixes = False
router.register("sites", views.SiteViewSet)
router.register("rack-groups", views.RackGroupViewSet)
router.register("racks", views.RackViewSet)
router.register("devices", views.DeviceViewSet)
router.register("interfaces", views.InterfaceViewSet)
router.register("cables", views.CableViewSet)

urlpatterns = router.urls
