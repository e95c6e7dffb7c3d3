"""Runs the suite in several processes, each with its own servers."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.support.figures import MEASURED

ALONE = "timing"  # tests that measure a duration run while no other test does
# The tests of such a folder or module run one after another: in browser they share a Chromium, and the last ones share
# the receivers and the packages that they build.
ONE_BY_ONE = ("tests/browser/", "tests/project/test_docs_receivers.py", "tests/project/test_packaging.py")
# These start many processes. Two of them may run at the same time, one of each half: the names from "a" on, and these.
CHAOS, HALF = "tests/chaos/test_", "q"
# But this one of them runs alone, at the end: all others would wait for it.
MEASURES = "tests/chaos/test_misbehaviour.py"


class Hall:
    """A lock that many tests share, or one holds alone. While one waits to be alone, later tests queue behind it."""

    def __init__(self, directory: str) -> None:
        self._door, self._hall = (os.open(f"{directory}/{name}", os.O_CREAT | os.O_RDWR) for name in ("door", "hall"))

    @contextmanager
    def entered(self, alone: bool) -> Iterator[None]:
        fcntl.flock(self._door, fcntl.LOCK_EX)
        fcntl.flock(self._hall, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(self._door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._hall, fcntl.LOCK_UN)


def is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker(ALONE) is not None


class Process:
    """The plugin of each test process."""

    def __init__(self, hall: str) -> None:
        self._hall = Hall(hall)

    @pytest.hookimpl(wrapper=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Iterator[None]:
        yield
        items.sort(key=is_alone)  # at the end, where no other test has to wait for them

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # outside of the test's timeout
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[Any]:
        with self._hall.entered(is_alone(item)):
            return (yield)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        session.config.workeroutput["measured"] = MEASURED  # type: ignore[attr-defined]


class Scheduling(LoadScopeScheduling):
    """A free process takes the next test. All tests of a place in ``ONE_BY_ONE``, and of each half of chaos, go to the
    same process."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(MEASURES):
            return nodeid
        if nodeid.startswith(CHAOS):
            return f"{CHAOS}{'a' if nodeid.removeprefix(CHAOS) < HALF else HALF}"
        return next((place for place in ONE_BY_ONE if nodeid.startswith(place)), nodeid)

    def _assign_work_unit(self, node: Any) -> None:
        """Forget the finished tests of the process first: xdist goes through all of them after each test."""
        assigned = self.assigned_work[node].items()
        self.assigned_work[node] = {scope: unit for scope, unit in assigned if not all(unit.values())}
        super()._assign_work_unit(node)


class Controller:
    """The plugin of the process that starts the others."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="webhooks-hall-")

    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Scheduling:
        return Scheduling(config, log)

    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput |= {"hall": self._directory.name, "is_short": is_short(node.config)}

    def pytest_testnodedown(self, node: Any) -> None:
        MEASURED.extend(getattr(node, "workeroutput", {}).get("measured", ()))

    def pytest_unconfigure(self) -> None:
        self._directory.cleanup()


def is_whole(config: pytest.Config) -> bool:
    """Whether a run is of the whole suite, perhaps without a part that it names."""
    option = config.option
    excludes = not option.markexpr or option.markexpr.startswith("not ")
    return config.args_source is pytest.Config.ArgsSource.TESTPATHS and not (option.keyword or option.lf) and excludes


def is_short(config: pytest.Config) -> bool:
    """Whether a run of the whole suite leaves out what only .ci/run needs."""
    if hasattr(config, "workerinput"):
        return bool(config.workerinput["is_short"])
    return is_whole(config) and not config.option.full and not config.option.long


def processes(config: pytest.Config) -> int:
    """How many processes run the tests. 0, only this one, if they are not the whole suite."""
    option = config.option
    is_watched = option.maxfail or option.collectonly or option.capture == "no"
    wanted = is_whole(config) and not is_watched
    return min((os.cpu_count() or 1) + 2, 4) if wanted else 0  # more than there are processors: tests wait a lot


def shared_directory(config: pytest.Config) -> Path | None:
    """A directory of all processes of the run; None if there is only this one."""
    return Path(config.workerinput["hall"]) if hasattr(config, "workerinput") else None


def configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(Process(config.workerinput["hall"]))
    elif config.option.numprocesses:
        config.pluginmanager.register(Controller())
