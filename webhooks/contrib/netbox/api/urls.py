"""The REST API, below ``/api/plugins/webhooks/``."""

from typing import Any

urlpatterns: list[Any] = []
