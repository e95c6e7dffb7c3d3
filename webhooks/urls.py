"""The status page, and “Why didn't it fire?”. Include them before the admin's own URLs:
``path("admin/", include("webhooks.urls"))``.
"""

from django.apps import apps
from django.contrib import admin
from django.core.exceptions import ImproperlyConfigured
from django.urls import path

if not apps.is_installed("django.contrib.admin"):
    raise ImproperlyConfigured(
        "webhooks.urls holds the status page, a page of the admin. Add django.contrib.admin to INSTALLED_APPS, or "
        "remove webhooks.urls from your urls.py. The REST API is webhooks.api.urls."
    )

from webhooks.admin import status

view = admin.site.admin_view
urlpatterns = [
    path("webhook-backend-status/", view(status.show), name="webhooks_backend_status"),
    path("webhook-backend-status/parts/", view(status.parts), name="webhooks_backend_status_parts"),
    path("webhook-backend-status/why/", view(status.why), name="webhooks_why"),
]
