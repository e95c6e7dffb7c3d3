"""Signatures and attempts carry the database's time, whatever the clock of a worker says."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import standardwebhooks
from django.test import Client
from django.urls import reverse

from tests.support.inbox import Inbox
from tests.support.makers import make_event, make_webhook
from tests.support.waiting import until
from tests.support.workers import SHIPPED, STOCK, Workers
from tests.testapp.models import Thing
from users.models import User
from webhooks.ground.db import clock, to_utc
from webhooks.ground.db.clock import COMPARE_EVERY, DatabaseClock
from webhooks.ground.security import signing
from webhooks.models import Attempt
from webhooks.workers import jobs
from webhooks.workers.status import read_backend

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Times:
    """The time of the database, of this machine, and of the monotonic clock, for a test to move."""

    database, machine, elapsed = 1_000_000.0, 1_000_000.0, 50.0

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queries = 0
        monkeypatch.setattr(clock, "database_time", self.ask)
        monkeypatch.setattr(clock, "elapsed", lambda: self.elapsed)
        monkeypatch.setattr(time, "time", lambda: self.machine)

    def ask(self, using: str) -> float:
        """The query takes two seconds."""
        self.queries += 1
        self.pass_by(1)
        answer = self.database
        self.pass_by(1)
        return answer

    def pass_by(self, seconds: float) -> None:
        self.database += seconds
        self.machine += seconds
        self.elapsed += seconds


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Times:
    return Times(monkeypatch)


def test_the_time_of_the_query_does_not_shift_the_clock(times: Times) -> None:
    times.machine += 100
    compared = DatabaseClock()
    compared.compare("default")
    times.pass_by(7)
    assert compared.now() == datetime.fromtimestamp(times.database, UTC)
    assert compared.offset == 100


def test_a_step_of_the_machines_clock_changes_nothing_and_is_seen_at_the_next_comparison(
    times: Times, app_log: pytest.LogCaptureFixture
) -> None:
    compared = DatabaseClock()
    compared.compare("default")
    times.machine -= 3600
    compared.compare("default")
    assert (times.queries, compared.offset) == (1, 0)
    for _ in range(2):
        times.pass_by(COMPARE_EVERY)
        compared.compare("default")
        assert compared.now() == datetime.fromtimestamp(times.database, UTC)
    assert (times.queries, compared.offset) == (3, -3600)
    [line] = [record.getMessage() for record in app_log.records]
    assert line.startswith("The clock of this machine differs by -3600 s from the database's.")


FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
FAKE = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@pytest.mark.postgresql
@pytest.mark.skipif(
    FAKETIME is None and not os.environ.get("CI"), reason="needs libfaketime (Debian: apt-get install libfaketime)"
)
@pytest.mark.parametrize(("worker_class", "shift"), [(SHIPPED, "+1h"), (SHIPPED, "-1h"), (STOCK, "+1h")])
def test_a_worker_an_hour_off_signs_and_records_the_right_time(
    workers: Workers, inbox: Inbox, monkeypatch: pytest.MonkeyPatch, worker_class: str, shift: str
) -> None:
    make_event(make_webhook(Thing, url=inbox.url(), secret=SECRET))
    began = datetime.now(UTC)
    workers.is_forking = False  # libfaketime begins with its process
    with monkeypatch.context() as patched:
        for name, value in FAKE.items():
            patched.setenv(name, value)
        patched.setenv("FAKETIME", shift)
        worker = workers.start(worker_class)
    if worker_class == STOCK:
        worker.wait_until_listening()
        jobs.wake_up()
    [received] = inbox.wait_for(1)
    signing.verify(received.body, received.headers, SECRET, tolerance=600)
    standardwebhooks.Webhook(SECRET).verify(received.body, received.headers)
    attempt = until(lambda: Attempt.objects.first(), 10, "the attempt to be recorded")
    assert began <= to_utc(attempt.started_at) <= datetime.now(UTC)
    until(lambda: "The clock of this machine differs by" in worker.text, 10, "the worker to log it")
    offset = 3600 if shift == "+1h" else -3600
    assert abs(worker.listening_at() - time.time() - offset) < 600, "its own clock is wrong"
    if worker_class == SHIPPED:
        [seen] = until(lambda: [one for one in read_backend().workers if one.clock_offset], 15, "the report")
        assert abs(seen.clock_offset - offset) < 600
        assert not seen.is_silent
        browser = Client()
        browser.force_login(User.objects.create_superuser("alice"))
        page = browser.get(reverse("webhooks_backend_status")).content.decode()
        assert f"is 1 h {'ahead of' if offset > 0 else 'behind'} the database" in page
