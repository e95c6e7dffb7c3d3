"""PostgreSQL is restarted while workers and writers run: they reconnect and go on."""

from __future__ import annotations

import time
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
from webhooks.models import Delivery, State

pytestmark = [pytest.mark.postgresql, pytest.mark.slow]

URL = "slow/0.01"


# A crash takes back the records of the last three times PostgreSQL's wal_writer_delay (0.2 s), and more on a busy
# machine: workers do not wait for the disk there. An orderly stop takes nothing back.
TAKEN_BACK = {"fast": 0, "immediate": 3}


def claimed() -> set[str]:
    """The ids of all claimed deliveries: workers may have to send them again."""
    return {str(pk) for pk in Delivery.objects.in_states(State.SENDING).values_list("pk", flat=True)}


def at_risk(inbox: Inbox, since: float, until: float) -> set[str]:
    """The ids of what came meanwhile, and may not have been recorded."""
    return {one.headers["webhook-id"] for one in inbox.received() if since < one.at < until}


def test_workers_reconnect_and_nothing_is_lost(
    crew: Crew, writers: Callable[[Plan], Writer], labels: list[int], inbox: Inbox, figures: Figures
) -> None:
    # The rest of the suite runs without, which a crash would not survive.
    with postgresql.setting("synchronous_commit", "on"):
        make_webhook(Label, url=inbox.url(URL))
        workers = [crew.by_name[crew.hire(LEASE=6)] for _ in range(2)]
        crowd = [writers(Plan(f"w{n}", 150, labels, pause=0.05)) for n in range(2)]
        away: list[tuple[float, float]] = []
        held: set[str] = set()
        for goal, mode in ((50, "fast"), (120, "immediate")):
            until(lambda goal=goal: len(inbox.received()) > goal, 40, storm.report)
            began = time.time()
            held |= claimed()
            postgresql.restart(mode)
            away.append((began - TAKEN_BACK[mode], time.time()))
            held |= claimed()
        until(lambda: all(writer.is_done() for writer in crowd) and not storm.unfinished(), 60, storm.report)
        account = ledger.settle(inbox.received())
        risked = held.union(*(at_risk(inbox, began, back) for began, back in away))
        torn = sum(writer.count_lines("disconnected") for writer in crowd)
        figures(
            f"{account}; an orderly and an immediate restart, {torn} transactions of the writers torn, "
            f"{len(risked)} deliveries at risk of a repeat"
        )
        ledger.check_rows()
        account.check()
        assert [worker.process.poll() for worker in workers] == [None, None], "both workers live on"
        assert set(account.repeated) <= risked
