"""The pages, below ``/plugins/webhooks/``."""

from typing import Any

from django.urls import include, path
from utilities.urls import get_model_urls

from webhooks.contrib.netbox.pages import (
    deliveries,
    events,
    runs,
    skips,
    status,
    webhook,
    webhook_bulk,
    webhook_form,
    webhooks,
    why,
)

# The views of webhooks register themselves.
OF_WEBHOOKS = (webhook, webhook_bulk, webhook_form, webhooks)

urlpatterns: list[Any] = [*status.urlpatterns, *why.urlpatterns]
urlpatterns += [
    path("webhooks/", include(get_model_urls("rq_webhooks", "webhook", detail=False))),
    path("webhooks/<int:pk>/", include(get_model_urls("rq_webhooks", "webhook"))),
]
urlpatterns += [*deliveries.urlpatterns, *events.urlpatterns, *runs.urlpatterns, *skips.urlpatterns]
