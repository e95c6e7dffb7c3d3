"""Workers are killed and Redis is emptied during a run: it takes each delivery once, and leaves none out."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.draining import drain
from tests.support.figures import Figures
from tests.support.inbox import Inbox, Received
from tests.support.makers import make_event, make_webhook
from tests.support.waiting import PATIENCE
from tests.support.workers import Worker, Workers
from tests.testapp.models import Thing
from users.models import User
from webhooks.models import (
    Attempt,
    Delivery,
    Event,
    QueuedDelivery,
    Run,
    RunState,
    State,
    Undispatched,
    Webhook,
)
from webhooks.operations import runs

pytestmark = pytest.mark.slow

OBJECTS = 40
URL = "slow/0.05"  # so that a worker holds deliveries most of the time

# What dead workers held is to be taken back soon, and a run is to take many steps.
WORKER = {"LEASE": 6, "SWEEP_INTERVAL": 0.5, "BATCH": 5}


def test_a_run_takes_each_delivery_once_while_workers_are_killed_and_redis_is_emptied(
    workers: Workers, redis: Any, inbox: Inbox, figures: Figures, is_long: bool
) -> None:
    count = 10_000 if is_long else 120
    webhook = make_webhook(Thing, url=inbox.url(URL))
    for number in range(count):
        make_event(webhook, object_id=str(number % OBJECTS))
    drain(300)
    before = len(inbox.received())
    assert before == count
    run = runs.start("resend", {"webhook": webhook.pk}, User.objects.create_superuser("ann"))
    kills, live = rage(workers, redis, webhook, run, *((10, 1500) if is_long else (4, 200)))
    run.refresh_from_db()
    assert (run.state, run.total, run.done, run.failed, run.skipped) == (RunState.DONE, count, count, 0, 0)
    figures(f"a run of {count} beside {live} live events; {kills} workers killed")
    assert kills >= 2
    resent = Attempt.objects.filter(requested_by="ann", succeeded=True)
    assert resent.count() == resent.values("delivery").distinct().count() == count
    assert Delivery.objects.in_states(State.SUCCEEDED).count() == Event.objects.count() == count + live
    check_order(inbox.received()[before:], set(map(str, resent.values_list("delivery", flat=True))))


def rage(workers: Workers, redis: Any, webhook: Webhook, run: Run, most: int, seconds: float) -> tuple[int, int]:
    """Kill up to ``most`` workers, empty Redis and record live events until all is done. Returns the kills, and the
    events."""
    alive = [workers.start(**WORKER) for _ in range(2)]
    dead: list[Worker] = []
    live = 0
    began = time.monotonic()
    while run.is_open or live < OBJECTS or has_open_work():
        assert time.monotonic() < began + seconds * PATIENCE, f"the run is {run.percent} % done"
        time.sleep(0.02)
        run.refresh_from_db()
        if live < OBJECTS and time.monotonic() > began + 0.1 * live:
            make_event(webhook, object_id=str(live))
            live += 1
        # At equal parts of the run, so that there are kills however fast it goes.
        if run.is_open and run.total and run.taken > run.total * len(dead) / most and (victim := holder(alive)):
            victim.kill()
            dead.append(victim)
            redis.flushall()
            alive.remove(victim)
            alive.append(workers.start(**WORKER))
            if len(dead) == most:
                for worker in dead:
                    worker.end_lease()
    return len(dead), live


def has_open_work() -> bool:
    """Whether an event or a delivery waits. In this order: a dispatch turns the one into the other."""
    return Undispatched.objects.exists() or QueuedDelivery.objects.exists()


def holder(alive: Sequence[Worker]) -> Worker | None:
    """A worker that holds deliveries."""
    names = set(QueuedDelivery.objects.filter(state=State.SENDING).values_list("claim", flat=True))
    working = [worker for worker in alive if names and worker.process.poll() is None and "istening on" in worker.text]
    return random.choice(working) if working else None


def check_order(received: Sequence[Received], resent: set[str]) -> None:
    """The first requests of each object's resent deliveries came in the order of its events."""
    sequences: dict[str, list[int]] = defaultdict(list)
    seen = set()
    for one in received:
        webhook_id = one.headers["webhook-id"]
        if webhook_id in resent and webhook_id not in seen:
            seen.add(webhook_id)
            assert one.headers["x-webhook-redelivery"] == "true"
            sequences[one.json["data"]["id"]].append(one.json["sequence"])
    assert seen == resent
    assert len(sequences) == OBJECTS
    for found in sequences.values():
        assert found == sorted(found)
