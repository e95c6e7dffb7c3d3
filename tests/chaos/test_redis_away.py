"""Redis dies, comes back empty and is emptied, or does not answer: nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from redis import Redis

from tests.chaos import ledger, storm
from tests.chaos.crew import Crew, Writer
from tests.chaos.killer import Killer
from tests.chaos.writer import Plan
from tests.support.figures import Figures
from tests.support.inbox import Inbox
from tests.support.makers import make_webhook
from tests.support.servers import free_port, own_valkey
from tests.support.valkey import Valkey
from tests.support.waiting import PATIENCE, until
from tests.testapp.models import Label

pytestmark = [pytest.mark.postgresql, pytest.mark.slow]

URL = "slow/0.01"


@pytest.fixture
def valkey(crew: Crew) -> Iterator[Valkey]:
    """The Redis of this test's workers and writers."""
    server = Valkey()
    crew.redis_url = server.url
    yield server
    crew.end()
    server.stop()


@pytest.mark.storm  # besides the tests below, and test_storm.py
def test_the_storm_goes_on_while_redis_is_killed_and_emptied(
    crew: Crew,
    writers: Callable[[Plan], Writer],
    valkey: Valkey,
    labels: list[int],
    inbox: Inbox,
    figures: Figures,
    is_long: bool,
) -> None:
    changes = 10_000 if is_long else 300
    make_webhook(Label, url=inbox.url(URL))
    began = time.monotonic()
    killer = Killer(crew, workers=3, most=1000 if is_long else 3)
    crowd = [writers(Plan(f"w{n}", changes // 4, labels, pause=0.05)) for n in range(4)]
    blows = [valkey.flush, valkey.restart_empty, valkey.flush, valkey.restart_empty]
    lost_keys: list[int] = []

    def strike_redis() -> None:
        if len(lost_keys) < len(blows) and ledger.count() > (len(lost_keys) + 1) * changes // 6:
            lost_keys.append(blows[len(lost_keys)]())

    storm.rage(killer, crowd, 1700 if is_long else 120, also=strike_redis)
    account = ledger.settle(inbox.received(URL))
    figures(
        f"{account}; Valkey lost {lost_keys} keys in 2 kills and 2 FLUSHALLs, {killer}, "
        f"{sum(writer.kills for writer in crowd)} writers killed; {time.monotonic() - began:.0f} s"
    )
    ledger.check_rows()
    account.check()
    killer.check_repeats(account)
    assert len(lost_keys) == 4
    assert account.committed >= changes


def save(crew: Crew, redis_url: str, count: int) -> None:
    """Save so many labels in another process, each in a transaction."""
    crew.redis_url = redis_url
    log = crew.directory / "saver.log"
    with log.open("wb") as output:
        saver = crew.run(["-m", "tests.chaos.saver", str(count)], crew.environment(), output)
    assert saver.wait(60 * PATIENCE) == 0, log.read_text()


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_worker_goes_on_without_redis_and_with_it_again(
    crew: Crew, valkey: Valkey, inbox: Inbox, figures: Figures, how: str
) -> None:
    make_webhook(Label, url=inbox.url())
    worker = crew.by_name[crew.hire()]
    save(crew, valkey.url, 1)
    inbox.wait_for(1)
    valkey.kill() if how == "killed" else valkey.freeze()
    save(crew, valkey.url, 10)
    began = time.time()
    without = max(one.at for one in inbox.wait_for(11, seconds=10)) - began
    until(lambda: "Redis does not answer" in worker.text, 30, "the worker to miss Redis")
    if how == "killed":
        valkey.revive()
    else:
        valkey.thaw()
    save(crew, valkey.url, 10)
    began = time.time()
    again = max(one.at for one in inbox.wait_for(21, seconds=10)) - began
    until(lambda: "Redis answers again" in worker.text, 30, "the worker to find Redis again")
    until(lambda: Redis.from_url(valkey.url).keys("rq:worker:*"), 30, "the worker to register again")
    figures(
        f"the last of 10 changes arrived {without:.1f} s after it was saved without Redis, {again:.1f} s with it again"
    )
    assert worker.process.poll() is None
    assert len(inbox.received()) == 21


def test_changes_saved_without_redis_and_worker_go_out_when_both_are_back(
    crew: Crew, inbox: Inbox, figures: Figures
) -> None:
    make_webhook(Label, url=inbox.url())
    port = free_port()
    save(crew, f"redis://127.0.0.1:{port}/0", 20)
    worker = crew.by_name[crew.hire()]
    until(lambda: "Redis does not answer" in worker.text or inbox.received(), 20, "the worker to miss Redis")
    with own_valkey(port) as (_, url):
        assert url == crew.redis_url
        began = time.time()
        late = max(one.at for one in inbox.wait_for(20, seconds=10)) - began
        figures(f"20 changes went out {late:.1f} s after Redis was back")
        crew.end()
