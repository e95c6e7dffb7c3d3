"""The status page. Include it before the admin's own addresses: ``path("admin/", include("webhooks.urls"))``."""

from django.contrib import admin
from django.urls import path

from webhooks.admin import status

app_name = "webhooks"

urlpatterns = [
    path("webhook-backend-status/", admin.site.admin_view(status.show), name="status"),
    path("webhook-backend-status/resume/", admin.site.admin_view(status.resume), name="status-resume"),
    path("webhook-backend-status/retry/", admin.site.admin_view(status.retry), name="status-retry"),
    path("webhook-backend-status/retry-all/", admin.site.admin_view(status.retry_all), name="status-retry-all"),
]
