"""What a claim of a hundred costs, by what waits behind it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from django.utils import timezone

from scripts.benchmark import history
from scripts.benchmark.conditions import Condition, Work, medians
from scripts.benchmark.errors import NotMeasured
from scripts.benchmark.figures import Experiment, Figure, Reading, Run, times_at_most
from scripts.benchmark.lab import Lab
from scripts.benchmark.templates import highest_event, remove, settle
from webhooks.models import Delivery, Webhook
from webhooks.sql.claims import Claim, webhooks_with_due

AT_ONCE = 100
BACKLOG = 100_000
NOWHERE = "http://127.0.0.1:1/"


def claim_hundred() -> list[uuid.UUID]:
    """What a worker does to take work: look which webhooks have some, and claim."""
    room = {webhook.id: AT_ONCE for webhook in webhooks_with_due(Delivery.objects.db)}
    return [one.id for one in Delivery.objects.claim(room, Claim(uuid.uuid4(), lease=15))]


@contextmanager
def claiming(lab: Lab, database: str, webhook: Webhook) -> Iterator[Work]:
    with lab.on(database):
        before = highest_event()
        history.due(webhook, 2 * AT_ONCE)
        claim_hundred()  # a new connection has to learn the tables first
        claimed: list[uuid.UUID] = []
        yield lambda: claimed.extend(claim_hundred())
        if len(claimed) != AT_ONCE:
            raise NotMeasured(f"a claim of {AT_ONCE} took {len(claimed)}")
        remove(after=before)


def prepare(lab: Lab, database: str, fill: Callable[[], None]) -> None:
    with lab.on(database):
        fill()
        settle()


def measure(lab: Lab) -> Iterator[Reading]:
    healthy = lab.webhook(NOWHERE)
    paused = lab.webhook(NOWHERE, probe_at=timezone.now() + timedelta(days=1))
    backlog = lab.size(BACKLOG, 1000)
    fills: dict[str, Callable[[], None]] = {
        "empty": lambda: None,
        "object": lambda: history.waiting(healthy, backlog, objects=1),
        "paused": lambda: history.due(paused, backlog),
    }
    with lab.copies(*fills):
        for database, fill in fills.items():
            prepare(lab, database, fill)
        conditions: list[Condition] = [lambda name=name: claiming(lab, name, healthy) for name in fills]  # type: ignore[misc]
        while True:
            empty, behind_object, behind_paused = medians(lab.size(20, 2), *conditions)
            yield {
                "claim-object": Run(1000 * behind_object, 1000 * empty),
                "claim-paused": Run(1000 * behind_paused, 1000 * empty),
            }


EMPTY = "with an empty backlog"
WHAT = f"a claim of {AT_ONCE} with {BACKLOG:,} waiting behind"

BACKLOGS = Experiment(
    "claim",
    (
        Figure("claim-object", f"{WHAT} one object", "ms", EMPTY, times_at_most(1.5)),
        Figure("claim-paused", f"{WHAT} a paused webhook", "ms", EMPTY, times_at_most(1.5)),
    ),
    measure,
)
