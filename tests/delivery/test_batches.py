"""The queries of a worker for a batch of any size."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.support.draining import states
from tests.support.inbox import Inbox
from tests.support.makers import make_event, make_webhook
from tests.support.statements import statements_of
from tests.testapp.models import Thing
from webhooks.delivery import policy, scan_floors
from webhooks.delivery.claims import load_claimed
from webhooks.delivery.dispatch import dispatch
from webhooks.delivery.outcomes import record
from webhooks.ground.conf import conf
from webhooks.ground.outcome import Outcome, StoredRequest
from webhooks.ground.payloads import bodies_by_webhook
from webhooks.models import Attempt, BodyKind, QueuedDelivery, State, Undispatched, Worker
from webhooks.workers.runner import DeliveryRunner
from webhooks.workers.sender import Sender

pytestmark = pytest.mark.usefixtures("database")

T = TypeVar("T")


def counted(work: Callable[[], T]) -> tuple[T, int]:
    with CaptureQueriesContext(connection) as captured:
        result = work()
    return result, len(captured)


def queries_of_a_batch(size: int) -> dict[str, int]:
    """How many queries dispatching, claiming, loading and recording so many deliveries of one webhook takes."""
    webhook = make_webhook(Thing, last_success_at=timezone.now())
    for number in range(size):
        make_event(webhook, object_id=f"{webhook.pk}-{number}")
    token = Worker.objects.register("worker")
    dispatched, dispatching = counted(dispatch)
    [due] = QueuedDelivery.objects.due_webhooks()
    taken, claiming = counted(lambda: QueuedDelivery.objects.claim({due: size}, token))
    claimed, loading = counted(lambda: load_claimed(taken, token, bodies_by_webhook))
    sent = StoredRequest("POST", "http://h.example/", {}, BodyKind.TEMPLATE, "a" * 64, b"compressed")
    outcomes = [(one, Outcome(datetime.now(UTC), 5, status=200, request=sent)) for one in claimed]
    with transaction.atomic():
        _, recording = counted(lambda: record(outcomes, "worker", token))
    assert dispatched == len(taken) == len(claimed) == Attempt.objects.filter(delivery__webhook=webhook).count()
    return {"dispatch": dispatching, "claim": claiming, "load": loading, "record": recording}


@pytest.mark.cost
def test_a_batch_of_any_size_takes_the_same_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "SUCCESS_NOTED_EVERY", 3600)  # in two queries; the larger batch may take some seconds
    of_one = queries_of_a_batch(1)
    assert queries_of_a_batch(200) == of_one
    assert sum(of_one.values()) < 25, of_one


def test_a_worker_dispatches_as_many_events_at_once_as_make_a_batch_that_it_can_claim(
    inbox: Inbox, webhooks_settings: Any
) -> None:
    webhooks_settings(BATCH=20)
    webhooks = [make_webhook(Thing, url=inbox.url()) for _ in range(10)]
    runner = DeliveryRunner("test")
    make_event(*webhooks, object_id="first")
    assert dispatch(runner._claims) == 1
    for number in range(5):
        make_event(*webhooks, object_id=str(number))
    assert dispatch(runner._claims) == 2
    assert not QueuedDelivery.objects.filter(state=State.PENDING).exists()  # a claim would write each once more
    runner.run(10)
    assert len(inbox.received()) == 60
    for number in range(25):
        make_event(webhooks[0], object_id=f"of one {number}")
    assert [dispatch(runner._claims) for _ in range(3)] == [2, 20, 3]
    runner.close(grace=5)


def test_a_worker_with_plenty_to_send_claims_no_more(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    make_event(make_webhook(Thing, url=inbox.url()))
    runner = DeliveryRunner("test")
    with monkeypatch.context() as patch:
        patch.setattr(Sender, "ready", lambda sender: conf.batch)
        runner.run(5, wait=False)
        assert Undispatched.objects.exists()
    runner.run(5)
    runner.close(grace=5)
    assert not Undispatched.objects.exists()
    assert len(inbox.received()) == 1


def test_an_idle_worker_dispatches_new_events_before_it_looks_for_due_deliveries(inbox: Inbox) -> None:
    runner = DeliveryRunner("test")
    runner.run(5, wait=False)
    make_event(make_webhook(Thing, url=inbox.url()))
    statements = statements_of(lambda: runner.run(5, wait=False))
    runner.close(grace=5)
    [queued] = [number for number, sql in enumerate(statements) if "INSERT INTO rq_webhooks_queue" in sql]
    looks = [number for number, sql in enumerate(statements) if "probe_at IS NOT NULL" in sql]
    assert looks
    assert min(looks) > queued


def test_a_worker_that_is_behind_begins_without_a_look(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, webhooks_settings: Callable[..., None]
) -> None:
    webhooks_settings(BATCH=3)
    monkeypatch.setattr(scan_floors, "COST_FACTOR", 10**9)
    webhook = make_webhook(Thing, url=inbox.url())
    for number in range(9):
        make_event(webhook, object_id=str(number))
    runner = DeliveryRunner("test")
    statements = statements_of(lambda: runner.run(10))
    runner.close(grace=5)
    assert states() == [State.SUCCEEDED] * 9
    queued = [number for number, sql in enumerate(statements) if "INSERT INTO rq_webhooks_queue" in sql]
    looks = [number for number, sql in enumerate(statements) if sql.endswith("ORDER BY event_id LIMIT 1")]
    assert len(queued) == 3
    assert sum(look < queued[-1] for look in looks) == 1
