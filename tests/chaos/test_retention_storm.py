"""A storm while the sweep deletes what was sent a moment ago, and webhooks come and go."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.chaos import ledger, storm
from tests.chaos.crew import Crew, Writer
from tests.chaos.killer import Reaper
from tests.chaos.writer import Plan
from tests.support.figures import Figures
from tests.support.inbox import Inbox, ReceiverProcess
from tests.support.makers import make_webhook
from tests.support.waiting import until
from tests.testapp.models import Label
from webhooks.models import Delivery, Webhook
from webhooks.models.statistic import DAY
from webhooks.operations.webhooks import delete_webhooks

pytestmark = [pytest.mark.slow, pytest.mark.storm]  # besides test_storm.py and tests/delivery/test_retention.py

# Seconds that a delivery is stored, and between two webhooks that come and go.
RETENTION, REPLACED_EVERY = 0.5, 1.0


class Passing:
    """A webhook that is deleted now and then, once it has got something, and another one created for the same model."""

    def __init__(self, receiver: ReceiverProcess) -> None:
        self._receiver = receiver
        self._since = 0.0
        self.inboxes: list[Inbox] = []

    def replace(self) -> None:
        if time.monotonic() - self._since < REPLACED_EVERY:
            return
        if self.inboxes:
            if not self.inboxes[-1].received():
                return
            delete_webhooks(Webhook.objects.filter(payload_url=self.inboxes[-1].url()))
        self.inboxes.append(Inbox(self._receiver))
        make_webhook(Label, url=self.inboxes[-1].url())
        self._since = time.monotonic()


def test_nothing_is_lost_or_reordered_while_the_sweep_deletes_and_webhooks_come_and_go(
    crew: Crew,
    writers: Callable[[Plan], Writer],
    labels: list[int],
    inbox: Inbox,
    receiver_process: ReceiverProcess,
    figures: Figures,
    is_long: bool,
) -> None:
    changes = 10_000 if is_long else 300
    lasting = make_webhook(Label, url=inbox.url())
    passing = Passing(receiver_process)
    settings = {"LEASE": 6, "SWEEP_INTERVAL": 0.2, "RETENTION_DAYS": {"succeeded": RETENTION / DAY}}
    reaper = Reaper(crew, workers=2, most=500 if is_long else 4, settings=settings)
    crowd = [writers(Plan(f"w{n}", changes // 2, labels, pause=0.05)) for n in range(2)]
    storm.rage(reaper, crowd, 1700 if is_long else 180, also=passing.replace)
    crew.hire(**settings)  # a worker begins with a whole sweep
    stored = lasting.deliveries.all()
    until(lambda: stored.count() == 0, 60, lambda: f"{stored.count()} deliveries to be deleted")
    account = ledger.settle(inbox.received())
    accounts = [ledger.settle(one.received()) for one in passing.inboxes]
    figures(f"{account}; {reaper}; {len(accounts)} webhooks came and went; {Delivery.objects.count()} deliveries left")
    ledger.check_rows()
    account.check()
    for one in accounts:  # it may have missed what happened before and after it
        assert [] == one.invented == one.out_of_order == one.doubled, f"{one}"
    assert account.committed >= changes
    assert reaper.kills >= 3
    assert sum(one.arrived for one in accounts) > 0
