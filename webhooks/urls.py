"""The status page, and “Why didn't it fire?”. Include them before the admin's own URLs:
``path("admin/", include("webhooks.urls"))``.
"""

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

from webhooks.admin import why
from webhooks.admin.status import acts, views

NAME = "webhooks_backend_status"


def _page(url: str, view: Callable[..., Any], name: str = "") -> URLPattern:
    return path(f"webhook-backend-status/{url}", admin.site.admin_view(view), name=f"{NAME}{name}")


urlpatterns = [
    _page("", views.show),
    _page("parts/", views.parts, "_parts"),
    _page("cancel/", acts.cancel, "_cancel"),
    _page("enable/", acts.enable, "_enable"),
    _page("resume/", acts.resume, "_resume"),
    _page("retry/", acts.retry, "_retry"),
    _page("retry-all/", acts.retry_all, "_retry_all"),
    _page("test/", acts.test, "_test"),
    path("webhook-backend-status/why/", admin.site.admin_view(why.show), name="webhooks_why"),
]
