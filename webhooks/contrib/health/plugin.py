"""A check for django-health-check 4: ``HealthCheckView.as_view(checks=["webhooks.contrib.health.plugin.Webhooks"])``."""

from __future__ import annotations

import dataclasses

from health_check.base import HealthCheck
from health_check.exceptions import ServiceUnavailable

from webhooks.contrib.health import problems_of_delivery


@dataclasses.dataclass
class Webhooks(HealthCheck):
    """Fails if the whole site has a problem: no worker, no Redis, a fault of our own."""

    def run(self) -> None:  # type: ignore[override] # it may be synchronous
        if found := problems_of_delivery():
            raise ServiceUnavailable(", ".join(found))
