from rest_framework.routers import DefaultRouter

from tenancy.api import views

app_name = "tenancy-api"

router = DefaultRouter()
router.include_format_suffixes = False
router.register("tenant-groups", views.TenantGroupViewSet)
router.register("tenants", views.TenantViewSet)

urlpatterns = router.urls
