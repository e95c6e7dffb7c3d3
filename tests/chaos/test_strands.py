"""No delivery is left waiting in a lane without a head, before any sweep could repair it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from tests.chaos import ledger, storm
from tests.chaos.crew import Crew, Writer
from tests.chaos.writer import Plan
from tests.support.figures import Figures
from tests.support.inbox import Inbox
from tests.support.makers import make_delivery, make_event, make_webhook
from tests.support.threads import Beside
from tests.support.waiting import until
from tests.testapp.models import Label
from webhooks.delivery import outcomes
from webhooks.delivery.dispatch import dispatch
from webhooks.delivery.outcomes import Transition
from webhooks.models import Delivery, Event, State, Sweep, claims
from webhooks.models.claims import Claim, promote

pytestmark = [pytest.mark.postgresql, pytest.mark.slow]


def test_heavy_dispatch_during_records_strands_nothing(
    crew: Crew, writers: Callable[[Plan], Writer], labels: list[int], inbox: Inbox, figures: Figures
) -> None:
    make_webhook(Label, url=inbox.url())
    Sweep.objects.create(pk=1, swept_at=timezone.now())
    few = labels[:2]
    for _ in range(3):
        crew.hire(SWEEP_INTERVAL=10_000, BATCH=5)
    crowd = [writers(Plan(f"w{n}", 100, few, most=2, pause=0.005)) for n in range(3)]

    def is_over() -> bool:
        under_way = Delivery.objects.filter(state__in=(State.PENDING, State.SENDING)).exists()
        return all(writer.is_done() for writer in crowd) and not Event.objects.undispatched().exists() and not under_way

    until(is_over, 60, storm.report)
    stranded = Delivery.objects.headless_lanes().count()
    account = ledger.settle(inbox.received())
    figures(f"{account}; in 2 lanes by 3 workers without a sweep, {stranded} stranded")
    assert stranded == 0
    account.check()
    assert not account.repeated


def succeed(delivery: Delivery, then: Claim | None = None) -> list[uuid.UUID]:
    """Record a success, and let the next one of the lane be taken."""
    delivery.refresh_from_db()
    assert delivery.claim
    transition = Transition(delivery.pk, delivery.claim, State.SUCCEEDED, failed=0, wait=0, reason="")
    assert outcomes.move_on("default", [transition]) == {delivery.pk}
    return [one.id for one in promote("default", [delivery.pk], then)]


@pytest.fixture
def after_promotion(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[], None]]]:
    """The functions to call between a promotion (by a dispatch or a retry) and its commit."""
    calls: list[Callable[[], None]] = []

    def then_call(real: Callable[..., Any]) -> Callable[..., Any]:
        def promote_and_call(*arguments: Any) -> Any:
            result = real(*arguments)
            while calls:
                calls.pop()()
            return result

        return promote_and_call

    monkeypatch.setattr("webhooks.delivery.dispatch.promote", then_call(promote))
    monkeypatch.setattr(claims, "promote", then_call(promote))
    return calls


def beside_a_head_that_moves_up(change: Callable[[], Any], after_promotion: list[Callable[[], None]]) -> None:
    """While ``change`` adds to a lane, its head is recorded; before ``change`` commits, the next one is as well."""
    webhook = make_webhook(Label)
    first = make_delivery(webhook, State.SENDING)
    second = make_delivery(webhook, State.WAITING)
    is_added = threading.Event()

    def record_the_first() -> None:
        with transaction.atomic():
            assert succeed(first, Claim(uuid.uuid4(), 15)) == [second.pk]
            assert is_added.wait(60)

    def record_the_second() -> None:
        with transaction.atomic():
            succeed(second)

    def wait_for_the_second() -> None:
        beside = Beside(record_the_second)
        beside.wait_until_blocked_or_done()
        second_record.append(beside)

    second_record: list[Beside] = []
    make_event(webhook)
    after_promotion.append(wait_for_the_second)
    first_record = Beside(record_the_first)
    until(lambda: locked(first), 10, "the first one to be recorded")
    changing = Beside(change)
    changing.wait_until_blocked_or_done()
    is_added.set()
    first_record.join()
    changing.join()
    assert second_record, "the change promoted nothing"
    second_record[0].join()


def locked(delivery: Delivery) -> bool:
    with transaction.atomic():
        free = Delivery.objects.select_for_update(skip_locked=True).filter(pk=delivery.pk)
        return not free.exists()


def test_a_dispatch_during_two_records_strands_nothing(
    database: str, after_promotion: list[Callable[[], None]]
) -> None:
    beside_a_head_that_moves_up(dispatch, after_promotion)
    assert Delivery.objects.headless_lanes().count() == 0


def test_a_retry_during_two_records_strands_nothing(database: str, after_promotion: list[Callable[[], None]]) -> None:
    def retry() -> None:
        dispatched = Event.objects.undispatched().get()
        dispatched.dispatched_at = timezone.now()
        dispatched.save()
        failed = make_delivery(dispatched_webhook(), State.FAILED, event=dispatched)
        Delivery.objects.filter(pk=failed.pk).retry()

    def dispatched_webhook() -> Any:
        return Delivery.objects.all()[0].webhook

    beside_a_head_that_moves_up(retry, after_promotion)
    assert Delivery.objects.headless_lanes().count() == 0
