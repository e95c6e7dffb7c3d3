"""Receivers that misbehave in any way hurt only themselves."""

from __future__ import annotations

import socket
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.crew import Crew
from tests.support.figures import Figures
from tests.support.inbox import Inbox
from tests.support.makers import make_webhook
from tests.support.slow_names import SLOW_NAME
from tests.support.waiting import PATIENCE, until
from tests.testapp.models import Label, Thing
from webhooks.models import Attempt, State

pytestmark = [pytest.mark.postgresql, pytest.mark.slow, pytest.mark.timing]

# A healthy delivery that waits as long has waited for a bad receiver.
TIMEOUT = 2
MEGABYTE = 1024

# What the receiver does, and whether it can count as a success: a body that goes on for ever has begun well.
BEHAVIOURS = {
    "hang": False,
    "drip-header": False,
    "drip-body": False,
    "endless": True,
    "huge-header": False,
    "gzip-bomb": True,
    "redirect/302/ok": False,
    "continues": False,
    "header-flood": False,
    "close": False,
    "garbage": False,
}

# These are sure to use up the timeout: a figure that says so proves that they did misbehave.
HANGING = {"hang", "drip-header", "drip-body", "stalled TLS"}

WORKER = "tests.support.slow_names.SlowNamesWorker"


@pytest.fixture
def stalled_port() -> Iterator[int]:
    """Connections are made, and no handshake is ever answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield server.getsockname()[1]


def peak_memory(pid: int) -> int:
    """The most memory that the process has had since ``forget_peak``, in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def test_bad_receivers_cannot_exceed_timeouts_or_memory_or_delay_others(
    crew: Crew, inbox: Inbox, stalled_port: int, figures: Figures
) -> None:
    good = make_webhook(Label, url=inbox.url())
    crew_worker = crew.by_name[crew.hire(WORKER, RETRY_SCHEDULE=[], PAUSE_AFTER=1000)]
    for number in range(20):
        Label.objects.create(name=f"warm {number}")
    inbox.wait_for(20, behaviour="ok")
    urls = {behaviour: inbox.url(behaviour) for behaviour in BEHAVIOURS}
    urls |= {"stalled TLS": f"https://127.0.0.1:{stalled_port}/"}
    for name, url in urls.items():
        make_webhook(Thing, url=url, name=name, timeout=TIMEOUT)
    make_webhook(Thing, url=f"http://{SLOW_NAME}/", name="slow name", timeout=TIMEOUT)
    forget_peak(crew_worker.pid)
    before = peak_memory(crew_worker.pid)

    for number in range(4):
        Thing.objects.create(name=f"thing {number}")
    saved = set[int]()
    deadline = time.monotonic() + 30 * PATIENCE
    ended: dict[str, list[Attempt]] = {}
    while not (len(ended) == len(urls) and len(saved) >= 25):
        assert time.monotonic() < deadline, f"no attempt ended of {set(urls) - set(ended)}"
        label = Label.objects.create(name=f"healthy {len(saved)}")
        saved.add(label.pk)
        time.sleep(0.1)
        ended = attempts_by_webhook(set(urls))
    # All of each webhook: what hangs goes on one by one, so the second round shows that nothing is held up for good.
    until(lambda: min(map(len, attempts_by_webhook(set(urls)).values())) >= 2, 30, "two attempts at each")
    after = peak_memory(crew_worker.pid)
    inbox.wait_for(20 + len(saved), behaviour="ok")  # the last one was saved a moment ago
    until(lambda: good.deliveries.in_states(State.SUCCEEDED).count() == 20 + len(saved), 30, "the last record")

    ended = attempts_by_webhook(set(urls))
    # Until the worker begins the request. When it is read depends on the receiver, which is busy with its floods.
    healthy = Attempt.objects.filter(delivery__webhook__name=good.name).select_related("delivery__event")
    waits = {
        int(one.delivery.event.object_id): (one.started_at - one.delivery.event.timestamp).total_seconds()
        for one in healthy
        if int(one.delivery.event.object_id) in saved
    }
    longest = {name: max(attempt.duration_ms for attempt in attempts) for name, attempts in ended.items()}
    figures(
        f"{sum(map(len, ended.values()))} attempts at {len(urls)} bad receivers, the longest "
        f"{max(longest.values())} ms "
        f"(timeout {TIMEOUT} s); peak memory {(after - before) / MEGABYTE:+.1f} MB; {len(waits)} healthy deliveries, "
        f"the slowest after {max(waits.values()):.2f} s"
    )
    assert max(longest.values()) <= (TIMEOUT + 1) * 1000, longest
    assert min(longest[name] for name in HANGING) >= TIMEOUT * 1000, longest
    assert {name for name, attempts in ended.items() if any(a.succeeded for a in attempts)} <= {
        name for name, may_succeed in BEHAVIOURS.items() if may_succeed
    }
    assert not attempts_by_webhook({"slow name"}), "name servers that do not answer count no attempt"
    assert set(waits) == saved, "all of the healthy webhook's deliveries arrived"
    assert max(waits.values()) < TIMEOUT, "none waited until a bad receiver had used up its timeout"
    assert after - before < 20 * MEGABYTE
    assert crew_worker.process.poll() is None


def attempts_by_webhook(names: set[str]) -> dict[str, list[Attempt]]:
    found: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in Attempt.objects.select_related("delivery__webhook"):
        if attempt.delivery.webhook.name in names:
            found[attempt.delivery.webhook.name].append(attempt)
    return found
