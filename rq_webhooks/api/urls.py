"""The REST API, where NetBox looks for them."""

from webhooks.contrib.netbox.api.urls import urlpatterns

__all__ = ["urlpatterns"]
