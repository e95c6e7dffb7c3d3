"""The states and the ids of deliveries."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone

from tests.support.draining import states
from tests.support.makers import make_delivery, make_webhook
from tests.support.threads import Beside
from tests.testapp.models import Thing
from webhooks.db import DatabaseNow, delivery_id, execute, new_id
from webhooks.delivery import outcomes
from webhooks.delivery.outcomes import Transition
from webhooks.models import Delivery, State, Webhook, claims
from webhooks.models.claims import Claim
from webhooks.models.delivery import ENDED_STATES, OPEN_STATES

pytestmark = pytest.mark.usefixtures("database")


USING = "default"


@pytest.fixture
def webhook(database: str) -> Webhook:
    return make_webhook(Thing)


def state_of(delivery: Delivery) -> str:
    return Delivery.objects.get(pk=delivery.pk).state


def due() -> QuerySet[Delivery]:
    return Delivery.objects.filter(state=State.PENDING, next_attempt_at__lte=DatabaseNow())


def claim(webhook: Webhook, most: int = 100, lease: float = 15) -> tuple[list[uuid.UUID], uuid.UUID]:
    token = uuid.uuid4()
    return [one.id for one in claims.claim(Delivery.objects.db, {webhook.pk: most}, Claim(token, lease))], token


def record(delivery: Delivery, state: State, wait: float = 0, token: uuid.UUID | None = None) -> bool:
    token = token or Delivery.objects.get(pk=delivery.pk).claim or uuid.uuid4()
    with transaction.atomic():
        transition = Transition(delivery.pk, token, state, int(state != State.SUCCEEDED), wait, "why")
        return bool(outcomes.move_on(USING, [transition]))


CHANGES: dict[str, Callable[[Delivery], Any]] = {
    "claim": lambda delivery: claim(delivery.webhook),
    "succeed": lambda delivery: record(delivery, State.SUCCEEDED),
    "fail": lambda delivery: record(delivery, State.FAILED),
    "postpone": lambda delivery: record(delivery, State.PENDING, wait=60),
    "release": lambda delivery: Delivery.objects.filter(pk=delivery.pk).release(),
    "retry": lambda delivery: Delivery.objects.filter(pk=delivery.pk).retry(),
    "discard": lambda delivery: Delivery.objects.filter(pk=delivery.pk).discard(),
    "promote": lambda delivery: claims.promote(Delivery.objects.db, [delivery.pk]),
}


# The state after each change. Pairs that are not here leave the state unchanged.
LEADS_TO = {
    ("pending", "claim"): "sending",
    ("sending", "succeed"): "succeeded",
    ("sending", "fail"): "failed",
    ("sending", "postpone"): "pending",
    ("sending", "release"): "pending",
    ("failed", "retry"): "pending",
    ("discarded", "retry"): "pending",
    ("waiting", "discard"): "discarded",
    ("pending", "discard"): "discarded",
    ("failed", "discard"): "discarded",
    ("waiting", "promote"): "pending",
}


@pytest.mark.parametrize("state", State.values)
@pytest.mark.parametrize("change", CHANGES)
def test_each_change_affects_only_the_states_it_is_for(webhook: Webhook, state: str, change: str) -> None:
    delivery = make_delivery(webhook, State(state))
    CHANGES[change](delivery)
    assert state_of(delivery) == LEADS_TO.get((state, change), state)


def test_every_state_except_succeeded_can_be_left() -> None:
    assert {state for state, _ in LEADS_TO} | {"succeeded"} == set(State.values)
    assert set(OPEN_STATES) | set(ENDED_STATES) == set(State)


def test_only_ended_deliveries_have_a_finish_time(webhook: Webhook) -> None:
    for state in (State.SUCCEEDED, State.FAILED):
        delivery = make_delivery(webhook, State.SENDING, object_id=state)
        record(delivery, state)
        delivery.refresh_from_db()
        assert delivery.finished_at is not None
        assert (delivery.claim, delivery.lease_until, delivery.attempt_count) == (None, None, 1)
    delivery = make_delivery(webhook, State.PENDING, object_id="discarded")
    Delivery.objects.filter(pk=delivery.pk).discard()
    delivery.refresh_from_db()
    assert delivery.finished_at is not None
    Delivery.objects.filter(pk=delivery.pk).retry()
    delivery.refresh_from_db()
    assert delivery.finished_at is None


def test_the_database_refuses_a_second_head(webhook: Webhook) -> None:
    make_delivery(webhook, State.PENDING)
    with pytest.raises(IntegrityError), transaction.atomic():
        make_delivery(webhook, State.SENDING)
    make_delivery(webhook, State.PENDING, in_lane=False)
    make_delivery(webhook, State.PENDING, object_id="2")


# Claims


def test_a_claim_takes_the_longest_due_first_up_to_its_capacity(webhook: Webhook) -> None:
    now = timezone.now()
    due = [
        make_delivery(webhook, object_id=str(age), next_attempt_at=now - timedelta(seconds=age)) for age in (3, 9, 6, 1)
    ]
    make_delivery(webhook, object_id="later", next_attempt_at=now + timedelta(seconds=60))
    ids, token = claim(webhook, most=3)
    assert set(ids) == {due[1].pk, due[2].pk, due[0].pk}
    assert set(Delivery.objects.held(token).values_list("pk", flat=True)) == set(ids)
    assert all(delivery.lease_until > now + timedelta(seconds=10) for delivery in Delivery.objects.held(token))


def test_a_claim_takes_deliveries_of_its_webhooks_only(webhook: Webhook) -> None:
    other = make_webhook(Thing)
    make_delivery(webhook)
    make_delivery(other)
    assert len(claims.claim(Delivery.objects.db, {webhook.pk: 5, 10**9: 5}, Claim(uuid.uuid4(), 15))) == 1
    assert states().count(State.PENDING) == 1


def test_an_empty_claim_takes_nothing(webhook: Webhook) -> None:
    make_delivery(webhook)
    assert claims.claim(Delivery.objects.db, {}, Claim(uuid.uuid4(), 15)) == []
    assert claims.claim(Delivery.objects.db, {webhook.pk: 0}, Claim(uuid.uuid4(), 15)) == []


def test_concurrent_workers_never_claim_the_same_delivery(webhook: Webhook) -> None:
    for number in range(200):
        make_delivery(webhook, object_id=str(number))

    def work() -> list[uuid.UUID]:
        taken: list[uuid.UUID] = []
        while ids := claim(webhook, most=5)[0]:
            taken += ids
        return taken

    shares = [worker.join(60) for worker in [Beside(work) for _ in range(4)]]
    together = [pk for share in shares for pk in share]
    assert len(together) == len(set(together)) == 200


@pytest.mark.postgresql
def test_a_claim_skips_rows_that_another_worker_has_locked(webhook: Webhook) -> None:
    locked, free = (make_delivery(webhook, object_id=object_id) for object_id in ("1", "2"))
    with transaction.atomic():
        list(Delivery.objects.select_for_update().filter(pk=locked.pk))
        assert Beside(lambda: claim(webhook)[0]).join(5) == [free.pk]


# Leases


def test_a_lease_is_renewed_from_now(webhook: Webhook) -> None:
    delivery = make_delivery(webhook, State.SENDING, lease_until=timezone.now() + timedelta(seconds=1))
    assert Delivery.objects.filter(pk=delivery.pk).renew(30) == 1
    assert not Delivery.objects.expired().exists()
    delivery.refresh_from_db()
    assert delivery.lease_until > timezone.now() + timedelta(seconds=25)


def test_a_worker_that_lost_its_claim_records_nothing(webhook: Webhook) -> None:
    delivery = make_delivery(webhook)
    _, stalled = claim(webhook)
    Delivery.objects.filter(pk=delivery.pk).update(lease_until=timezone.now() - timedelta(seconds=1))
    assert Delivery.objects.expired().count() == 1
    Delivery.objects.expired().release()
    _, second = claim(webhook)
    assert not record(delivery, State.FAILED, token=stalled)
    assert state_of(delivery) == State.SENDING
    assert record(delivery, State.SUCCEEDED, token=second)
    assert not record(delivery, State.FAILED, token=stalled)
    delivery.refresh_from_db()
    assert (delivery.state, delivery.attempt_count, delivery.failures) == (State.SUCCEEDED, 1, 0)


def test_a_released_claim_does_not_count_as_an_attempt(webhook: Webhook) -> None:
    delivery = make_delivery(webhook)
    claim(webhook)
    Delivery.objects.filter(pk=delivery.pk).release()
    delivery.refresh_from_db()
    assert (delivery.state, delivery.attempt_count, delivery.failures, delivery.claim) == (State.PENDING, 0, 0, None)
    assert list(due()) == [delivery]


def test_a_failed_attempt_is_due_again_after_its_wait(webhook: Webhook) -> None:
    delivery = make_delivery(webhook, State.SENDING)
    record(delivery, State.PENDING, wait=100)
    delivery.refresh_from_db()
    assert (delivery.failures, delivery.attempt_count, delivery.reason) == (1, 1, "why")
    wait = (delivery.next_attempt_at - timezone.now()).total_seconds()
    assert 95 < wait <= 101
    assert not due().exists()


# Lanes


def lane(webhook: Webhook, *wanted: State) -> list[Delivery]:
    return [make_delivery(webhook, state) for state in wanted]


def test_the_next_delivery_becomes_the_head(webhook: Webhook) -> None:
    head, *_ = lane(webhook, State.SENDING, State.WAITING, State.WAITING)
    record(head, State.SUCCEEDED)
    claims.promote(Delivery.objects.db, [head.pk])
    assert states() == [State.SUCCEEDED, State.PENDING, State.WAITING]


def test_a_promotion_changes_nothing_if_there_is_a_head(webhook: Webhook) -> None:
    deliveries = lane(webhook, State.SENDING, State.WAITING)
    claims.promote(Delivery.objects.db, [delivery.pk for delivery in deliveries])
    assert states() == [State.SENDING, State.WAITING]


def test_a_promotion_with_a_claim_skips_disabled_and_paused_webhooks(webhook: Webhook) -> None:
    stopped, paused = make_webhook(Thing, enabled=False), make_webhook(Thing, probe_at=timezone.now())
    for one in (webhook, stopped, paused):
        lane(one, State.SUCCEEDED, State.WAITING)
    token = uuid.uuid4()
    with transaction.atomic():
        taken = claims.promote(USING, list(Delivery.objects.values_list("pk", flat=True)), Claim(token, 15))
    assert [one.webhook_id for one in taken] == [webhook.pk]
    assert [one.deliveries.order_by("event_id").last().state for one in (webhook, stopped, paused)] == [
        State.SENDING,
        State.PENDING,
        State.PENDING,
    ]


def test_a_retried_delivery_goes_before_later_ones_of_its_lane(webhook: Webhook) -> None:
    failed, head, waiting = lane(webhook, State.FAILED, State.PENDING, State.WAITING)
    assert Delivery.objects.failed().retry() == 1
    assert states() == [State.WAITING, State.PENDING, State.WAITING]
    claim(webhook)
    record(head, State.SUCCEEDED)
    claims.promote(Delivery.objects.db, [head.pk])
    assert states() == [State.PENDING, State.SUCCEEDED, State.WAITING]
    assert failed.event_id < waiting.event_id


def test_a_retried_delivery_starts_its_schedule_again(webhook: Webhook) -> None:
    delivery = make_delivery(webhook, State.FAILED, failures=9, attempt_count=9)
    Delivery.objects.failed().retry()
    delivery.refresh_from_db()
    assert (delivery.state, delivery.failures, delivery.attempt_count) == (State.PENDING, 0, 9)
    assert list(due()) == [delivery]


def test_several_deliveries_of_one_lane_can_be_retried_together(webhook: Webhook) -> None:
    lane(webhook, State.FAILED, State.DISCARDED, State.FAILED)
    assert Delivery.objects.all().retry() == 3
    assert states() == [State.PENDING, State.WAITING, State.WAITING]


def test_retried_deliveries_of_an_unordered_webhook_are_all_pending(database: str) -> None:
    unordered = make_webhook(Thing, ordered=False)
    for _ in range(3):
        make_delivery(unordered, State.FAILED, in_lane=False)
    assert Delivery.objects.all().retry() == 3
    assert states() == [State.PENDING] * 3


@pytest.mark.parametrize("place", [0, 1, 2])
def test_deliveries_behind_a_discarded_one_move_up(webhook: Webhook, place: int) -> None:
    deliveries = lane(webhook, State.PENDING, State.WAITING, State.WAITING)
    assert Delivery.objects.filter(pk=deliveries[place].pk).discard() == 1
    left = [state_of(delivery) for number, delivery in enumerate(deliveries) if number != place]
    assert left == [State.PENDING, State.WAITING]


@pytest.mark.postgresql
def test_a_lane_continues_if_the_next_delivery_is_discarded_as_the_head_ends(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, following, _ = lane(webhook, State.SENDING, State.WAITING, State.WAITING)
    is_discarded, may_go_on = threading.Event(), threading.Event()
    promote = claims.promote

    def promote_later(using: str, deliveries: list[uuid.UUID]) -> None:
        is_discarded.set()
        assert may_go_on.wait(60)
        promote(using, deliveries)

    def end() -> None:
        with transaction.atomic():
            outcomes.move_on(USING, [Transition(head.pk, head.claim, State.SUCCEEDED, 0, 0, "")])
            promote(USING, [head.pk])

    monkeypatch.setattr(claims, "promote", promote_later)
    discarding = Beside(Delivery.objects.filter(pk=following.pk).discard)
    assert is_discarded.wait(60)
    ending = Beside(end)
    ending.wait_until_blocked_or_done()
    may_go_on.set()
    discarding.join()
    ending.join()
    assert states() == [State.SUCCEEDED, State.DISCARDED, State.PENDING]


def test_a_whole_lane_can_be_discarded_except_the_delivery_being_sent(webhook: Webhook) -> None:
    lane(webhook, State.SENDING, State.WAITING, State.WAITING)
    assert Delivery.objects.all().discard() == 2
    assert states() == [State.SENDING, State.DISCARDED, State.DISCARDED]


def test_a_head_that_leaves_its_lane_is_still_retried(webhook: Webhook) -> None:
    head, _ = lane(webhook, State.PENDING, State.WAITING)
    Delivery.objects.filter(pk=head.pk).leave_lane()
    claims.promote(Delivery.objects.db, [head.pk])
    assert states() == [State.PENDING, State.PENDING]
    assert len(claim(webhook)[0]) == 2


def test_concurrent_retries_and_sends_never_create_two_heads(webhook: Webhook) -> None:
    for _ in range(3):
        lane(webhook, *[State.FAILED] * 10)

    def retry() -> None:
        for pk in Delivery.objects.values_list("pk", flat=True):
            Delivery.objects.filter(pk=pk).retry()

    def send() -> None:
        for _ in range(60):
            ids, token = claim(webhook)
            for pk in ids:
                with transaction.atomic():
                    outcomes.move_on(USING, [Transition(pk, token, State.SUCCEEDED, 0, 0, "")])
                    claims.promote(USING, [pk])

    for thread in [Beside(retry), Beside(retry), Beside(send), Beside(send)]:
        thread.join(60)
    send()
    assert states() == [State.SUCCEEDED] * 30


@pytest.mark.postgresql
def test_a_promotion_uses_the_index_of_heads(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(USING, "TRUNCATE webhooks_delivery CASCADE")  # resets the statistics that the planner goes by
    asked: list[tuple[str, Any]] = []
    fetch_all = claims.fetch_all

    def listen(using: str, sql: str, params: Any) -> Any:
        asked.append((sql, params))
        return fetch_all(using, sql, params)

    monkeypatch.setattr(claims, "fetch_all", listen)
    assert Delivery.objects.filter(pk=make_delivery(webhook, State.FAILED).pk).retry() == 1
    [(promotion, params)] = [one for one in asked if "UPDATE webhooks_delivery" in one[0]]
    plan = "\n".join(line for (line,) in fetch_all(USING, f"EXPLAIN {promotion}", params))
    assert "webhooks_delivery_one_head" in plan
    assert "Anti Join" not in plan


def test_an_id_is_a_version_7_uuid_of_now() -> None:
    before = time.time_ns() // 1_000_000
    one = new_id()
    after = time.time_ns() // 1_000_000
    assert one.version == 7
    assert one.variant == "specified in RFC 4122"
    assert before <= one.int >> 80 <= after


def test_ids_are_unique_and_ordered_by_time() -> None:
    ids = [new_id() for _ in range(10_000)]
    assert len(set(ids)) == len(ids)
    stamps = [one.int >> 80 for one in ids]
    assert stamps == sorted(stamps)


def test_later_ids_sort_after_earlier_ones() -> None:
    first = new_id()
    time.sleep(0.002)
    assert str(new_id()) > str(first)


def test_the_id_of_a_delivery_depends_on_its_event_and_webhook_only() -> None:
    moment = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
    one = delivery_id(moment, 5, 7)
    assert one.version == 7
    assert one.int >> 80 == int(moment.timestamp() * 1000)
    assert one == delivery_id(moment, 5, 7)
    others = {delivery_id(moment, event, webhook) for event in range(100) for webhook in range(100)}
    assert len(others) == 10_000


@pytest.mark.parametrize(("event", "webhook", "later"), [(51, 7, 0), (5, 17, 0), (5, 7, 1)])
def test_other_deliveries_have_other_ids(event: int, webhook: int, later: int) -> None:
    moment = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
    assert delivery_id(moment, 5, 7) != delivery_id(moment + timedelta(milliseconds=later), event, webhook)
