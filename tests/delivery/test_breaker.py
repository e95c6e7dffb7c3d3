"""Faults of our own are not blamed on receivers, and count no attempt."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from tests.support.draining import drain, states
from tests.support.inbox import Inbox
from tests.support.makers import make_delivery, make_event, make_webhook
from tests.support.proxy import Proxy
from tests.support.servers import free_port
from tests.support.waiting import until
from tests.testapp.models import Thing
from webhooks.ground.db import to_utc
from webhooks.ground.error_kinds import ErrorKind, FaultOf
from webhooks.ground.outcome import Outcome
from webhooks.models import Attempt, QueuedDelivery, State, Webhook
from webhooks.workers import breaker as breaking
from webhooks.workers import runner as running
from webhooks.workers.breaker import AVOIDED_TEXTS, DOUBT, MAX_DOUBTFUL, PATIENCE, PROBE_EVERY, Breaker
from webhooks.workers.network.attempt import Request
from webhooks.workers.network.transport import Transport
from webhooks.workers.runner import DeliveryRunner

START = datetime(2026, 11, 24, 12, 4, tzinfo=UTC)


def outcome(kind: ErrorKind | None = None, host: str = "a.example", ms: int = 0, connected: bool = False) -> Outcome:
    reason = {None: "", ErrorKind.PROXY: "the proxy proxy:3128 refuses connections"}.get(kind, "why")
    sent = Request(f"http://{host}/", {}, b"", 60).stored()
    return Outcome(START, ms, reason=reason, kind=kind or "", request=sent, has_connected=connected)


RESOLVER, UNREACHABLE, BEHIND = ErrorKind.RESOLVER, ErrorKind.UNREACHABLE, ErrorKind.PROXY_TARGET
WORKS = outcome(host="other.example", connected=True)

# Outcomes by their second, then the kind of the fault two seconds after the last of them.
CASES: dict[str, tuple[list[tuple[float, Outcome]], ErrorKind | None]] = {
    "the proxy fails once": ([(0, outcome(ErrorKind.PROXY))], ErrorKind.PROXY),
    "a setting is invalid": ([(0, outcome(ErrorKind.SETTINGS))], ErrorKind.SETTINGS),
    "one host has no route": ([(0, outcome(UNREACHABLE)), (1, outcome(UNREACHABLE))], None),
    "two hosts have no route, long after each other": (
        [(0, outcome(UNREACHABLE)), (DOUBT + 1, outcome(UNREACHABLE, "b.example"))],
        None,
    ),
    "two hosts have no route, a third one has later": (
        [(0, outcome(UNREACHABLE)), (0.1, outcome(UNREACHABLE, "b.example")), (0.5, WORKS)],
        None,
    ),
    "two hosts have no route, a third one had before": (
        [(0, WORKS), (0.1, outcome(UNREACHABLE)), (0.5, outcome(UNREACHABLE, "b.example"))],
        UNREACHABLE,
    ),
    "two hosts have no route, a slow answer began before": (
        [(0, outcome(UNREACHABLE)), (0.1, outcome(UNREACHABLE, "b.example")), (0.5, outcome(ms=3000, connected=True))],
        UNREACHABLE,
    ),
    "two hosts have no route, a kept connection works": (
        [(0, outcome(UNREACHABLE)), (0.1, outcome(UNREACHABLE, "b.example")), (0.5, outcome(host="other.example"))],
        UNREACHABLE,
    ),
    "the system has no more threads": ([(0, outcome(ErrorKind.RESOURCES))], ErrorKind.RESOURCES),
    "two names fail": ([(0, outcome(RESOLVER)), (1, outcome(RESOLVER, "b.example"))], None),
    "two names do not exist": ([(0, outcome(ErrorKind.NAME_UNKNOWN)), (0, outcome(ErrorKind.NAME_UNKNOWN, "b"))], None),
    "two hosts have no route": ([(0, outcome(UNREACHABLE)), (1, outcome(UNREACHABLE, "10.0.0.1"))], UNREACHABLE),
    "two hosts have no route, a third refuses": (
        [(0, outcome(UNREACHABLE)), (0.1, outcome(UNREACHABLE, "b")), (0.2, outcome(ErrorKind.REFUSED, "10.0.0.3"))],
        None,
    ),
    "the proxy does not reach two hosts": ([(0, outcome(BEHIND)), (1, outcome(BEHIND, "b.example"))], BEHIND),
    "the proxy does not reach one of two hosts": ([(0, outcome(BEHIND)), (0.5, WORKS)], None),
    "different failures": ([(0, outcome(BEHIND)), (0, outcome(UNREACHABLE, "b.example"))], None),
    "two receivers refuse": ([(0, outcome(ErrorKind.REFUSED)), (0, outcome(ErrorKind.REFUSED, "b"))], None),
}


@pytest.mark.parametrize("case", CASES)
def test_a_fault_of_our_own_counts_nothing_and_any_other_failure_counts(case: str) -> None:
    steps, kind = CASES[case]
    breaker: Breaker[Outcome] = Breaker()
    counted: list[Outcome] = []
    handed_back: list[Outcome] = []
    last = steps[-1][0]
    for now in sorted({at for at, _ in steps} | {last + 2, last + (2 if kind else DOUBT)}):
        judged = breaker.judge([(one, one) for at, one in steps if at == now and one not in counted], now)
        counted += [one for one, _ in judged[0]]
        handed_back += judged[1]
    assert (breaker.fault and breaker.fault.kind) == kind
    failures = [one for _, one in steps if one.kind in breaking.SHARED]
    assert (handed_back, [one for one in counted if one in failures]) == ((failures, []) if kind else ([], failures))


def open_breaker(kind: ErrorKind = ErrorKind.PROXY) -> Breaker[str]:
    breaker: Breaker[str] = Breaker()
    breaker.judge([("first", outcome(kind)), ("second", outcome(kind, "b.example"))], 0)
    breaker.judge([], PATIENCE)
    assert breaker.fault
    return breaker


def test_a_fault_has_a_sentence_and_a_beginning() -> None:
    fault = open_breaker().fault
    assert fault
    assert (fault.text, fault.since) == ("The proxy proxy:3128 refuses connections", START)


def test_each_kind_that_makes_a_worker_avoid_a_webhook_has_a_sentence() -> None:
    assert {kind for kind in ErrorKind if kind.fault == FaultOf.OURS_FOR_WEBHOOK} == AVOIDED_TEXTS.keys()


def test_a_probe_may_be_sent_every_few_seconds() -> None:
    breaker = open_breaker()
    probes = [now / 10 for now in range(300) if breaker.may_probe(now / 10) and not breaker.begin_probe(now / 10)]
    assert probes == [PROBE_EVERY * number for number in range(1, 6)]


@pytest.mark.parametrize("kind", sorted(breaking.SHARED))
def test_the_first_probe_that_works_ends_the_fault(kind: ErrorKind) -> None:
    breaker = open_breaker(kind)
    assert breaker.judge([("probe", outcome(kind))], 6) == ([], ["probe"])
    assert breaker.fault
    for answer in (outcome(ErrorKind.HTTP_500, connected=True), outcome(ErrorKind.ANSWER_TIMEOUT, connected=True)):
        breaker = open_breaker(kind)
        assert breaker.judge([("probe", answer)], 6) == ([("probe", answer)], [])
        assert breaker.fault is None


def test_requests_that_the_end_of_the_proxy_cuts_off_are_handed_back() -> None:
    closed = outcome(ErrorKind.CLOSED, ms=200, connected=True)
    breaker: Breaker[str] = Breaker()
    assert breaker.judge([("before", closed)], 0, uses_proxy=True) == ([], [])
    assert breaker.judge([("it", outcome(ErrorKind.PROXY))], 0.1, uses_proxy=True) == ([], ["it", "before"])
    assert breaker.judge([("after", closed)], 0.2, uses_proxy=True) == ([], ["after"])
    assert breaker.fault
    assert Breaker[str]().judge([("direct", closed)], 0) == ([("direct", closed)], [])


@pytest.mark.parametrize("kind", sorted(kind for kind in ErrorKind if kind.fault == FaultOf.RECEIVER_OR_CUT_OFF))
def test_requests_that_the_end_of_the_route_cuts_off_are_handed_back(kind: ErrorKind) -> None:
    breaker = open_breaker(UNREACHABLE)
    cut_off = outcome(kind, ms=1000, connected=kind != ErrorKind.CONNECT_TIMEOUT)
    assert breaker.judge([("it", cut_off)], PATIENCE + 0.5) == ([], ["it"])
    assert breaker.fault


def test_failures_in_doubt_have_a_limit() -> None:
    breaker: Breaker[int] = Breaker()
    counted, handed_back = breaker.judge([(number, outcome(UNREACHABLE)) for number in range(MAX_DOUBTFUL + 7)], 0)
    assert ([number for number, _ in counted], handed_back) == (list(range(7)), [])


# One worker with real rows


@contextmanager
def worker() -> Iterator[DeliveryRunner]:
    runner = DeliveryRunner("test")
    try:
        yield runner
    finally:
        runner.close(grace=0)


def three_webhooks(inbox: Inbox, hosts: tuple[str, ...] = ("127.0.0.1",) * 3) -> None:
    for number, host in enumerate(hosts):
        url = inbox.url(f"ok?{number}").replace("127.0.0.1", host)
        webhook = make_webhook(Thing, url=url, timeout=3)
        for key in range(4):
            make_event(webhook, object_id=str(key))


def nothing_was_charged() -> bool:
    return (
        set(states()) <= {State.PENDING, State.WAITING, State.SENDING}
        and not Attempt.objects.exists()
        and not Webhook.objects.exclude(failures_in_a_row=0).exists()
    )


@pytest.fixture
def strict(database: str, webhooks_settings: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Every counted failure would pause its webhook at once."""
    webhooks_settings(PAUSE_AFTER=1, RETRY_SCHEDULE=[3600])
    monkeypatch.setattr(breaking, "PROBE_EVERY", 0.3)
    return webhooks_settings


def test_a_proxy_that_is_down_charges_no_attempt_and_all_is_delivered_after_it(
    strict: Any, inbox: Inbox, app_log: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    strict(PROXY=f"http://127.0.0.1:{port}", PAUSE_AFTER=1)
    three_webhooks(inbox)
    with worker() as runner:
        until(lambda: runner.run(0.2) or runner.faults, 20, "a fault")
        runner.run(1)
        assert nothing_was_charged()
        assert [fault.text for fault in runner.faults] == [f"The proxy 127.0.0.1:{port} refuses connections"]
        with closing(Proxy(port=port)):
            runner.run(60)
    assert states() == [State.SUCCEEDED] * 12
    assert Attempt.objects.count() == len(inbox.received()) == 12
    lines = [record.getMessage() for record in app_log.records]
    assert [line.partition(". Deliveries wait")[0] for line in lines] == [
        f"The proxy 127.0.0.1:{port} refuses connections",
        f"Deliveries are sent again. This is over: The proxy 127.0.0.1:{port} refuses connections",
    ]


def fail_to_look_up() -> list[str]:
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


def test_name_servers_that_fail_charge_no_attempt(strict: Any, inbox: Inbox, names: dict[str, Any]) -> None:
    hosts = ("a.example", "b.example", "c.example")
    three_webhooks(inbox, hosts)
    names |= dict.fromkeys(hosts, fail_to_look_up)
    with worker() as runner:
        until(lambda: runner.run(0.2) or runner.faults, 20, "a fault")
        assert nothing_was_charged()
        assert [fault.kind for fault in runner.faults] == [ErrorKind.RESOLVER]
        names |= {host: ["127.0.0.1"] for host in hosts}
        runner.run(60)
    assert states() == [State.SUCCEEDED] * 12


def test_one_receiver_whose_name_servers_fail_is_not_charged_and_does_not_delay_others(
    strict: Any,
    inbox: Inbox,
    names: dict[str, Any],
    app_log: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lookups, clock = Mock(side_effect=fail_to_look_up), SimpleNamespace(now=0.0)
    monkeypatch.setattr(breaking, "elapsed", lambda: clock.now)

    names |= {"a.example": lookups, "b.example": ["127.0.0.1"]}
    three_webhooks(inbox, ("a.example", "b.example", "127.0.0.1"))
    with worker() as runner:
        until(lambda: runner.run(0.2) or states().count(State.SUCCEEDED) == 8, 20, "the others")
        asked = lookups.call_count
        for _ in range(20):
            runner.run(0.05)
        assert [fault.text for fault in runner.faults] == ["The worker cannot look up the names of some receivers"]
        assert lookups.call_count == asked, "no delivery asks before its time"
        assert Attempt.objects.count() == 8
        assert not Webhook.objects.exclude(failures_in_a_row=0).exists()
        names["a.example"] = ["127.0.0.1"]
        clock.now += breaking.AVOID_SECONDS[0]
        until(lambda: runner.run(0.2) or states() == [State.SUCCEEDED] * 12, 20, "the rest")
        assert runner.faults == []
    [line, end] = [record.getMessage() for record in app_log.records]
    assert line.endswith("Its deliveries wait, and no attempt is counted")
    assert "gets its deliveries again" in end


def test_a_name_that_resolves_again_lets_the_worker_try_the_others_at_once(
    strict: Any, inbox: Inbox, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = ("a.example", "b.example", "c.example")
    names |= dict.fromkeys(hosts, fail_to_look_up)
    three_webhooks(inbox, hosts)
    with worker() as runner:
        until(lambda: runner.run(0.2) or len(runner._avoided._by_id) == 3, 20, "three failures")
        avoided = runner._avoided._by_id
        for pk, wait in zip(avoided, (0, 3600, 3600), strict=True):
            avoided[pk] = replace(avoided[pk], until=running.elapsed() + wait)
        names |= {host: ["127.0.0.1"] for host in hosts}
        until(lambda: runner.run(0.2) or states() == [State.SUCCEEDED] * 12, 20, "all of them")


def test_a_host_from_a_template_that_cannot_be_looked_up_delays_only_its_delivery(
    strict: Any, inbox: Inbox, names: dict[str, Any]
) -> None:
    names |= {"bad.example": fail_to_look_up, "good.example": ["127.0.0.1"]}
    url = inbox.url().replace("127.0.0.1", "{{ data.host }}.example")
    webhook = make_webhook(Thing, url=url, timeout=3)
    for number in range(6):
        make_event(webhook, object_id=str(number), data=json.dumps({"host": "good" if number else "bad"}))
    with worker() as runner:
        until(lambda: runner.run(0.2) or states().count(State.SUCCEEDED) == 5, 20, "the others")
        assert runner.faults == []
        assert nothing_was_charged() or Attempt.objects.count() == 5
    assert sorted(states()) == [State.PENDING, *[State.SUCCEEDED] * 5]
    assert to_utc(QueuedDelivery.objects.get().due_at) > datetime.now(UTC) + timedelta(seconds=40)


def test_only_the_probe_of_a_fault_opens_a_new_connection(database: str, inbox: Inbox) -> None:
    """A kept one would say nothing about name servers and routes."""
    make_delivery(make_webhook(Thing, url=inbox.url("held")))
    runner = DeliveryRunner("test")
    try:
        runner.run(0.2, wait=False)
        [held] = runner._claims.claimed.values()
        assert not runner._compose(held).connects
        runner._breaker = open_breaker()
        assert runner._compose(held).connects
    finally:
        runner.close(grace=0)


def test_a_worker_probes_a_fault_once_in_a_few_seconds(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with worker() as runner:
        runner._breaker, probes = open_breaker(), list[bool]()
        monkeypatch.setattr(runner._claims, "claim_one", lambda: probes.append(True) or 0)
        runner.run(60, wait=False)
        runner.run(60, wait=False)
        assert probes == [True]
        runner._breaker._next_probe = 0
        runner.run(60, wait=False)
        assert len(probes) == 2


def test_a_name_that_does_not_exist_is_the_receivers_fault(strict: Any, inbox: Inbox) -> None:
    make_event(make_webhook(Thing, url=inbox.url().replace("127.0.0.1", "no-such.example")))
    with worker() as runner:
        runner.run(20)
    assert Attempt.objects.get().error_kind == ErrorKind.NAME_UNKNOWN
    assert Webhook.objects.get().is_paused


def test_a_system_without_more_threads_charges_no_attempt(
    strict: Any, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    three_webhooks(inbox, ("localhost",) * 3)
    real = threading.Thread.start

    def start(self: threading.Thread) -> None:
        if self.name == "webhooks-lookup":
            raise RuntimeError("can't start new thread")
        real(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    with worker() as runner:
        until(lambda: runner.run(0.2) or runner.faults, 20, "a fault")
        assert nothing_was_charged()
        assert [fault.text for fault in runner.faults] == ["The system of the worker has no resources left"]
        monkeypatch.setattr(threading.Thread, "start", real)
        runner.run(60)
    assert states() == [State.SUCCEEDED] * 12


def test_six_days_without_a_proxy_charge_no_attempt(strict: Any, inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """One paused webhook, too: its probes come from the same schedule as before."""
    clock = time.monotonic()
    monkeypatch.setattr(running, "elapsed", lambda: clock)
    sent = []

    def start(self: Transport, request: Request, done: Callable[[Outcome], None]) -> None:
        sent.append(request.url)
        done(Outcome(datetime.now(UTC), 0, reason="the proxy refuses connections", kind=ErrorKind.PROXY))

    three_webhooks(inbox)
    real = Transport.start
    monkeypatch.setattr(Transport, "start", start)
    with worker() as runner:
        for _ in range(6 * 6):
            before = len(sent)
            until(lambda: runner.run(0.2, wait=False) or runner.poll() or len(sent) > before, 20, "a probe")  # noqa: B023
            clock += 4 * 3600
        assert nothing_was_charged()
        monkeypatch.setattr(Transport, "start", real)
        runner.run(20)
    assert states() == [State.SUCCEEDED] * 12


def test_the_probe_of_a_paused_webhook_is_not_used_up(strict: Any, inbox: Inbox) -> None:
    strict(PROXY=f"http://127.0.0.1:{free_port()}")
    paused = make_webhook(Thing, url=inbox.url(), probe_at=datetime(2026, 1, 1, tzinfo=UTC), probes=2)
    make_event(paused)
    with worker() as runner:
        runner.run(1)
    paused.refresh_from_db()
    assert (paused.probes, paused.probe_at.year > 2026 or to_utc(paused.probe_at) <= datetime.now(UTC)) == (2, True)


def test_a_worker_without_the_key_leaves_a_webhook_to_others(
    strict: Any, inbox: Inbox, settings: Any, app_log: pytest.LogCaptureFixture
) -> None:
    """And goes on with webhooks that it can sign for."""
    make_event(make_webhook(Thing, name="CMDB", url=inbox.url(), secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
    known, settings.SECRET_KEY = settings.SECRET_KEY, "another key"
    make_event(make_webhook(Thing, url=inbox.url()))
    with worker() as runner:
        until(lambda: runner.run(0.2) or sorted(states()) == [State.PENDING, State.SUCCEEDED], 20, "one to be sent")
        assert [fault.text for fault in runner.faults] == ["The worker cannot decrypt the secrets of some webhooks"]
    assert not Webhook.objects.exclude(failures_in_a_row=0).exists()
    [line] = [record.getMessage() for record in app_log.records]
    assert "the secret of webhook “CMDB” cannot be used" in line
    assert "This worker has these keys: SECRET_KEY" in line
    settings.SECRET_KEY = known
    drain()
    assert states() == [State.SUCCEEDED] * 2
