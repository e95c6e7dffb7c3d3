"""The states of deliveries, their claims, leases and lanes."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models import QuerySet
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.support.draining import states, sweep_step
from tests.support.makers import make_attempt, make_delivery, make_event, make_webhook
from tests.support.threads import Beside
from tests.testapp.models import Thing
from webhooks.delivery import outcomes, sweep
from webhooks.delivery.claims import load_claimed
from webhooks.ground.db import DatabaseNow, atomically, execute, fetch_all, to_uuid
from webhooks.ground.outcome import Outcome
from webhooks.ground.payloads import bodies_by_webhook
from webhooks.models import Delivery, QueuedDelivery, State, Webhook, Worker, lanes
from webhooks.models.lanes import Place
from webhooks.models.queue import CLAIMED_COLUMNS, ENDED_STATES, HEAD_STATES, OPEN_STATES, ClaimedRow, Transition
from webhooks.models.worker import begin_transaction

pytestmark = pytest.mark.usefixtures("database")


USING = "default"


@pytest.fixture
def webhook(database: str) -> Webhook:
    return make_webhook(Thing)


def state_of(delivery: Delivery) -> str:
    return Delivery.objects.get(pk=delivery.pk).state


def due() -> QuerySet[QueuedDelivery]:
    return QueuedDelivery.objects.filter(state=State.PENDING, due_at__lte=DatabaseNow())


def claim(webhook: Webhook, most: int = 100) -> tuple[list[uuid.UUID], uuid.UUID]:
    token = Worker.objects.register("test")
    with transaction.atomic():
        chosen = {one: most for one in QueuedDelivery.objects.due_webhooks() if one.id == webhook.pk}
        return [one.id for one in QueuedDelivery.objects.claim(chosen, token)], token


def record(delivery: Delivery, state: State, wait: float = 0, token: uuid.UUID | None = None) -> bool:
    held = QueuedDelivery.objects.filter(pk=delivery.pk).exclude(claim=None).first()
    token = token or (held.claim if held else None) or uuid.uuid4()
    with transaction.atomic():
        return bool(Delivery.objects.move_on([Transition(delivery.pk, state, wait, "why")], [token]))


def promote(*ended: Delivery, token: uuid.UUID | None = None) -> list[ClaimedRow]:
    places = [Place(one.webhook_id, one.lane, one.event_id) for one in ended if one.lane is not None]
    with transaction.atomic():
        lanes.lock(USING, (place.lane for place in places))
        return lanes.promote(USING, places, token)


def queued(delivery: Delivery) -> QuerySet[QueuedDelivery]:
    return QueuedDelivery.objects.filter(pk=delivery.pk)


CHANGES: dict[str, Callable[[Delivery], Any]] = {
    "claim": lambda delivery: claim(delivery.webhook),
    "succeed": lambda delivery: record(delivery, State.SUCCEEDED),
    "fail": lambda delivery: record(delivery, State.FAILED),
    "postpone": lambda delivery: record(delivery, State.PENDING, wait=60),
    "release": lambda delivery: queued(delivery).release(),
    "retry": lambda delivery: Delivery.objects.filter(pk=delivery.pk).retry("a test"),
    "discard": lambda delivery: Delivery.objects.filter(pk=delivery.pk).discard(),
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
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_affects_only_the_states_it_is_for(webhook: Webhook, change: str) -> None:
    found = {}
    for state in State:
        delivery = make_delivery(webhook, state, object_id=state)
        CHANGES[change](delivery)
        found[state.value] = state_of(delivery)
    assert found == {state: LEADS_TO.get((state, change), state) for state in State.values}
    if connection.vendor == "sqlite":
        return
    viewed = fetch_all(USING, "SELECT id, state, attempts FROM rq_webhooks_delivery_state")
    rows = Delivery.objects.select_related("queued")
    assert {(to_uuid(pk), *rest) for pk, *rest in viewed} == {(one.pk, one.state, one.attempt_count) for one in rows}


def test_every_state_except_succeeded_can_be_left() -> None:
    assert {state for state, _ in LEADS_TO} | {"succeeded"} == set(State.values)
    assert set(OPEN_STATES) | set(ENDED_STATES) == set(State)


def test_only_ended_deliveries_have_a_finish_time(webhook: Webhook) -> None:
    for state in (State.SUCCEEDED, State.FAILED):
        delivery = make_delivery(webhook, State.SENDING, object_id=state)
        record(delivery, state)
        make_attempt(delivery, number=1)
        delivery = Delivery.objects.get(pk=delivery.pk)
        assert delivery.finished_at is not None
        assert (delivery.outcome, delivery.attempt_count) == (state, 1)
        assert not queued(delivery).exclude(claim=None).exists()
    delivery = make_delivery(webhook, State.PENDING, object_id="discarded")
    Delivery.objects.filter(pk=delivery.pk).discard()
    delivery.refresh_from_db()
    assert delivery.finished_at is not None
    Delivery.objects.filter(pk=delivery.pk).retry("a test")
    delivery.refresh_from_db()
    assert delivery.finished_at is None


# Claims


def test_a_claim_takes_the_longest_due_first_up_to_its_capacity(webhook: Webhook) -> None:
    now = timezone.now()
    due = [make_delivery(webhook, object_id=str(age), due_at=now - timedelta(seconds=age)) for age in (3, 9, 6, 1)]
    make_delivery(webhook, object_id="later", due_at=now + timedelta(seconds=60))
    ids, token = claim(webhook, most=3)
    assert set(ids) == {due[1].pk, due[2].pk, due[0].pk}
    assert set(QueuedDelivery.objects.claimed([token]).values_list("pk", flat=True)) == set(ids)


def test_a_claim_takes_deliveries_of_its_webhooks_only(webhook: Webhook) -> None:
    other = make_webhook(Thing)
    make_delivery(webhook)
    make_delivery(other)
    assert len(claim(webhook)[0]) == 1
    assert states().count(State.PENDING) == 1


def test_an_empty_claim_takes_nothing(webhook: Webhook) -> None:
    make_delivery(webhook)
    assert QueuedDelivery.objects.claim({}, uuid.uuid4()) == []
    assert claim(webhook, most=0)[0] == []


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
        list(queued(locked).select_for_update())
        assert Beside(lambda: claim(webhook)[0]).join(5) == [free.pk]


@pytest.mark.postgresql
def test_a_look_for_due_deliveries_says_where_the_next_one_may_begin(webhook: Webhook) -> None:
    idle, paused = make_webhook(Thing), make_webhook(Thing, probe_at=timezone.now())
    due_at, later = (timezone.now() + timedelta(hours=hours) for hours in (-1, 1))
    make_delivery(webhook, due_at=due_at)
    make_delivery(paused, due_at=later)
    begins: dict[int, datetime] = {}
    QueuedDelivery.objects.due_webhooks(None, begins.__setitem__)
    assert begins[webhook.pk] == due_at
    assert due_at < begins[idle.pk] == begins[paused.pk] < later


def test_only_failed_heads_of_the_chosen_webhooks_are_hastened(webhook: Webhook) -> None:
    later = timezone.now() + timedelta(hours=1)
    hastened, _ = (make_delivery(one, due_at=later, failing_since=later) for one in (webhook, make_webhook(Thing)))
    make_delivery(webhook, due_at=later, in_lane=False)
    with transaction.atomic():
        QueuedDelivery.objects.hasten_heads([webhook.pk])
    assert due().get().pk == hastened.pk


def test_the_heads_that_have_failed_for_longest_are_hastened_first(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhooks.models.queue.MOST_HASTENED", 1)
    now, later = timezone.now(), timezone.now() + timedelta(hours=1)
    _, oldest = (
        make_delivery(webhook, object_id=str(hours), due_at=later, failing_since=now - timedelta(hours=hours))
        for hours in (1, 2)
    )
    with transaction.atomic():
        QueuedDelivery.objects.hasten_heads([webhook.pk])
    assert due().get().pk == oldest.pk


# Leases


def test_a_lease_is_renewed_from_now(webhook: Webhook) -> None:
    token, ended = Worker.objects.register("test"), uuid.uuid4()
    Worker.objects.update(lease_until=timezone.now() + timedelta(seconds=1))
    assert Worker.objects.renew([token, ended]) == {token}
    assert not Worker.objects.expired().exists()
    assert Worker.objects.get().lease_until > timezone.now() + timedelta(seconds=10)


@pytest.mark.parametrize("is_ended", [True, False])
def test_a_worker_may_claim_only_until_its_lease_is_ended(webhook: Webhook, is_ended: bool) -> None:
    token = Worker.objects.register("test")
    if is_ended:
        Worker.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
        sweep_step(sweep.expire_leases)
    with transaction.atomic():
        assert begin_transaction(USING, token) != is_ended


@pytest.mark.postgresql
def test_a_lease_is_not_ended_while_its_worker_is_claiming(webhook: Webhook) -> None:
    token = Worker.objects.register("test")
    Worker.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    with transaction.atomic():
        assert begin_transaction(USING, token)
        assert Beside(lambda: sweep_step(sweep.expire_leases)).join(5) == 0
    assert Worker.objects.exists()


def test_a_failed_attempt_is_due_again_after_its_wait(webhook: Webhook) -> None:
    delivery = make_delivery(webhook, State.SENDING)
    record(delivery, State.PENDING, wait=100)
    delivery.refresh_from_db()
    assert (delivery.queued.failures, delivery.attempt_count, delivery.reason) == (1, 1, "why")
    wait = (delivery.queued.due_at - timezone.now()).total_seconds()
    assert 95 < wait <= 101
    assert not due().exists()


# Lanes


def lane(webhook: Webhook, *wanted: State) -> list[Delivery]:
    return [make_delivery(webhook, state) for state in wanted]


def test_the_next_delivery_becomes_the_head(webhook: Webhook) -> None:
    head, *_ = lane(webhook, State.SENDING, State.WAITING, State.WAITING)
    record(head, State.SUCCEEDED)
    promote(head)
    assert states() == [State.SUCCEEDED, State.PENDING, State.WAITING]


def test_a_promotion_with_a_claim_skips_disabled_and_paused_webhooks(webhook: Webhook) -> None:
    stopped, paused = make_webhook(Thing, enabled=False), make_webhook(Thing, probe_at=timezone.now())
    for one in (webhook, stopped, paused):
        lane(one, State.SUCCEEDED, State.WAITING)
    taken = promote(*Delivery.objects.in_states(State.SUCCEEDED), token=Worker.objects.register("test"))
    assert [one.webhook_id for one in taken] == [webhook.pk]
    assert [one.deliveries.order_by("event_id").last().state for one in (webhook, stopped, paused)] == [
        State.SENDING,
        State.PENDING,
        State.PENDING,
    ]


def test_a_retried_delivery_goes_before_later_ones_of_its_lane(webhook: Webhook) -> None:
    failed, _, _ = lane(webhook, State.FAILED, State.PENDING, State.WAITING)
    assert Delivery.objects.failed().retry("a test") == 1
    assert states() == [State.PENDING, State.WAITING, State.WAITING]
    claim(webhook)
    record(failed, State.SUCCEEDED)
    promote(failed)
    assert states() == [State.SUCCEEDED, State.PENDING, State.WAITING]


def test_a_retried_delivery_waits_for_an_earlier_one_and_goes_before_a_later_one(webhook: Webhook) -> None:
    _, failed, _, _ = lane(webhook, State.PENDING, State.FAILED, State.WAITING, State.FAILED)
    assert Delivery.objects.filter(pk=failed.pk).retry("a test") == 1
    assert states() == [State.PENDING, State.WAITING, State.WAITING, State.FAILED]


def test_a_retried_delivery_goes_before_later_ones_that_have_left_their_lane(webhook: Webhook) -> None:
    failed, beside, _ = lane(webhook, State.FAILED, State.PENDING, State.PENDING)
    queued(beside).leave_lane()
    later = timezone.now() + timedelta(hours=1)
    queued(beside).update(due_at=later, failures=3)
    Delivery.objects.filter(pk=failed.pk).retry("a test")
    assert states() == [State.PENDING, State.WAITING, State.WAITING]
    claim(webhook)
    for _ in range(3):
        head = Delivery.objects.get(queued__state=State.SENDING)
        record(head, State.SUCCEEDED)
        promote(head)
        claim(webhook)
    assert states() == [State.SUCCEEDED] * 3


def test_the_time_behind_a_retried_delivery_does_not_count_for_a_head_that_failed(webhook: Webhook) -> None:
    failed, head = lane(webhook, State.FAILED, State.PENDING)
    queued(head).update(failing_since=timezone.now() - timedelta(hours=1), failures=3)
    Delivery.objects.filter(pk=failed.pk).retry("a test")
    row = queued(head).get()
    assert (row.state, row.due_at, row.failing_since, row.failures) == (State.WAITING, None, None, 3)


def test_the_next_attempt_of_a_delivery_beside_its_lane_goes_before_later_ones(webhook: Webhook) -> None:
    beside, _, _ = lane(webhook, State.PENDING, State.PENDING, State.WAITING)
    queued(beside).leave_lane()
    queued(beside).update(due_at=timezone.now() + timedelta(hours=1), failures=3)
    assert Delivery.objects.filter(pk=beside.pk).retry("a test") == 1
    assert states() == [State.PENDING, State.WAITING, State.WAITING]
    row = queued(beside).get()
    assert (row.in_lane, row.failures, row.requested_by) == (True, 3, "a test")
    assert due().get().pk == beside.pk


@pytest.mark.parametrize("ended", [State.PENDING, State.SUCCEEDED, State.FAILED])
def test_a_retried_delivery_is_next_after_a_later_one_that_a_worker_holds(
    webhook: Webhook, webhooks_settings: Any, ended: State
) -> None:
    failed, held, _ = lane(webhook, State.FAILED, State.SENDING, State.WAITING)
    Delivery.objects.filter(pk=failed.pk).retry("a test")
    assert states() == [State.WAITING, State.SENDING, State.WAITING]
    webhooks_settings(RETRY_SCHEDULE=[60] if ended == State.PENDING else [])
    outcome = Outcome(datetime.now(UTC), 1, reason="" if ended == State.SUCCEEDED else "HTTP 500")
    claimed = ClaimedRow(*queued(held).values_list(*CLAIMED_COLUMNS).get())
    ours = load_claimed([claimed], held.queued.claim, bodies_by_webhook)
    atomically(lambda: outcomes.record([(one, outcome) for one in ours], "test"), USING)
    assert states() == [State.PENDING, State.WAITING if ended == State.PENDING else ended, State.WAITING]


def test_a_delivery_that_steps_back_is_found_behind_a_later_one_that_a_worker_holds(webhook: Webhook) -> None:
    failed, beside, held = lane(webhook, State.FAILED, State.PENDING, State.SENDING)
    queued(beside).leave_lane()
    Delivery.objects.filter(pk=failed.pk).retry("a test")
    Delivery.objects.filter(pk=failed.pk).discard()
    assert states() == [State.DISCARDED, State.WAITING, State.SENDING]
    record(held, State.SUCCEEDED)
    promote(held)
    assert states() == [State.DISCARDED, State.PENDING, State.SUCCEEDED]


@pytest.mark.parametrize("later", [State.PENDING, State.WAITING])
def test_a_retry_leaves_other_lanes_and_unordered_webhooks_alone(webhook: Webhook, later: State) -> None:
    failed = make_delivery(webhook, State.FAILED)
    other, unordered = make_webhook(Thing), make_webhook(Thing, ordered=False)
    for one in (
        make_delivery(webhook, later, object_id="2"),
        make_delivery(other, later),
        make_delivery(unordered, later),
    ):
        assert one.event_id > failed.event_id
    Delivery.objects.filter(pk=failed.pk).retry("a test")
    assert states() == [State.PENDING, later, later, later]


def test_a_retried_delivery_starts_its_schedule_again(webhook: Webhook) -> None:
    delivery = make_delivery(webhook, State.FAILED, failures=9, attempt_count=9)
    Delivery.objects.failed().retry("a test")
    delivery.refresh_from_db()
    assert (delivery.state, delivery.queued.failures, delivery.attempt_count) == (State.PENDING, 0, 9)
    assert due().get().pk == delivery.pk


def test_several_deliveries_of_one_lane_can_be_retried_together(webhook: Webhook) -> None:
    lane(webhook, State.FAILED, State.DISCARDED, State.FAILED)
    assert Delivery.objects.all().retry("a test") == 3
    assert states() == [State.PENDING, State.WAITING, State.WAITING]


@pytest.mark.parametrize("was_ordered", [False, True])
def test_retried_deliveries_of_an_unordered_webhook_are_all_pending(database: str, was_ordered: bool) -> None:
    unordered = make_webhook(Thing, ordered=was_ordered)
    for state in (State.FAILED, State.FAILED, State.PENDING):
        make_delivery(unordered, state)
    Webhook.objects.update(ordered=False)
    assert Delivery.objects.all().retry("a test") == 2
    assert states() == [State.PENDING] * 3


@pytest.mark.parametrize("place", [0, 1, 2])
def test_deliveries_behind_a_discarded_one_move_up(webhook: Webhook, place: int) -> None:
    deliveries = lane(webhook, State.PENDING, State.WAITING, State.WAITING)
    assert Delivery.objects.filter(pk=deliveries[place].pk).discard() == 1
    left = [state_of(delivery) for number, delivery in enumerate(deliveries) if number != place]
    assert left == [State.PENDING, State.WAITING]


@pytest.mark.postgresql
def test_a_lane_continues_if_the_next_delivery_is_discarded_as_the_head_ends(webhook: Webhook) -> None:
    head, following, _ = lane(webhook, State.SENDING, State.WAITING, State.WAITING)

    def end() -> None:
        with transaction.atomic():
            lanes.lock(USING, [head.lane])
            record(head, State.SUCCEEDED)
            promote(head)

    with transaction.atomic():
        lanes.lock(USING, [head.lane])
        discarding = Beside(Delivery.objects.filter(pk=following.pk).discard)
        discarding.wait_until_blocked_or_done()
        ending = Beside(end)
        ending.wait_until_blocked_or_done()
    discarding.join()
    ending.join()
    assert states() == [State.SUCCEEDED, State.DISCARDED, State.PENDING]


@pytest.mark.parametrize("ended", [State.SUCCEEDED, State.FAILED])
def test_a_lane_continues_behind_discarded_deliveries(webhook: Webhook, ended: State) -> None:
    head, *_ = lane(webhook, State.SENDING, State.DISCARDED, State.DISCARDED, State.WAITING)
    record(head, ended)
    promote(head)
    assert states() == [ended, State.DISCARDED, State.DISCARDED, State.PENDING]


def test_a_whole_lane_can_be_discarded_except_the_delivery_being_sent(webhook: Webhook) -> None:
    lane(webhook, State.SENDING, State.WAITING, State.WAITING)
    assert Delivery.objects.all().discard() == 2
    assert states() == [State.SENDING, State.DISCARDED, State.DISCARDED]


def test_what_a_worker_has_claimed_meanwhile_is_not_discarded(webhook: Webhook) -> None:
    sending = make_delivery(webhook, State.SENDING)
    assert QueuedDelivery.objects.discard([sending.pk]) == []
    assert states() == [State.SENDING]


def test_a_head_that_leaves_its_lane_is_still_retried(webhook: Webhook) -> None:
    head, _ = lane(webhook, State.PENDING, State.WAITING)
    queued(head).leave_lane()
    promote(head)
    assert states() == [State.PENDING, State.PENDING]
    assert len(claim(webhook)[0]) == 2


def test_concurrent_retries_and_sends_never_create_two_heads(webhook: Webhook) -> None:
    for _ in range(3):
        lane(webhook, *[State.FAILED] * 10)

    def retry() -> None:
        for pk in Delivery.objects.values_list("pk", flat=True):
            Delivery.objects.filter(pk=pk).retry("a test")

    def send() -> None:
        for _ in range(60):
            ids, token = claim(webhook)
            for delivery in Delivery.objects.filter(pk__in=ids):
                atomically(partial(end, delivery, token), USING)
            heads = QueuedDelivery.objects.filter(state__in=HEAD_STATES).values_list("lane", flat=True)
            assert len(heads) == len(set(heads))

    def end(delivery: Delivery, token: uuid.UUID) -> None:
        lanes.lock(USING, [delivery.lane])
        assert record(delivery, State.SUCCEEDED, token=token)
        promote(delivery)

    for thread in [Beside(retry), Beside(retry), Beside(send), Beside(send)]:
        thread.join(60)
    send()
    assert states() == [State.SUCCEEDED] * 30


@pytest.mark.cost
@pytest.mark.postgresql
def test_error_kinds_are_found_by_an_index(database: str) -> None:
    webhook = make_webhook(Thing)
    event = make_event(webhook, dispatched=True)
    kinds = ("", "http_503", "refused")
    Delivery.objects.bulk_create(Delivery(webhook=webhook, event=event, error_kind=kinds[n % 3]) for n in range(10_000))
    execute("default", "ANALYZE rq_webhooks_delivery")
    with CaptureQueriesContext(connection) as captured:
        assert Delivery.objects.error_kinds() == {"http_503", "refused"}
    plan = "\n".join(line for (line,) in fetch_all("default", f"EXPLAIN ANALYZE {captured[0]['sql']}"))
    assert "Seq Scan" not in plan, plan
    assert plan.count("error_kind_id_idx on rq_webhooks_delivery_default") == 2, plan


def test_a_delivery_that_ends_between_two_queries_has_succeeded(webhook: Webhook) -> None:
    delivery = make_delivery(webhook, State.SENDING)
    [seen] = Delivery.objects.filter(pk=delivery.pk)
    assert record(delivery, State.SUCCEEDED)
    assert seen.state == State.SUCCEEDED
    assert Delivery.objects.get().state == State.SUCCEEDED


def test_a_row_knows_whether_it_can_be_retried_as_the_queryset_does(webhook: Webhook) -> None:
    deleted = make_webhook(Thing)
    for number, one in enumerate((webhook, deleted)):
        for state in State:
            make_delivery(one, state, f"{state} {number}")
        later = timezone.now() + timedelta(hours=1)
        make_delivery(one, State.PENDING, f"between attempts {number}", attempt_count=1, due_at=later)
    Webhook.with_deleted.filter(pk=deleted.pk).update(deleted_at=timezone.now())
    retriable = set(Delivery.objects.retriable())
    assert {one.event.object_id for one in retriable} == {"failed 0", "discarded 0", "between attempts 0"}
    assert {one for one in Delivery.objects.for_list() if one.is_retriable} == retriable
