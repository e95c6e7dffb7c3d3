"""The pages, below ``/plugins/webhooks/``."""

from typing import Any

from webhooks.contrib.netbox.pages import deliveries, events, runs, skips, status, why

urlpatterns: list[Any] = [*status.urlpatterns, *why.urlpatterns]
urlpatterns += [*deliveries.urlpatterns, *events.urlpatterns, *runs.urlpatterns, *skips.urlpatterns]
