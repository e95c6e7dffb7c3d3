"""What the statements of a worker read, with statistics of PostgreSQL that are old or say the opposite."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from django.utils import timezone

from tests.support.draining import states
from tests.support.history import divide, undivide
from tests.support.inbox import Inbox
from tests.support.incident import DESCRIPTIONS, described_by, insert_deliveries
from tests.support.makers import make_delivery, make_event, make_webhook
from tests.support.plans import Executed, executed_plans
from tests.support.waiting import until
from tests.testapp.models import Thing
from webhooks.delivery import sweep
from webhooks.delivery.sweep import Sweeper
from webhooks.ground.conf import conf
from webhooks.ground.db import fetch_all
from webhooks.models import State, Sweep, Webhook, partitions
from webhooks.models.partitions import PART
from webhooks.workers.runner import DeliveryRunner

pytestmark = [pytest.mark.usefixtures("database"), pytest.mark.postgresql]

MANY, BATCH = 20_000, 100

# What one statement may read: some rows and pages for each row of its batch, and no range of all waiting ones.
MOST_ROWS, MOST_BUFFERS = MANY // 10, 60 * BATCH


PARTITIONS = 40


@pytest.fixture(params=[False, True], ids=["whole", "divided"])
def is_divided(request: pytest.FixtureRequest, database: str) -> Iterator[bool]:
    """Whether the history has many partitions."""
    undivide()
    if request.param:
        divide(timezone.now() - PARTITIONS * timedelta(days=conf.retention_days["succeeded"]) / PART, PARTITIONS + 2)
    yield request.param
    undivide()


@pytest.fixture(params=DESCRIPTIONS)
def incident(request: pytest.FixtureRequest, is_divided: bool, inbox: Inbox) -> Iterator[tuple[Webhook, Webhook]]:
    """A healthy webhook, and one that is down with thousands of deliveries waiting. The statistics are older."""
    down, healthy = make_webhook(Thing), make_webhook(Thing, url=inbox.url("ok"))
    with described_by(request.param, down):
        insert_deliveries(healthy, MANY, MANY, State.SUCCEEDED)
        insert_deliveries(down, MANY, 10)
        if is_divided:
            with patch.object(partitions, "SETTLED", 0), patch.object(partitions, "MIN_MARGIN_IDS", 0):
                partitions._make_mark("default")
            assert Sweep.objects.get().marks
        yield down, healthy


def greedy(executed: list[Executed]) -> str:
    """The statements that read too much."""
    assert executed, "no plan was reported"
    found = [one for one in executed if one.rows > MOST_ROWS or one.buffers > MOST_BUFFERS]
    return "\n".join(sorted({str(one)[:500] for one in found}))


@pytest.mark.cost
def test_no_statement_of_a_worker_reads_what_waits_behind_a_receiver_that_is_down(
    incident: tuple[Webhook, Webhook], inbox: Inbox
) -> None:
    down, healthy = incident
    for number in range(BATCH):
        make_event(healthy, down, object_id=f"new-{number % 50}")
        make_event(down, object_id=f"old-{number % 10}")
    runner = DeliveryRunner("test")
    try:
        with executed_plans() as executed:
            # The next job takes what became due while the last requests of this one were in flight.
            until(lambda: _run(runner) or len(inbox.received()) == BATCH, 60, "all to be sent")
            sweep.sweep()
    finally:
        runner.close(grace=0)
    assert greedy(executed) == ""


def _run(runner: DeliveryRunner) -> None:
    """As a worker that is no ``WebhookWorker`` does in one job."""
    runner.run(60, wait=False)
    runner.finish()


@pytest.mark.cost
def test_the_purge_reads_what_it_deletes(incident: tuple[Webhook, Webhook]) -> None:
    down, _ = incident
    ago = timezone.now() - timedelta(days=1000)
    for state in (State.FAILED, State.DISCARDED, State.SUCCEEDED):
        make_delivery(down, state, object_id=state, finished_at=ago)
    with executed_plans() as executed:
        assert sweep.sweep() == 3
    assert greedy(executed) == ""


def test_a_step_that_takes_too_long_stops_no_other_and_rests(
    webhooks_settings: Any, monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    webhooks_settings(LEASE=5)
    make_delivery(make_webhook(Thing), State.SENDING, lease_until=timezone.now() - timedelta(seconds=1))

    def unblock_lanes() -> int:
        fetch_all("default", "SELECT pg_sleep(60)")
        raise AssertionError("it was not stopped")

    monkeypatch.setattr(sweep, "unblock_lanes", unblock_lanes)
    sweeper = Sweeper()
    assert sweeper.sweep() == 1
    assert states() == [State.PENDING]
    [record] = app_log.records
    assert record.getMessage().startswith("The sweep stopped “unblock lanes” after ")
    assert sweeper.sweep() == 0
    assert len(app_log.records) == 1


def test_a_worker_with_a_sweep_that_takes_too_long_delivers(
    webhooks_settings: Any, monkeypatch: pytest.MonkeyPatch, inbox: Inbox
) -> None:
    webhooks_settings(LEASE=5, SWEEP_INTERVAL=0.01)
    monkeypatch.setattr(sweep, "unblock_lanes", lambda: len(fetch_all("default", "SELECT pg_sleep(60)")))
    webhook = make_webhook(Thing, url=inbox.url("ok"))
    for number in range(20):
        make_event(webhook, object_id=str(number))
    runner = DeliveryRunner("test")
    try:
        runner.run(4 * conf.lease, wait=False)
        runner.finish()
    finally:
        runner.close(grace=0)
    assert states() == [State.SUCCEEDED] * 20
    assert len(inbox.received()) == 20
