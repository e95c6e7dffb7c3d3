"""The status page. Include it before the admin's own URLs: ``path("admin/", include("webhooks.urls"))``."""

from collections.abc import Callable
from typing import Any

from django.apps import apps
from django.contrib import admin
from django.core.exceptions import ImproperlyConfigured
from django.urls import URLPattern, path

if not apps.is_installed("django.contrib.admin"):
    raise ImproperlyConfigured(
        "webhooks.urls holds the status page, a page of the admin. Add django.contrib.admin to INSTALLED_APPS, or "
        "remove webhooks.urls from your urls.py. The REST API is webhooks.api.urls."
    )

from webhooks.admin import status

NAME = "webhooks_backend_status"


def _page(url: str, view: Callable[..., Any], name: str) -> URLPattern:
    return path(f"webhook-backend-status/{url}", admin.site.admin_view(view), name=name)


urlpatterns = [
    _page("", status.show, NAME),
    _page("resume/", status.resume, f"{NAME}_resume"),
    _page("retry/", status.retry, f"{NAME}_retry"),
    _page("retry-all/", status.retry_all, f"{NAME}_retry_all"),
]
