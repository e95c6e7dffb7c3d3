from rest_framework.routers import DefaultRouter

from core.api import views

app_name = "core-api"

router = DefaultRouter()
router.include_format_suffixes = False
router.register("tags", views.TagViewSet)

urlpatterns = router.urls
