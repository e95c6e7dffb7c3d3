"""Any statement of a worker may fail, and any lease may end: the worker goes on, and everything is delivered."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import Error, OperationalError, connection

from tests.support.draining import STATE
from tests.support.figures import Figures
from tests.support.inbox import Inbox
from tests.support.makers import make_event, make_webhook
from tests.support.tables import empty_all_tables
from tests.support.waiting import until
from tests.testapp.models import Label
from webhooks.models import Delivery, Event, State, Webhook
from webhooks.models.delivery import SUCCEEDED
from webhooks.workers.runner import DeliveryRunner

pytestmark = [pytest.mark.postgresql, pytest.mark.slow]

# query_canceled and idle_in_transaction_session_timeout
TIME_LIMITS = ("57014", "25P03")


IsNext = Callable[[int, str], bool]


class Fault:
    """Lets one statement fail: the first that ``is_next``, by its number from 1 and its text."""

    def __init__(self, is_next: IsNext) -> None:
        self.is_next, self.seen, self.failed = is_next, 0, ""

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        self.seen += 1
        if not self.failed and self.is_next(self.seen, sql):
            self.failed = sql
            raise OperationalError("this statement was made to fail")
        return execute(sql, params, many, context)


@contextmanager
def surviving_errors() -> Iterator[None]:
    """What the worker does: go on with a new connection. On a busy machine, statements also exceed the limits that
    PostgreSQL gets from the lease, which is short here."""
    try:
        yield
    except Error as error:
        code = getattr(error.__cause__, "sqlstate", None)
        # PostgreSQL ends an idle session, and psycopg may see the end of the connection before it reads why.
        is_ended = connection.connection is None or connection.connection.closed
        if "made to fail" not in str(error) and code not in TIME_LIMITS and not is_ended:
            raise
        connection.close()


def work(drain: DeliveryRunner, fault: Fault, is_done: Callable[[], bool], what: Callable[[], str]) -> None:
    def is_done_now() -> bool:
        with connection.execute_wrapper(fault), surviving_errors():
            drain.run(0.2)
        return is_done()

    until(is_done_now, 15, what, every=0.02)


def fail_at(is_next: IsNext, inbox: Inbox) -> str:
    """Work while one statement fails. Returns its text."""
    good = make_webhook(Label, url=inbox.url())
    bad = make_webhook(Label, url=inbox.url("status/503"))
    for number in range(4):
        make_event(good, object_type="testapp.label", object_id=str(number % 3))
    # More than are sent before it is paused, so that some are handed back then.
    for number in range(8):
        make_event(bad, object_type="testapp.label", object_id=str(number))
    drain, fault = DeliveryRunner("test"), Fault(is_next)

    def is_done() -> bool:
        is_paused = Webhook.objects.get(pk=bad.pk).is_paused
        undone = Delivery.objects.filter(webhook=good).exclude(SUCCEEDED)
        # A delivery that could not be handed back returns when its lease ends: no worker may keep or renew it.
        kept = Delivery.objects.in_states(State.SENDING)
        return (
            is_paused
            and not (Event.objects.undispatched().exists() or undone.exists() or kept.exists())
            and not drain.is_busy
        )

    def what() -> str:
        states = list(Delivery.objects.values_list("webhook__name", STATE, "queued__claim"))
        return f"the end of the work after a statement failed ({fault.failed}): {drain.is_busy=}, {states}"

    try:
        work(drain, fault, is_done, what)
    finally:
        with surviving_errors():
            drain.close(grace=0)
    return fault.failed


def _kind(sql: str) -> str:
    """A statement without the times and ids in it: the names of partitions, and the borders of looks for a lane."""
    return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9]+", "0", sql)


def test_the_worker_goes_on_after_any_failed_statement(
    database: str, inbox: Inbox, webhooks_settings: Any, figures: Figures, is_long: bool
) -> None:
    webhooks_settings(PAUSE_AFTER=2, LEASE=0.3, SWEEP_INTERVAL=0.05, SENDERS=4, RETRY_SCHEDULE=[1000])
    failed: list[str] = []
    kinds: set[str] = set()

    def is_next(number: int, sql: str) -> bool:
        """With --long, a statement fails wherever it occurs, otherwise once."""
        return number > len(failed) if is_long else _kind(sql) not in kinds

    while sql := fail_at(is_next, inbox):
        empty_all_tables()
        failed.append(sql)
        kinds.add(_kind(sql))
        assert len(failed) < 500
    figures(f"each of {len(failed)} statements failed once")
    assert len(failed) > 20
