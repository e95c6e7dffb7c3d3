"""PostgreSQL is restarted while workers and writers run: they reconnect and go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db.models import Q
from django.utils import timezone

from tests.chaos import ledger, postgresql, storm
from tests.chaos.crew import Crew, Writer
from tests.chaos.writer import Plan
from tests.figures import Figures
from tests.inbox import Inbox
from tests.makers import make_webhook
from tests.testapp.models import Label
from tests.waiting import until
from webhooks.models import Delivery, State

pytestmark = [pytest.mark.postgresql, pytest.mark.slow]

URL = "slow/0.01"


def at_risk(mode: str) -> set[str]:
    """The ids of what may be sent again: what is claimed and, in a crash, what was recorded a moment ago."""
    chosen = Q(state=State.SENDING)
    if mode == "immediate":
        chosen |= Q(finished_at__gt=timezone.now() - timedelta(seconds=2))
    return {str(pk) for pk in Delivery.objects.filter(chosen).values_list("pk", flat=True)}


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_workers_reconnect_and_nothing_is_lost(
    crew: Crew, writers: Callable[[Plan], Writer], labels: list[int], inbox: Inbox, figures: Figures, mode: str
) -> None:
    # The rest of the suite runs without, which a crash would not survive.
    with postgresql.setting("synchronous_commit", "on"):
        make_webhook(Label, url=inbox.url(URL))
        workers = [crew.by_name[crew.hire(LEASE=3)] for _ in range(2)]
        crowd = [writers(Plan(f"w{n}", 150, labels, pause=0.05)) for n in range(2)]
        risked: set[str] = set()
        away: list[float] = []
        for goal in (50, 120):
            until(lambda goal=goal: len(inbox.received()) > goal, 40, storm.report)
            risked |= at_risk(mode)
            began = time.monotonic()
            postgresql.restart(mode)
            away.append(time.monotonic() - began)
            risked |= at_risk(mode)
        until(lambda: all(writer.is_done() for writer in crowd) and not storm.unfinished(), 60, storm.report)
        account = ledger.settle(inbox.received())
        torn = sum(writer.told("disconnected") for writer in crowd)
        figures(
            f"{account}; 2 restarts took {sum(away):.1f} s, {torn} transactions of the writers torn, "
            f"{len(risked)} deliveries at risk of a repeat"
        )
        ledger.check_rows()
        account.check()
        assert [worker.process.poll() for worker in workers] == [None, None], "both workers live on"
        assert set(account.repeated) <= risked
