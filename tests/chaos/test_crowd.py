"""Many producers and many consumers, and an admin who retries what fails meanwhile."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Callable

import pytest

from tests.chaos import ledger, storm
from tests.chaos.crew import Crew, Writer
from tests.chaos.writer import Plan
from tests.support.figures import Figures
from tests.support.inbox import Inbox, Received
from tests.support.makers import make_webhook
from tests.support.waiting import until
from tests.testapp.models import Label
from webhooks.models import Attempt, Delivery, Event
from webhooks.models.delivery import SUCCEEDED
from webhooks.operations import kinds

pytestmark = [pytest.mark.postgresql, pytest.mark.slow]

# A receiver of several requests of one object at once sees them closer together than each one takes.
SECONDS = 0.02


def overlapping(received: list[Received]) -> list[tuple[int, float]]:
    """Objects that got a request before the receiver can have answered the previous one."""
    moments: dict[int, list[float]] = defaultdict(list)
    for one in received:
        moments[one.json["data"]["id"]].append(one.at)
    return [
        (pk, later - earlier)
        for pk, times in moments.items()
        for earlier, later in itertools.pairwise(times)
        if later - earlier < SECONDS
    ]


def wait_until_all_work(crew: Crew) -> None:
    for worker in crew.by_name.values():
        worker.wait_until_listening(120)


def test_each_delivery_is_attempted_exactly_once(
    crew: Crew,
    writers: Callable[[Plan], Writer],
    labels: list[int],
    inbox: Inbox,
    figures: Figures,
    is_long: bool,
) -> None:
    many, deliveries, busy = (20, 4000, 15) if is_long else (6, 300, 4)
    url = f"slow/{SECONDS}"
    make_webhook(Label, url=inbox.url(url))
    # A lease that an overloaded machine can renew: no worker dies here. Each sends less than what is written, so a fast
    # one leaves some to the others.
    for _ in range(many):
        crew.hire(LEASE=30, SENDERS=1, BATCH=10)
    wait_until_all_work(crew)
    crowd = [writers(Plan(f"w{n}-", deliveries // many, labels, pause=0.02)) for n in range(many)]
    began = time.monotonic()
    until(lambda: all(w.is_done() for w in crowd) and not storm.unfinished(), 600 if is_long else 60, storm.report)
    account = ledger.settle(inbox.received(url))
    consumers = Attempt.objects.order_by().values("worker").distinct().count()
    figures(f"{many} producers, {consumers} of {many} consumers sent some; {account}; {time.monotonic() - began:.0f} s")
    account.check()
    assert not account.repeated
    assert account.arrived == Attempt.objects.count() == Delivery.objects.count() >= deliveries
    assert not overlapping(inbox.received(url))
    assert consumers >= busy


def test_order_holds_while_an_admin_retries_what_failed(
    crew: Crew,
    writers: Callable[[Plan], Writer],
    labels: list[int],
    inbox: Inbox,
    figures: Figures,
    is_long: bool,
) -> None:
    deliveries = 4000 if is_long else 200
    url = f"refuse-some/4/{SECONDS}"
    make_webhook(Label, url=inbox.url(url))
    for _ in range(3):
        crew.hire(LEASE=30, RETRY_SCHEDULE=[], PAUSE_AFTER=1000, BATCH=20)
    crowd = [writers(Plan(f"w{n}", deliveries // 4, labels[:10], most=4, pause=0.02)) for n in range(4)]
    retried = 0

    def go_on() -> bool:
        nonlocal retried
        retried += kinds.RETRY.perform(Delivery.objects.failed())
        return all(writer.is_done() for writer in crowd) and not storm.unfinished()

    until(go_on, 600 if is_long else 60, storm.report)
    received = inbox.received(url)
    account = ledger.settle(received)
    figures(f"{account}; {retried} retried by hand in 10 lanes meanwhile")
    account.check()
    refused = Attempt.objects.filter(succeeded=False).count()
    assert retried == refused > deliveries // 10
    assert account.repeated.total() == refused, "each that was refused came once more, and nothing else"
    assert set(account.repeated.values()) == {1}
    assert not overlapping(received), "never two of one object at once"
    assert Event.objects.count() == account.committed
    assert not Delivery.objects.exclude(SUCCEEDED).exists()
