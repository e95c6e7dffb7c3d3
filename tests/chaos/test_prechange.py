"""Savepoints of every kind are rolled back while others change the same things: each payload is right."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.chaos import postgresql, storm, witness
from tests.chaos.crew import Crew
from tests.chaos.turmoil import Turmoil
from tests.support.figures import Figures
from tests.support.inbox import Inbox
from tests.support.makers import make_webhook
from tests.support.threads import Beside
from tests.support.waiting import until
from tests.support.workers import SHIPPED, STOCK
from tests.testapp.models import Label, Thing

pytestmark = [pytest.mark.postgresql, pytest.mark.slow]


def test_each_payload_has_the_state_before_and_after_its_transaction(
    crew: Crew, inbox: Inbox, figures: Figures, is_long: bool, app_log: pytest.LogCaptureFixture
) -> None:
    things = [Thing.objects.create(name="a").pk for _ in range(4)]
    labels = [Label.objects.create(name=name) for name in ("blue", "green", "red")]
    make_webhook(Thing, url=inbox.url("ok"), prechange=True)
    make_webhook(Thing, url=inbox.url("ok/changes"), only_changes=True)
    for worker_class in (SHIPPED, STOCK):
        crew.hire(worker_class)
    crowd = [Turmoil(seed, things, labels) for seed in range(6)]
    with postgresql.setting("deadlock_timeout", "50ms"), witness.watching():
        raging = [Beside(lambda one=one: one.rage(500 if is_long else 5)) for one in crowd]
        for one in raging:
            one.join(600 if is_long else 60)
        until(lambda: not storm.unfinished(), 600 if is_long else 60, storm.report)
        committed = witness.changes()
    done = sum((one.done for one in crowd), Counter[str]())
    every = witness.judge(committed, inbox.received("ok"), only_changes=False)
    changes = witness.judge(committed, inbox.received("ok/changes"), only_changes=True)
    unread = app_log.text.count("The state before a change cannot be read")  # PostgreSQL ended a deadlock there
    figures(f"{every}; where only changes are wanted: {changes}; {dict(done)}, {unread} states could not be read")
    every.check(unread)
    changes.check(unread)
    assert every.compared > changes.compared > 0
    assert done["rolled back a block"] > 20
    assert done["rolled back a savepoint"] > 20
