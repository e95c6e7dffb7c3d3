"""Lookups that hang cost few threads and descriptors, and hold up no other receiver."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import make_certificate
from tests.support.inbox import Inbox, ReceiverProcess
from tests.support.json_process import run_module
from tests.support.sending import Transport
from tests.support.waiting import until
from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.outcome import Outcome
from webhooks.workers.network import connect, lookups
from webhooks.workers.network.attempt import Request
from webhooks.workers.network.lookups import MOST_THREADS, in_thread
from webhooks.workers.network.loop import Limits, run

Names = dict[str, Any]


@pytest.fixture
def hangs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """What names call to hang until the end of the test."""
    monkeypatch.setattr(lookups, "_lookups", lookups._Lookups())
    over = threading.Event()

    def hang() -> list[str]:
        over.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    yield hang
    over.set()


def start(transport: Transport, url: str, timeout: float) -> list[Outcome]:
    outcomes: list[Outcome] = []
    transport.start(Request(url, {}, b"{}", timeout, connects=True), outcomes.append)
    return outcomes


def test_names_of_one_domain_that_hang_leave_threads_for_others(
    transport: Transport, names: Names, inbox: Inbox, hangs: Callable[[], list[str]]
) -> None:
    names.update({f"host{number}.hanging.example": hangs for number in range(200)}, **{"a.example": ["127.0.0.1"]})
    late = [start(transport, f"http://host{number}.hanging.example/", timeout=3) for number in range(200)]
    begin = time.monotonic()
    [outcome] = wait_for(transport, start(transport, inbox.url().replace("127.0.0.1", "a.example"), timeout=3))
    assert outcome.succeeded, outcome.reason
    assert time.monotonic() - begin < 2
    assert lookups._lookups._threads == MOST_THREADS // 4
    for outcomes in late:
        wait_for(transport, outcomes)
    assert {outcomes[0].reason for outcomes in late} == {"the name did not resolve within 3 s"}
    assert {outcomes[0].kind for outcomes in late} == {ErrorKind.RESOLVER}
    assert not lookups._lookups._queue, "nothing begins that nobody waits for"


def wait_for(transport: Transport, outcomes: list[Outcome]) -> list[Outcome]:
    while not outcomes:
        transport.poll()
    return outcomes


def test_all_names_that_hang_have_few_threads(
    transport: Transport, names: Names, hangs: Callable[[], list[str]]
) -> None:
    names.update({f"hooks.domain{number}.example": hangs for number in range(300)})
    late = [start(transport, f"http://hooks.domain{number}.example/", timeout=1) for number in range(300)]
    assert lookups._lookups._threads == MOST_THREADS * 3 // 4
    for outcomes in late:
        wait_for(transport, outcomes)


def test_domains_that_hang_leave_threads_for_names_that_have_resolved(
    transport: Transport, names: Names, inbox: Inbox, hangs: Callable[[], list[str]]
) -> None:
    names.update({f"hooks.domain{number}.example": hangs for number in range(300)}, **{"a.example": ["127.0.0.1"]})
    url = inbox.url().replace("127.0.0.1", "a.example")
    assert wait_for(transport, start(transport, url, timeout=20))[0].succeeded
    waiting = [start(transport, f"http://hooks.domain{number}.example/", timeout=60) for number in range(300)]
    for _ in range(3):
        assert wait_for(transport, start(transport, url, timeout=20))[0].succeeded
    assert not any(waiting)


def test_a_lookup_that_takes_long_is_late_although_its_request_waits_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "_lookups", lookups._Lookups())
    monkeypatch.setattr(lookups, "LATE_SECONDS", 0)
    assert run(in_thread("a", "slow", lambda: time.sleep(0.01)), Limits(20)) is None
    monkeypatch.setattr(lookups, "LATE_SECONDS", 20)
    assert run(in_thread("b", "quick", lambda: None), Limits(20)) is None
    assert lookups._lookups._was_late == {"slow": True, "quick": False}


def test_domains_whose_lookups_were_late_leave_half_of_the_threads(
    transport: Transport, names: Names, inbox: Inbox, hangs: Callable[[], list[str]]
) -> None:
    domains = [f"domain{number}.example" for number in range(MOST_THREADS // 2)]
    names.update(
        {f"{host}.{domain}": hangs for domain in domains for host in ("a", "b")}, **{"a.example": ["127.0.0.1"]}
    )
    late = [start(transport, f"http://a.{domain}/", timeout=1) for domain in domains]
    assert {wait_for(transport, outcomes)[0].kind for outcomes in late} == {ErrorKind.RESOLVER}
    waiting = [start(transport, f"http://b.{domain}/", timeout=60) for domain in domains]
    assert wait_for(transport, start(transport, inbox.url().replace("127.0.0.1", "a.example"), 20))[0].succeeded
    assert not any(waiting)


def test_an_address_needs_no_lookup(
    transport: Transport, names: Names, inbox: Inbox, hangs: Callable[[], list[str]]
) -> None:
    names.update({f"hooks.domain{number}.example": hangs for number in range(MOST_THREADS)})
    for name in names:
        start(transport, f"http://{name}/", timeout=60)
    assert wait_for(transport, start(transport, inbox.url(), timeout=20))[0].succeeded


def test_tls_to_an_address_needs_no_lookup(
    transport: Transport, names: Names, hangs: Callable[[], list[str]], tmp_path: Path
) -> None:
    names.update({f"hooks.domain{number}.example": hangs for number in range(MOST_THREADS)})
    for name in names:
        start(transport, f"http://{name}/", timeout=60)
    receiver = ReceiverProcess(*astuple(make_certificate(tmp_path))[1:])
    try:
        request = Request(Inbox(receiver).url(), {}, b"{}", 20, verify=False)
        assert transport.send(request).succeeded
    finally:
        receiver.stop()


def test_requests_for_one_name_share_a_lookup_and_the_next_one_asks_again(
    transport: Transport, names: Names, inbox: Inbox
) -> None:
    asked, go_on = Counter[str](), threading.Event()

    def resolve() -> list[str]:
        asked["a.example"] += 1
        go_on.wait(20)
        return ["127.0.0.1"]

    names["a.example"] = resolve
    url = inbox.url().replace("127.0.0.1", "a.example")
    all_outcomes = [start(transport, url, timeout=20) for _ in range(20)]
    go_on.set()
    assert all(wait_for(transport, outcomes)[0].succeeded for outcomes in all_outcomes)
    assert asked["a.example"] == 1
    assert wait_for(transport, start(transport, url, timeout=20))[0].succeeded
    assert asked["a.example"] == 2


def test_a_lookup_that_hangs_is_not_shared_for_ever(
    names: Names, hangs: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    names["a.example"] = hangs
    assert connect.why_blocked("http://a.example/") == ""
    names["a.example"] = ["169.254.169.254"]
    monkeypatch.setattr(lookups, "SHARED_SECONDS", 1)
    assert "metadata" in connect.why_blocked("http://a.example/")


def test_an_error_of_a_lookup_reaches_all_who_wait_for_it(transport: Transport, names: Names) -> None:
    assert wait_for(transport, start(transport, "http://nothing.example/", 20))[0].kind == ErrorKind.NAME_UNKNOWN
    names["b.example"] = lambda: 1 / 0
    assert "ZeroDivisionError" in wait_for(transport, start(transport, "http://b.example/", 20))[0].reason


def test_a_forked_process_looks_names_up_although_those_of_its_parent_hang(
    names: Names, hangs: Callable[[], list[str]]
) -> None:
    names.update({f"hooks.domain{number}.example": hangs for number in range(MOST_THREADS)})
    steps = [in_thread(name, name, hangs) for name in names]
    for one in steps:
        next(one)
    reader, writer = os.pipe()
    if not (child := os.fork()):
        try:
            os.write(writer, run(in_thread("a", "a", lambda: b"found"), Limits(10)))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as found:
        assert found.read() == b"found"
    os.waitpid(child, 0)


def test_a_system_without_threads_refuses_and_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    real, tries = threading.Thread.start, []

    def refuse(thread: threading.Thread) -> None:
        tries.append(thread)
        if len(tries) == 1:
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(lookups.Refused, match="does not start another thread"):
        run(in_thread("a", "a", lambda: 1), Limits(10))
    assert run(in_thread("a", "a", lambda: 2), Limits(10)) == 2


def test_lookups_that_hang_leave_descriptors_for_the_database(inbox: Inbox) -> None:
    result = run_module("tests.support.hanging_names", inbox.url())
    assert set(result["healthy"]) == {""}
    assert set(result["hanging"]) == {ErrorKind.RESOLVER}
    assert result["free"] >= 16
    assert result["threads"] <= 8
    until(lambda: len(inbox.received()) >= 10, 20, "ten requests")
