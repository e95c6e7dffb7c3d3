"""What the log says of an outage: one line at its beginning and one at its end, and which webhook it is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db.models.functions import Now

from tests.support.draining import drain
from tests.support.inbox import Inbox
from tests.support.makers import make_delivery, make_event, make_webhook
from tests.testapp.models import Thing
from webhooks.delivery import sweep
from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.outcome import Outcome
from webhooks.models import State, Webhook
from webhooks.workers import runner
from webhooks.workers.breaker import AvoidedWebhooks

pytestmark = pytest.mark.usefixtures("database")


def logged(app_log: pytest.LogCaptureFixture) -> list[tuple[str, Any]]:
    """The lines about a webhook or a delivery, each with what it is about."""
    names = ("webhook", "delivery", "event", "kind")
    records = map(vars, app_log.records)
    return [(one["message"], {name: one[name] for name in names if one[name]}) for one in records if one["kind"]]


def test_a_pause_is_a_line_and_its_end_another(
    app_log: pytest.LogCaptureFixture, inbox: Inbox, webhooks_settings: Callable[..., None]
) -> None:
    webhooks_settings(PAUSE_AFTER=2, RETRY_SCHEDULE=[0] * 5, RETRY_JITTER=0, PROBE_SCHEDULE=[60])
    webhook = make_webhook(url=inbox.url("status/500"), name="CMDB")
    make_event(webhook)
    drain()
    Webhook.objects.update(payload_url=inbox.url(), probe_at=Now())
    drain()
    about = {"webhook": "CMDB", "kind": "http_500"}
    [(began, of_began), *others, (ended, of_ended)] = logged(app_log)
    assert others == []
    assert began.startswith("Webhook CMDB is paused: HTTP 500")
    assert ended == "Webhook CMDB gets its deliveries again: its receiver works"
    assert of_began == of_ended == about


def test_an_avoided_webhook_is_a_line_and_its_end_another(app_log: pytest.LogCaptureFixture) -> None:
    webhook, avoided = make_webhook(Thing, name="CMDB"), AvoidedWebhooks()
    outcome = Outcome(webhook.created, 1, reason="no such name", kind=ErrorKind.RESOLVER)
    for _ in range(3):
        avoided.add(webhook, outcome)
    avoided.discard(webhook)
    avoided.discard(webhook)
    about = {"webhook": "CMDB", "kind": "resolver"}
    [(began, of_began), (ended, of_ended)] = logged(app_log)
    assert began.startswith("Webhook CMDB: no such name.")
    assert ended.startswith("Webhook CMDB gets its deliveries again. This is over: ")
    assert of_began == of_ended == about


def test_a_delivery_that_ends_its_workers_is_named(app_log: pytest.LogCaptureFixture) -> None:
    delivery = make_delivery(make_webhook(Thing, name="CMDB"), State.SENDING, lost_leases=2, lease_until=Now())
    sweep.sweep()
    [(message, about)] = logged(app_log)
    assert message.startswith(f"Delivery {delivery.pk} failed")
    assert about == {"delivery": str(delivery.pk), "event": delivery.event_id, "kind": "worker_ended"}


def test_a_request_that_cannot_be_made_names_its_delivery(
    app_log: pytest.LogCaptureFixture, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "compose", lambda *args, **kwargs: 1 / 0)
    event = make_event(make_webhook(url=inbox.url(), name="CMDB"))
    drain()
    [record] = [one for one in map(vars, app_log.records) if one["message"] == "A request could not be made"]
    assert (record["webhook"], record["event"]) == ("CMDB", event.pk)
    assert record["delivery"] == str(event.deliveries.get().pk)
