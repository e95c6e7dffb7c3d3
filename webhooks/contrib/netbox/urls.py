"""The pages, below ``/plugins/webhooks/``."""

from typing import Any

from webhooks.contrib.netbox.pages import status, why

urlpatterns: list[Any] = [
    *status.urlpatterns,
    *why.urlpatterns,
]
