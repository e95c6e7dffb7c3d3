from rest_framework.routers import DefaultRouter

from circuits.api import views

app_name = "circuits-api"

router = DefaultRouter()
router.include_format_suffixes = False
router.register("providers", views.ProviderViewSet)
router.register("circuits", views.CircuitViewSet)

urlpatterns = router.urls
