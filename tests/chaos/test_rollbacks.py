"""Half of the transactions come to nothing, in every way there is: exactly the committed changes arrive."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chaos import ledger, postgresql, storm
from tests.chaos.crew import Crew, Writer
from tests.chaos.writer import Plan
from tests.support.figures import Figures
from tests.support.inbox import Inbox
from tests.support.makers import make_webhook
from tests.support.waiting import until
from tests.testapp.models import Label
from webhooks.models import Event

pytestmark = [pytest.mark.postgresql, pytest.mark.slow]

WAYS = ("raise", "roll_back_a_block", "roll_back_a_savepoint", "roll_back_in_part", "deadlock")


def test_exactly_what_was_committed_arrives(
    crew: Crew,
    writers: Callable[[Plan], Writer],
    labels: list[int],
    inbox: Inbox,
    figures: Figures,
    is_long: bool,
) -> None:
    changes = 5000 if is_long else 140
    make_webhook(Label, url=inbox.url())
    crew.hire()
    with postgresql.setting("deadlock_timeout", "50ms"):
        plans = [
            Plan(f"w{n}", changes // 4, labels[:8], most=5, pause=0, rollbacks=0.6, is_deadlocking=True)
            for n in range(4)
        ]
        crowd = [writers(plan) for plan in plans]
        until(lambda: all(w.is_done() for w in crowd) and not storm.unfinished(), 600 if is_long else 60, storm.report)
    account = ledger.settle(inbox.received())
    by_way = {way: sum(writer.count_lines(way) for writer in crowd) for way in WAYS}
    transactions = sum(writer.count_lines("commit") for writer in crowd) + sum(by_way[way] for way in WAYS[:3])
    figures(f"{account}; {transactions} transactions, {by_way}")
    ledger.check_rows()
    account.check()
    assert not account.repeated
    assert Event.objects.count() == account.committed
    assert all(by_way.values()), "each way occurred"
