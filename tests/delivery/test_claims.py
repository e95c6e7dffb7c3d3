"""Suspects, which may have killed their worker: few at once, then alone, and in the end a failed attempt."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from tests.support.draining import drain, states
from tests.support.inbox import Inbox
from tests.support.makers import make_delivery, make_webhook
from tests.testapp.models import Thing
from webhooks.delivery import maintenance
from webhooks.delivery.claims import FEW_SUSPECTS, SoloTurn, WorkerClaims
from webhooks.delivery.worker import DeliveryRunner
from webhooks.models import Attempt, Delivery, State, Webhook
from webhooks.network.outcome import WORKER_ENDED

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
    return sorted(claimed.lost_leases for claimed in claims.held.values())


# Counting


def test_a_lease_that_ends_without_a_record_is_counted_and_a_released_one_is_not(webhook: Webhook) -> None:
    for lost in (0, 1):
        make_lost(webhook, 1, lost, state=State.SENDING, lease_until=AGO)
    [handed_back] = make_lost(webhook, 1, 1, state=State.SENDING)
    Delivery.objects.filter(pk=handed_back.pk).release()
    assert maintenance.expire_leases() == 2
    assert list(Delivery.objects.order_by("event_id").values_list("state", "lost_leases", "attempt_count")) == [
        (State.PENDING, 1, 0), (State.PENDING, 2, 0), (State.PENDING, 1, 0),
    ]  # fmt: skip
    assert not Attempt.objects.exists()


@pytest.mark.parametrize("end", ["released", "lost"])
def test_a_delivery_keeps_its_place_when_its_claim_ends(webhook: Webhook, end: str) -> None:
    [delivery] = make_lost(webhook, 1, 0, state=State.SENDING, lease_until=AGO, next_attempt_at=AGO)
    Delivery.objects.release() if end == "released" else maintenance.expire_leases()
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
    lost = make_delivery(webhook, State.SENDING, lost_leases=2, lease_until=AGO, attempt_count=4, failures=0, **fields)
    make_delivery(webhook, State.WAITING)
    assert maintenance.expire_leases() == 1
    assert states() == expected
    lost.refresh_from_db()
    assert (lost.lost_leases, lost.attempt_count, lost.failures, lost.reason) == (0, 5, 1, WORKER_ENDED)
    assert (lost.next_attempt_at > timezone.now() + timedelta(seconds=50)) == bool(schedule)
    [attempt] = lost.attempts.all()
    assert (attempt.number, attempt.succeeded, attempt.reason, attempt.status) == (5, False, WORKER_ENDED, None)
    assert attempt.started_at == AGO
    webhook.refresh_from_db()
    assert (webhook.failures_in_a_row, webhook.last_failure) == (1, WORKER_ENDED)


def test_a_webhook_whose_deliveries_end_workers_is_paused(webhook: Webhook, webhooks_settings: Any) -> None:
    webhooks_settings(PAUSE_AFTER=2)
    webhook.body_template = "{{ data.id }}"
    webhook.save()
    make_lost(webhook, 2, 2, state=State.SENDING, lease_until=AGO)
    assert maintenance.expire_leases() == 2
    webhook.refresh_from_db()
    assert webhook.probe_at
    assert webhook.last_failure == WORKER_ENDED


def test_a_lost_lease_of_a_webhook_that_is_being_deleted_is_no_attempt(webhook: Webhook) -> None:
    make_lost(webhook, 1, 2, state=State.SENDING, lease_until=AGO)
    Webhook.objects.all().mark_deleted()
    assert maintenance.expire_leases() == 1
    assert states() == [State.PENDING]
    assert not Attempt.objects.exists()


def test_a_record_and_a_retry_clear_a_delivery_of_suspicion(webhook: Webhook, inbox: Inbox) -> None:
    [delivered] = make_lost(webhook, 1, 1)
    [failed] = make_lost(make_webhook(Thing, url=inbox.url("status/500")), 1, 2)
    [given_up] = make_lost(webhook, 1, 2, state=State.DISCARDED)
    drain()
    Delivery.objects.filter(pk=given_up.pk).retry()
    for delivery, state in ((delivered, State.SUCCEEDED), (failed, State.PENDING), (given_up, State.PENDING)):
        delivery.refresh_from_db()
        assert (delivery.state, delivery.lost_leases) == (state, 0)


@pytest.mark.parametrize(("lost", "shown"), [(0, ""), (1, "1 worker ended"), (2, "2 workers ended")])
def test_the_page_of_a_delivery_names_lost_leases(
    webhook: Webhook, admin_client: Client, lost: int, shown: str
) -> None:
    [delivery] = make_lost(webhook, 1, lost)
    page = admin_client.get(reverse("admin:webhooks_delivery_change", args=[delivery.pk])).content.decode()
    assert shown in page
    assert ("while sending it" in page) == bool(lost)


# Sending


def test_a_worker_holds_few_suspects_among_other_deliveries(webhook: Webhook, claims: WorkerClaims) -> None:
    make_lost(webhook, 30, 1)
    make_lost(webhook, 30, 0)
    claims.claim_due()
    claims.claim_due()
    assert held_by(claims).count(1) == FEW_SUSPECTS
    assert held_by(claims).count(0) > 0


def test_webhooks_share_the_capacity_for_suspects(claims: WorkerClaims, inbox: Inbox) -> None:
    webhooks = [make_webhook(Thing, url=inbox.url("hang"), timeout=1) for _ in range(2)]
    make_lost(webhooks[0], 30, 1)
    make_lost(webhooks[1], 3, 1)
    claims.claim_due()
    held = [claimed.webhook.pk for claimed in claims.held.values()]
    assert [held.count(webhook.pk) for webhook in webhooks] == [FEW_SUSPECTS // 2, 3]


@pytest.mark.parametrize("ordered", [True, False])
def test_a_delivery_that_lost_two_leases_goes_alone_and_others_have_turns_between(
    webhook: Webhook, runner: DeliveryRunner, claims: WorkerClaims, ordered: bool
) -> None:
    other = make_webhook(Thing, url=webhook.payload_url, ordered=ordered)
    make_lost(webhook, 20, 0)
    make_lost(other, 3, 2, in_lane=ordered)
    make_lost(other, 5, 1, in_lane=ordered)
    seen: list[list[int]] = []
    deadline = time.monotonic() + 30
    while Delivery.objects.exclude(state=State.SUCCEEDED).exists() and time.monotonic() < deadline:
        claims.claim_due()
        claims.renew()
        runner._collect(0.01, claim_next=True)
        if claims.held and (not seen or held_by(claims) != seen[-1]):
            seen.append(held_by(claims))
    assert states() == [State.SUCCEEDED] * 28
    alone = [number for number, held in enumerate(seen) if 2 in held]
    assert all(seen[number] == [2] for number in alone), seen
    assert alone[0] == 0, "nothing else was under way yet"
    assert any(second - first > 1 for first, second in itertools.pairwise(alone)), seen


def test_nothing_else_is_claimed_during_a_solo_turn(webhook: Webhook, claims: WorkerClaims) -> None:
    make_lost(webhook, 1, 2)
    assert claims.claim_due() == 1
    assert claims.claim_for({webhook.pk: 1}) is None
    make_lost(webhook, 1, 0)
    assert claims.claim_due() == 0


@pytest.mark.parametrize(("due", "taken"), [([1], [1]), ([2], [2]), ([2, 0], [0]), ([2, 1, 0], [0])])
def test_the_probe_of_a_paused_webhook_takes_the_least_suspicious(
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


def test_other_deliveries_get_as_much_time_as_a_solo_turn_took() -> None:
    solo = SoloTurn()

    def begins(now: float, is_due: bool = True, others: bool = True, is_idle: bool = True) -> bool:
        solo.update(now, is_due, others, is_idle)
        return solo.is_on

    assert not begins(99, is_due=False)
    assert begins(100, is_idle=False)
    solo.claimed()
    assert begins(103, is_idle=False)
    assert not begins(104, is_idle=True), "it took 4 s"
    assert not begins(107.9)
    assert begins(107.9, others=False), "nothing else is to be done"
    assert not begins(108, is_due=False), "another worker has it"
    assert begins(108)
