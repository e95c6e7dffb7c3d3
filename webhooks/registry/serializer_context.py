"""The request in the context of serializers: anonymous, and with the base URL of the site."""

from __future__ import annotations

from typing import Any
from urllib.parse import urljoin, urlsplit

from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from rest_framework.request import Request
from rest_framework.settings import api_settings

from webhooks.conf import conf


class SiteRequest(HttpRequest):
    """A GET of the site's root without cookies, session, user or headers.

    The payload must not depend on the user of the change. With the setting ``BASE_URL``, URLs are absolute, else paths.
    """

    def __init__(self, base_url: str) -> None:
        super().__init__()
        self.method, self.path, self.path_info = "GET", "/", "/"
        self.user = AnonymousUser()
        self.base_url = base_url

    def build_absolute_uri(self, location: str | None = None) -> str:
        path = self.get_full_path() if location is None else str(location)
        return urljoin(self.base_url, path) if self.base_url else path

    def get_host(self) -> str:
        # Without the check of ALLOWED_HOSTS, because it comes from the settings.
        return urlsplit(self.base_url).netloc

    def _get_scheme(self) -> str:
        return urlsplit(self.base_url).scheme or "http"


def serializer_context() -> dict[str, Any]:
    """Return the context of a serializer, as a view of REST framework would."""
    request = Request(SiteRequest(conf.base_url), authenticators=[])
    versioning: Any = api_settings.DEFAULT_VERSIONING_CLASS
    request.version = api_settings.DEFAULT_VERSION
    request.versioning_scheme = versioning() if versioning else None
    return {"request": request, "format": None}
