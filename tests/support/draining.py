"""A worker that runs in the process of the test."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from django.db.models.functions import Coalesce

from tests.support.makers import make_event
from tests.support.waiting import PATIENCE, until
from webhooks.ground.db import elapsed
from webhooks.models import Delivery, Run, RunState, Webhook
from webhooks.models.worker import in_worker_transaction
from webhooks.workers.runner import DeliveryRunner, has_more


def drain(seconds: float = 20 * PATIENCE) -> None:
    """Work until nothing is due."""
    work_for(seconds)
    assert not has_more(), "something that is due was left"


def work_for(seconds: float) -> None:
    """Work for up to ``seconds``, perhaps among other workers. Without the sweep that a worker begins with: it takes as
    long as a few deliveries."""
    runner = DeliveryRunner("test")
    runner._sweeper._swept = elapsed()
    try:
        runner.run(seconds)
        runner.finish()
    finally:
        runner.close(grace=0)


def sweep_step(step: Callable[..., int], *arguments: Any) -> int:
    """Run one step of the sweep in a transaction, as a worker does."""
    return in_worker_transaction(Delivery.objects.db, partial(step, *arguments))


# The state of a delivery, for ``values_list``.
STATE = Coalesce("queued__state", "outcome")


def states() -> list[str]:
    """The states of all deliveries, in the order of their events and webhooks."""
    return list(Delivery.objects.order_by("event_id", "webhook_id").values_list(STATE, flat=True))


def sent(webhook: Webhook, count: int, objects: int = 3) -> None:
    """Let a webhook deliver as many events, of a few objects in turn."""
    for number in range(count):
        make_event(webhook, object_id=str(number % objects))
    drain()


def finished(run: Run) -> Run:
    """The run after its last step. It first waits for open transactions: those of PostgreSQL's own ANALYZE, too."""

    def has_ended() -> bool:
        drain()
        run.refresh_from_db()
        return run.state != RunState.RUNNING or run.look_at is None

    until(has_ended, 20, lambda: f"a run that waits for transactions: {run.late}")
    return run
