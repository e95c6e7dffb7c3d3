"""The pages, where NetBox looks for them."""

from webhooks.contrib.netbox.urls import urlpatterns

__all__ = ["urlpatterns"]
