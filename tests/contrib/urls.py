"""The example's URLs, and those for monitoring."""

from django.urls import include, path
from health_check.views import HealthCheckView

from project.urls import urlpatterns as of_project

urlpatterns = [
    *of_project,
    path("metrics/webhooks", include("webhooks.contrib.prometheus.urls")),
    path("health/", HealthCheckView.as_view(checks=["webhooks.contrib.health.plugin.Webhooks"])),
    path("health/webhooks/", include("webhooks.contrib.health.urls")),
]
