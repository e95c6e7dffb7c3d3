from rest_framework.routers import DefaultRouter

from virtualization.api import views

app_name = "virtualization-api"

router = DefaultRouter()
router.include_format_suffixes = False
router.register("cluster-groups", views.ClusterGroupViewSet)
router.register("clusters", views.ClusterViewSet)
router.register("virtual-machines", views.VirtualMachineViewSet)

urlpatterns = router.urls
