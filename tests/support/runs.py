"""Runs that a worker in the process of the test executes."""

from __future__ import annotations

from tests.support.draining import drain
from tests.support.makers import make_event
from webhooks.models import Run, Webhook


def sent(webhook: Webhook, count: int, objects: int = 3) -> None:
    """Let a webhook deliver as many events, of a few objects in turn."""
    for number in range(count):
        make_event(webhook, object_id=str(number % objects))
    drain()


def finished(run: Run) -> Run:
    drain()
    run.refresh_from_db()
    return run
