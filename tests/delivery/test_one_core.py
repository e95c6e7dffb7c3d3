"""The two threads of a busy worker use one processor core, and nothing else does because of that."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.inbox import Inbox
from tests.support.makers import make_event, make_webhook
from tests.support.waiting import until
from tests.testapp.models import Thing
from webhooks.models import State
from webhooks.workers import one_core
from webhooks.workers.one_core import OneCore, allow_cores, allowed_cores
from webhooks.workers.runner import DeliveryRunner
from webhooks.workers.sender import _Composers

ALL = allowed_cores()

pytestmark = pytest.mark.skipif(len(ALL) < 2, reason="this machine has one processor core")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(one_core, "BUSY_SECONDS", 0.0)
    monkeypatch.setattr(one_core, "CHOSEN_AGAIN_AFTER", 3600.0)
    yield
    allow_cores(ALL)


class Other:
    """A thread that waits."""

    def __init__(self) -> None:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._end.wait, daemon=True)
        self._thread.start()

    def id(self) -> int | None:
        return self._thread.native_id

    @property
    def cores(self) -> set[int]:
        return allowed_cores(self._thread.native_id or 0)

    def end(self) -> None:
        self._end.set()
        self._thread.join()


@pytest.fixture
def other() -> Iterator[Other]:
    thread = Other()
    yield thread
    thread.end()


def be_busy(core: OneCore) -> None:
    core.note(is_busy=True)
    core.note(is_busy=True)


def test_two_busy_threads_use_one_core_until_the_end_of_the_block(other: Other) -> None:
    with OneCore(other.id) as core:
        core.note(is_busy=True)
        assert allowed_cores() == other.cores == ALL, "it is busy only after a while"
        core.note(is_busy=True)
        assert allowed_cores() == other.cores
        assert len(other.cores) == 1
        core.note(is_busy=False)
        assert len(other.cores) == 1, "a moment without work moves nothing"
    assert allowed_cores() == other.cores == ALL


def test_the_core_is_the_one_that_runs_the_thread(other: Other) -> None:
    for one in ALL:
        allow_cores({one})
        until(lambda one=one: one_core._current_core() == one, 10, f"core {one}")
        allow_cores(ALL)


def test_a_thread_that_begins_meanwhile_may_use_all_cores_in_the_end(other: Other) -> None:
    with OneCore(other.id) as core:
        be_busy(core)
        late = Other()
        assert len(late.cores) == 1
    assert late.cores == ALL
    late.end()


def test_threads_that_the_host_keeps_to_one_core_stay_there(other: Other) -> None:
    kept = {core: Other() for core in ALL}
    for core, thread in kept.items():
        allow_cores({core}, thread.id() or 0)
    with OneCore(other.id) as one:
        be_busy(one)
    for core, thread in kept.items():
        assert thread.cores == {core}
        thread.end()
    assert allowed_cores() == other.cores == ALL


def test_the_two_threads_may_use_all_cores_again_whatever_happened_meanwhile(
    other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change of the cpuset moves them, and without descriptors the other threads are unknown."""

    def fail(path: str) -> list[str]:
        raise OSError(errno.EMFILE, "Too many open files")

    with OneCore(other.id) as core:
        be_busy(core)
        for thread in (0, other.id() or 0):
            allow_cores(ALL - allowed_cores(thread), thread)
        monkeypatch.setattr(os, "listdir", fail)
    assert allowed_cores() == other.cores == ALL


def test_what_the_host_has_restricted_stays_restricted(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    restored = list[object]()
    with OneCore(other.id) as core:
        be_busy(core)
        assert core._before is one_core.ALL, "it follows a cpuset that grows"
    monkeypatch.setattr(one_core, "ALL", frozenset({min(ALL)}))  # as if the host had chosen some of the cores
    with OneCore(other.id) as core:
        be_busy(core)
        restored.append(core._before)
    assert restored == [ALL]
    assert allowed_cores() == other.cores == ALL


def test_a_core_is_chosen_again_after_a_while(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_core, "CHOSEN_AGAIN_AFTER", 0.0)
    seen = []
    with OneCore(other.id) as core:
        for _ in range(6):
            core.note(is_busy=True)
            seen.append(len(other.cores) == 1)
    assert seen == [False, True, False, True, False, True]


def test_work_with_pauses_is_not_busy(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_core, "BUSY_SECONDS", 3600.0)
    with OneCore(other.id) as core:
        be_busy(core)
        assert allowed_cores() == other.cores == ALL
    monkeypatch.setattr(one_core, "BUSY_SECONDS", 0.0)
    with OneCore(other.id) as core:
        for is_busy in (True, False, True):
            core.note(is_busy)
        assert allowed_cores() == other.cores == ALL


def test_a_process_with_one_core_changes_nothing(other: Other) -> None:
    allow_cores({min(ALL)})
    with OneCore(other.id) as core:
        be_busy(core)
        assert other.cores == ALL
    assert allowed_cores() == {min(ALL)}


@pytest.mark.parametrize("problem", ["no such call", "refused", "no /proc", "ended"])
def test_a_worker_goes_on_where_the_system_cannot_do_it(
    other: Other, monkeypatch: pytest.MonkeyPatch, problem: str
) -> None:
    def refuse(*args: Any) -> None:
        raise PermissionError

    if problem == "no such call":
        monkeypatch.delattr(os, "sched_setaffinity")
        monkeypatch.delattr(os, "sched_getaffinity")
    elif problem == "refused":
        monkeypatch.setattr(os, "sched_setaffinity", refuse)
    elif problem == "no /proc":
        monkeypatch.setattr(one_core, "Path", lambda path: Path("/nowhere"))
    else:
        other.end()
    with OneCore(other.id) as core:
        be_busy(core)
    monkeypatch.undo()
    assert allowed_cores() == ALL


def test_a_thread_that_makes_requests_uses_all_cores(other: Other) -> None:
    """So does the process that renders templates, which it starts."""
    seen = list[set[int]]()
    with OneCore(other.id) as core:
        composers = _Composers[int](lambda job: seen.append(allowed_cores()), core.free_this_thread)
        be_busy(core)
        composers.add(1)
        until(lambda: seen, 10, "the thread")
    composers.close()
    assert seen == [ALL]


@pytest.mark.usefixtures("database")
def test_a_busy_worker_uses_one_core_until_it_has_nothing_to_do(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    for number in range(20):
        make_event(webhook, object_id=str(number))
    runner = DeliveryRunner("test")

    def sender() -> set[int]:
        return allowed_cores(runner._sender.core._other() or 0)

    seen = list[tuple[set[int], set[int]]]()
    outcomes = runner._sender.outcomes
    monkeypatch.setattr(
        runner._sender, "outcomes", lambda *a, **more: seen.append((allowed_cores(), sender())) or outcomes(*a, **more)
    )
    succeeded = webhook.deliveries.in_states(State.SUCCEEDED)
    try:
        until(lambda: runner.run(5) or succeeded.count() == 20, 30, "20 deliveries")
        assert allowed_cores() == sender() == ALL
    finally:
        runner.close(grace=0)
    assert any(len(main) == 1 and main == other for main, other in seen)
