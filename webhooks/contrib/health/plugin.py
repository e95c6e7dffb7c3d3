"""A check for django-health-check 4: name ``webhooks.contrib.health.plugin.Webhooks`` in the ``checks`` of its view."""

from __future__ import annotations

import dataclasses

from health_check.base import HealthCheck
from health_check.exceptions import ServiceUnavailable

from webhooks.contrib.health import problems_of_delivery
from webhooks.ground.db.session import closing_new_connections


@dataclasses.dataclass
class Webhooks(HealthCheck):  # type: ignore[misc] # the library has no annotations
    """Fails if the whole site has a problem: no worker, no Redis, a fault of our own."""

    def run(self) -> None:
        with closing_new_connections():  # the library starts a thread for it
            if problems := problems_of_delivery():
                raise ServiceUnavailable(", ".join(problems))
