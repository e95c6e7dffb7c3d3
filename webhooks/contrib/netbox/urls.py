"""The pages, below ``/plugins/webhooks/``."""

from typing import Any

from webhooks.contrib.netbox.pages import deliveries, events, runs, skips

urlpatterns: list[Any] = []
urlpatterns += [*deliveries.urlpatterns, *events.urlpatterns, *runs.urlpatterns, *skips.urlpatterns]
