"""The pages, below ``/plugins/webhooks/``."""

from typing import Any

urlpatterns: list[Any] = []
