"""Suspects, which may have ended their worker: few at a time, and in the end a failed attempt."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from django.db import OperationalError
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from tests.support.draining import STATE, drain, states, sweep_step
from tests.support.inbox import Inbox
from tests.support.makers import make_attempt, make_delivery, make_webhook
from tests.support.waiting import until
from tests.testapp.models import Thing
from webhooks.delivery import sweep
from webhooks.delivery.claims import WorkerClaims
from webhooks.delivery.next_turn import Aim, Step
from webhooks.ground.conf import conf
from webhooks.ground.db import to_utc
from webhooks.ground.error_kinds import ErrorKind
from webhooks.models import Attempt, Delivery, QueuedDelivery, State, Webhook, Worker
from webhooks.workers.runner import DeliveryRunner

pytestmark = pytest.mark.usefixtures("database")

AGO = timezone.now() - timedelta(seconds=9)


@pytest.fixture
def webhook(database: str, inbox: Inbox) -> Webhook:
    return make_webhook(Thing, url=inbox.url("slow/0.05"))


@pytest.fixture
def runner(database: str) -> Iterator[DeliveryRunner]:
    opened = DeliveryRunner("test")
    yield opened
    opened.close(grace=5)


@pytest.fixture
def claims(runner: DeliveryRunner) -> WorkerClaims:
    return runner._claims


def make_lost(webhook: Webhook, count: int, lost_leases: int, **fields: Any) -> list[Delivery]:
    """Due deliveries of different objects that lost this many leases."""
    start = Delivery.objects.count()
    return [
        make_delivery(webhook, object_id=str(start + number), lost_leases=lost_leases, **fields)
        for number in range(count)
    ]


def held_by(claims: WorkerClaims) -> list[int]:
    """The lost leases of the deliveries that a worker holds."""
    return sorted(claimed.row.lost_leases for claimed in claims.claimed.values())


# A record that a crash of the database loses


@pytest.mark.parametrize("notices", ["an error", "nothing", "the worker stops"])
def test_a_delivery_is_sent_again_if_a_crash_has_lost_its_record(
    webhook: Webhook, inbox: Inbox, webhooks_settings: Any, monkeypatch: pytest.MonkeyPatch, notices: str
) -> None:
    webhooks_settings(SWEEP_INTERVAL=0.1)
    delivery, runner = make_delivery(webhook), DeliveryRunner("test")
    sending = QueuedDelivery.objects.values().get()
    runner.run(60)
    assert states() == [State.SUCCEEDED]
    [worker] = Worker.objects.all()
    QueuedDelivery.objects.create(**sending | {"state": State.SENDING, "claim": worker.token})
    if notices == "an error":
        with monkeypatch.context() as patch, pytest.raises(OperationalError):
            patch.setattr(
                runner._claims, "claim_due", Mock(side_effect=OperationalError("the server closed the connection"))
            )
            runner._was_idle = False
            runner.run(1)
    elif notices == "the worker stops":
        runner.close(grace=5)
        runner = DeliveryRunner("next")
    else:  # for example, PgBouncer has connected to the new server
        monkeypatch.setattr("webhooks.delivery.claims.TOKEN_SECONDS", 0)
        runner._claims._renewed -= conf.lease / 3

    def is_sent_again() -> bool:
        runner.run(1)
        Worker.objects.exclude(token=runner._claims._token).update(lease_until=AGO)
        return len(inbox.received()) == 2

    until(is_sent_again, 15, "the delivery to be sent again")
    runner.close(grace=5)
    assert states() == [State.SUCCEEDED]
    assert {one.headers["webhook-id"] for one in inbox.received()} == {str(delivery.pk)}


# Counting


def test_a_lease_that_ends_without_a_record_is_counted_and_a_released_one_is_not(webhook: Webhook) -> None:
    for lost in (0, 1):
        make_lost(webhook, 1, lost, state=State.SENDING, lease_until=AGO)
    [handed_back] = make_lost(webhook, 1, 1, state=State.SENDING)
    QueuedDelivery.objects.filter(pk=handed_back.pk).release()
    assert sweep_step(sweep.expire_leases) == 2
    assert list(Delivery.objects.order_by("event_id").values_list(STATE, "queued__lost_leases", "noted_attempts")) == [
        (State.PENDING, 1, 0), (State.PENDING, 2, 0), (State.PENDING, 1, 0),
    ]  # fmt: skip
    assert not Attempt.objects.exists()


@pytest.mark.parametrize("end", ["released", "lost"])
def test_a_delivery_keeps_its_place_when_its_claim_ends(webhook: Webhook, end: str) -> None:
    [delivery] = make_lost(webhook, 1, 0, state=State.SENDING, lease_until=AGO, due_at=AGO)
    QueuedDelivery.objects.release() if end == "released" else sweep_step(sweep.expire_leases)
    delivery.refresh_from_db()
    assert (delivery.state, delivery.next_attempt_at) == (State.PENDING, AGO)


@pytest.mark.parametrize(
    ("schedule", "fields", "expected"),
    [
        ([60], {}, [State.PENDING, State.WAITING]),
        ([], {}, [State.FAILED, State.PENDING]),
        ([60], {"in_lane": False}, [State.PENDING, State.WAITING]),
    ],
    ids=["scheduled", "given up", "beside its lane"],
)
def test_the_third_lost_lease_is_a_failed_attempt(
    webhook: Webhook, webhooks_settings: Any, schedule: list[int], fields: dict[str, Any], expected: list[State]
) -> None:
    webhooks_settings(RETRY_SCHEDULE=schedule, RETRY_JITTER=0)
    lost = make_delivery(webhook, State.SENDING, lost_leases=2, lease_until=AGO, attempt_count=4, failures=3, **fields)
    make_delivery(webhook, State.WAITING)
    assert sweep_step(sweep.expire_leases) == 1
    assert states() == expected
    lost.refresh_from_db()
    assert (lost.lost_leases, lost.attempt_count, lost.queued.failures, lost.reason) == (
        0,
        5,
        3,
        ErrorKind.WORKER_ENDED.label,
    )
    due_at = lost.next_attempt_at
    assert (due_at is not None and due_at > timezone.now() + timedelta(seconds=50)) == bool(schedule)
    [attempt] = lost.attempts.all()
    assert (attempt.number, attempt.succeeded, attempt.reason, attempt.status) == (
        5,
        False,
        ErrorKind.WORKER_ENDED.label,
        None,
    )
    assert attempt.started_at == AGO
    webhook.refresh_from_db()
    assert (webhook.failures_in_a_row, webhook.last_failure) == (0, ""), "the receiver has not failed"


def test_attempts_that_end_workers_follow_the_schedule_by_themselves(webhook: Webhook, webhooks_settings: Any) -> None:
    webhooks_settings(RETRY_SCHEDULE=[60, 600], RETRY_JITTER=0)
    lost = make_delivery(webhook, State.PENDING, attempt_count=7, failures=1)
    make_attempt(lost, number=7, error_kind="http_503")
    waits = []
    for _ in range(3):
        worker = Worker.objects.create(token=uuid.uuid4(), lease_until=AGO)
        QueuedDelivery.objects.update(state=State.SENDING, claim=worker.pk, lost_leases=2)
        assert sweep_step(sweep.expire_leases) == 1
        lost = Delivery.objects.get()
        assert lost.queued.failures == 1
        due_at = lost.next_attempt_at
        waits.append(round((due_at - timezone.now()).total_seconds(), -1) if due_at else None)
    assert waits == [60, 600, None], "a delivery that always ends its worker is given up"
    assert states() == [State.FAILED]


def test_the_third_lost_lease_is_recorded_without_time_zones(webhook: Webhook, settings: Any) -> None:
    settings.USE_TZ, settings.TIME_ZONE = False, "Asia/Kathmandu"
    ago = datetime.now(UTC) - timedelta(seconds=9)
    make_delivery(webhook, State.SENDING, lost_leases=2, lease_until=ago)
    assert sweep_step(sweep.expire_leases) == 1
    assert to_utc(Attempt.objects.get().started_at) == ago


def test_workers_that_end_pause_no_webhook(webhook: Webhook, webhooks_settings: Any) -> None:
    webhooks_settings(PAUSE_AFTER=2)
    make_lost(webhook, 5, 2, state=State.SENDING, lease_until=AGO)
    assert sweep_step(sweep.expire_leases) == 5
    webhook.refresh_from_db()
    assert (webhook.probe_at, webhook.failures_in_a_row, webhook.enabled) == (None, 0, True)


def test_a_lost_lease_of_a_webhook_that_is_being_deleted_is_no_attempt(webhook: Webhook) -> None:
    make_lost(webhook, 1, 2, state=State.SENDING, lease_until=AGO)
    Webhook.objects.all().delete()
    assert sweep_step(sweep.expire_leases) == 1
    assert states() == [State.PENDING]
    assert not Attempt.objects.exists()


def test_a_record_and_a_retry_clear_a_delivery_of_suspicion(webhook: Webhook, inbox: Inbox) -> None:
    [delivered] = make_lost(webhook, 1, 1)
    [failed] = make_lost(make_webhook(Thing, url=inbox.url("status/500")), 1, 2)
    [given_up] = make_lost(webhook, 1, 2, state=State.DISCARDED)
    drain()
    Delivery.objects.filter(pk=given_up.pk).retry("a test")
    for delivery, state in ((delivered, State.SUCCEEDED), (failed, State.PENDING), (given_up, State.PENDING)):
        delivery.refresh_from_db()
        assert (delivery.state, delivery.lost_leases) == (state, 0)


@pytest.mark.parametrize(("lost", "shown"), [(0, ""), (1, "1 worker ended"), (2, "2 workers ended")])
def test_the_page_of_a_delivery_names_lost_leases(
    webhook: Webhook, admin_client: Client, lost: int, shown: str
) -> None:
    [delivery] = make_lost(webhook, 1, lost)
    page = admin_client.get(reverse("admin:rq_webhooks_delivery_change", args=[delivery.pk])).content.decode()
    assert shown in page
    assert ("while sending it" in page) == bool(lost)


# Sending


def test_webhooks_that_may_claim_nothing_leave_their_share_to_the_others(
    webhook: Webhook,
    runner: DeliveryRunner,
    claims: WorkerClaims,
    webhooks_settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Receivers that hang, for example, or whose answers are costly. With a share for each, a worker claimed a
    twentieth of a batch of the healthy one at a time."""
    webhooks_settings(BATCH=40)
    hung = [make_webhook(Thing, url=webhook.payload_url) for _ in range(19)]
    for one in hung:
        make_lost(one, 1, 0)
    make_lost(webhook, 50, 0)
    full = {one.pk for one in hung}
    monkeypatch.setattr(runner._sender, "capacity", lambda pk, share: 0 if pk in full else share)
    assert claims.claim_due() == 40


def test_a_worker_holds_few_suspects_at_a_time_among_other_deliveries(
    webhook: Webhook, runner: DeliveryRunner, claims: WorkerClaims
) -> None:
    other = make_webhook(Thing, url=webhook.payload_url)
    for number in range(30):
        make_lost(webhook if number % 2 else other, 1, lost_leases=2 if number % 10 == 0 else 1)
    make_lost(webhook, 30, 0)
    seen: list[list[int]] = []

    def all_succeed() -> bool:
        claims.claim_due()
        claims.renew()
        seen.append(held_by(claims))
        runner._wait(0.01)
        runner._take_steps(Aim.WORK, Step.WAIT, until=Step.SWEEP)
        return set(states()) == {State.SUCCEEDED}

    until(all_succeed, 30, "all to succeed")
    assert max(held.count(1) for held in seen) == 10
    assert max(held.count(2) for held in seen) == 1
    assert any(held.count(0) and sum(held) for held in seen), "a suspect stopped the others"


@pytest.mark.parametrize(("due", "taken"), [([1], [1]), ([2], [2]), ([2, 0], [0]), ([1, 0], [0])])
def test_the_probe_of_a_paused_webhook_is_a_suspect_only_if_nothing_else_is_due(
    webhook: Webhook, claims: WorkerClaims, due: list[int], taken: list[int]
) -> None:
    for lost in due:
        make_lost(webhook, 1, lost)
    Webhook.objects.update(probe_at=AGO, failures_in_a_row=9)
    claims.claim_due()
    assert held_by(claims) == taken
    webhook.refresh_from_db()
    assert webhook.probes == 1
    assert claims.claim_due() == 0


def test_a_probe_before_its_delivery_is_due_leaves_the_turn_to_new_events(
    webhook: Webhook, claims: WorkerClaims
) -> None:
    make_delivery(webhook, failures=1, due_at=timezone.now() + timedelta(hours=1))
    Webhook.objects.update(probe_at=AGO, failures_in_a_row=9)
    assert (claims.claim_due(), claims.has_early) == (0, True)
    assert (claims.claim_due(takes_early=True), claims.has_early) == (1, False)


def test_a_probe_is_due_again_if_its_worker_may_claim_nothing(webhook: Webhook, claims: WorkerClaims) -> None:
    """The lease of the worker has ended meanwhile."""
    make_lost(webhook, 1, 0)
    with claims.claiming():
        pass
    Worker.objects.all().delete()
    Webhook.objects.update(probe_at=AGO, failures_in_a_row=9)
    assert claims.claim_due() == 0
    webhook.refresh_from_db()
    assert webhook.probe_at is not None
    assert (webhook.probes, webhook.probe_at <= timezone.now()) == (0, True)


def test_after_deliveries_could_not_be_handed_back_their_lease_is_not_renewed(
    webhook: Webhook, claims: WorkerClaims, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_lost(webhook, 1, 0)
    claims.claim_due()
    with monkeypatch.context() as patch, pytest.raises(OperationalError):
        patch.setattr("webhooks.delivery.claims.atomically", Mock(side_effect=OperationalError("the server is away")))
        claims.hand_back(list(claims.claimed.values()))
    Worker.objects.update(lease_until=AGO)
    claims._renewed -= conf.lease
    claims.renew()
    assert sweep_step(sweep.expire_leases) == 1
    assert states() == [State.PENDING]
