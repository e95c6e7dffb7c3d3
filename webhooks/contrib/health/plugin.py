"""A check for django-health-check 4: name ``webhooks.contrib.health.plugin.Webhooks`` in the ``checks`` of its view."""

from __future__ import annotations

import dataclasses

from django.db import connections
from health_check.base import HealthCheck
from health_check.exceptions import ServiceUnavailable

from webhooks.contrib.health import problems_of_delivery


@dataclasses.dataclass
class Webhooks(HealthCheck):  # type: ignore[misc] # the library has no annotations
    """Fails if the whole site has a problem: no worker, no Redis, a fault of our own."""

    def run(self) -> None:
        try:
            if found := problems_of_delivery():
                raise ServiceUnavailable(", ".join(found))
        finally:
            connections.close_all()  # of this thread, which the library started for it
