"""Writers and workers at work, some of them killed now and then, until all that was committed is delivered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tests.chaos import ledger
from tests.chaos.crew import Writer
from tests.chaos.killer import Killer
from tests.support.draining import STATE
from tests.support.waiting import until
from webhooks.models import Delivery, Event
from webhooks.models.delivery import SUCCEEDED


def unfinished() -> int:
    """Events and deliveries that have not come to a good end yet."""
    return Event.objects.undispatched().count() + Delivery.objects.exclude(SUCCEEDED).count()


def report() -> str:
    states = Counter(Delivery.objects.values_list(STATE, flat=True))
    return f"all to be delivered; {Event.objects.undispatched().count()} undispatched events, deliveries {dict(states)}"


def rage(killer: Killer, crowd: list[Writer], seconds: float, also: Callable[[], object] = lambda: None) -> None:
    """Until all is written and delivered: kill workers, each writer once on its way, and do what ``also`` does."""

    def go_on() -> bool:
        killer.strike()
        also()
        for number, writer in enumerate(crowd, start=1):
            if not writer.kills and ledger.count(writer.plan.name) > number * writer.plan.changes // 5:
                writer.kill()
        return all(writer.is_done() for writer in crowd) and not unfinished()

    until(go_on, seconds, report)


def intended(crowd: list[Writer]) -> int:
    """How many changes the writers set out to make."""
    lines = [line for writer in crowd for line in writer.log.read_text().splitlines()]
    return sum(line.count("(") for line in lines if line.startswith("commit "))
