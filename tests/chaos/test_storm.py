"""Changes pour in while workers and writers are killed: exactly the committed changes arrive, in order."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.chaos import ledger, storm
from tests.chaos.crew import Crew, Writer
from tests.chaos.killer import Killer
from tests.chaos.writer import Plan
from tests.support.figures import Figures
from tests.support.inbox import Inbox
from tests.support.makers import make_webhook
from tests.testapp.models import Label
from webhooks.models import Event

pytestmark = [pytest.mark.postgresql, pytest.mark.slow]

URL = "slow/0.01"


def test_nothing_is_lost_invented_or_reordered_while_workers_and_writers_are_killed(
    crew: Crew,
    writers: Callable[[Plan], Writer],
    labels: list[int],
    inbox: Inbox,
    figures: Figures,
    is_long: bool,
) -> None:
    changes = 10_000 if is_long else 400
    make_webhook(Label, url=inbox.url(URL))
    began = time.monotonic()
    killer = Killer(crew, workers=3, most=1000 if is_long else 6)
    crowd = [writers(Plan(f"w{n}", changes // 4, labels, pause=0.05)) for n in range(4)]
    storm.rage(killer, crowd, 1700 if is_long else 120)
    account = ledger.settle(inbox.received(URL))
    figures(
        f"{account}; {killer}; {sum(writer.kills for writer in crowd)} writers killed, "
        f"{storm.intended(crowd) - account.committed} changes died with them; {time.monotonic() - began:.0f} s"
    )
    ledger.check_rows()
    account.check()
    killer.check_repeats(account)
    assert account.committed >= changes
    assert Event.objects.count() == account.committed
    assert killer.kills >= 5
