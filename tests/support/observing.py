"""The rows that other connections see while a request is under way."""

from __future__ import annotations

import pytest

from tests.support.threads import aside
from webhooks.models import Delivery, State
from webhooks.models.delivery import DeliveryQuerySet, Reopened
from webhooks.operations import retries


def committed_before_each_chunk(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Before each chunk of two retries, count the retried deliveries that are committed."""
    monkeypatch.setattr(retries, "CHUNK", 2)
    retry, seen = DeliveryQuerySet.retry, list[int]()

    def look_and_retry(some: DeliveryQuerySet, requested_by: str) -> Reopened:
        seen.append(aside(Delivery.objects.filter(state=State.PENDING).count))
        return retry(some, requested_by)

    monkeypatch.setattr(DeliveryQuerySet, "retry", look_and_retry)
    return seen
