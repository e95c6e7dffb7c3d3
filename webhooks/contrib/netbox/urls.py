"""The pages, below ``/plugins/webhooks/``."""

from typing import Any

from django.urls import include, path
from utilities.urls import get_model_urls

from webhooks.contrib.netbox.pages import webhook, webhook_bulk, webhook_form, webhooks

# The views of webhooks register themselves.
OF_WEBHOOKS = (webhook, webhook_bulk, webhook_form, webhooks)

urlpatterns: list[Any] = []
urlpatterns += [
    path("webhooks/", include(get_model_urls("rq_webhooks", "webhook", detail=False))),
    path("webhooks/<int:pk>/", include(get_model_urls("rq_webhooks", "webhook"))),
]
