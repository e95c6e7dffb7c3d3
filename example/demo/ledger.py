"""The Deliveries and Attempts that were recorded: the site's database, read with its own models."""

from __future__ import annotations

from demo.errors import wait_for
from demo.run import Run


class Ledger:
    """Needs ``django.setup()`` first."""

    def __init__(self, here: Run) -> None:
        from webhooks.models import Delivery

        self._here = here
        self._deliveries = Delivery.objects.select_related("webhook", "event")

    def state(self, webhook_id: str) -> str:
        """The state of a delivery, once it has ended. Raises DemoError when it does not."""
        ended = self._deliveries.filter(pk=webhook_id).ended().values_list("state", flat=True)
        return wait_for(ended.first, 15, f"The end of delivery {webhook_id}", self._here.log("rqworker"))

    def sequence(self, webhook_id: str) -> int:
        return self._deliveries.get(pk=webhook_id).event_id

    def statuses(self, webhook_id: str) -> list[int | None]:
        """The HTTP status of each attempt, first to last."""
        return [attempt.status for attempt in self._deliveries.get(pk=webhook_id).attempts.order_by("number")]

    def count(self) -> int:
        return self._deliveries.count()

    def describe(self, webhook_id: str) -> list[str]:
        """A delivery and its attempts, a line each."""
        self.state(webhook_id)
        delivery = self._deliveries.get(pk=webhook_id)
        lines = [f"{delivery.pk}  {delivery.state}  {delivery.event}  to webhook {delivery.webhook.name!r}"]
        for attempt in delivery.attempts.order_by("number"):
            came = f"HTTP {attempt.status}" if attempt.status else attempt.reason
            lines.append(f"attempt {attempt.number}: {came} after {attempt.duration_ms} ms")
        return lines
