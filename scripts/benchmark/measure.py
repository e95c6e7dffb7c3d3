"""Measures seconds of this process, and CPU and memory of other processes. Linux only."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from django.apps import apps
from django.db import connection
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_delete, pre_save

from scripts.benchmark.targets import NotMeasured

Work = Callable[[], None]

# A context manager that prepares, yields the work to time, and cleans up.
Condition = Callable[[], AbstractContextManager[Work]]

SIGNALS = (pre_save, post_save, pre_delete, post_delete, m2m_changed)

# The clock of all threads of a process, ended ones too: see clock_getcpuclockid(3).
CPU_CLOCK = 2


def median_seconds(rounds: int, *conditions: Condition, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """The median seconds of the work under each condition. Each round starts with another condition."""
    seconds: list[list[float]] = [[] for _ in conditions]
    for number in range(rounds):
        for position in range(len(conditions)):
            index = (position + number) % len(conditions)
            seconds[index].append(_seconds(conditions[index], clock))
    return [median(times) for times in seconds]


def _seconds(condition: Condition, clock: Callable[[], float]) -> float:
    with condition() as work:
        started = clock()
        work()
        return clock() - started


@contextmanager
def without_webhooks() -> Iterator[None]:
    """Disconnect the signal receivers of this app. The project keeps its own."""
    connected = {signal: list(signal.receivers or []) for signal in SIGNALS}
    others = {signal: [one for one in receivers if not _is_ours(one)] for signal, receivers in connected.items()}
    if others == connected:
        raise NotMeasured("the app has connected no signal receivers, so there is nothing to compare")
    _set_receivers(others)
    try:
        yield
    finally:
        _set_receivers(connected)


def _is_ours(receiver: Any) -> bool:
    # Django's key of a receiver starts with its dispatch_uid. All receivers of this app have one.
    uid = receiver[0][0]
    return isinstance(uid, str) and uid.startswith("webhooks.")


def _set_receivers(by_signal: dict[Any, list[Any]]) -> None:
    for signal, receivers in by_signal.items():
        with signal.lock:
            signal.receivers = receivers
            signal.sender_receivers_cache.clear()


def cpu_seconds(pids: Iterable[int]) -> float:
    """The user and system CPU seconds of these processes so far. Raises OSError if one of them has ended."""
    return sum(time.clock_gettime(~pid << 3 | CPU_CLOCK) for pid in pids)


class Meter:
    """The processor time of processes from now on. Ended ones count as far as they were seen."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._began = dict[int, float]()
        for pid in pids:
            with suppress(OSError):  # it has ended, as a worker of autovacuum does
                self._began[pid] = cpu_seconds([pid])
        self._at = time.monotonic()

    def cores(self) -> float:
        """How many cores they have used on average."""
        used = 0.0
        for pid, before in self._began.items():
            with suppress(OSError):
                used += cpu_seconds([pid]) - before
        return used / (time.monotonic() - self._at)


@contextmanager
def niced(pids: Collection[int]) -> Iterator[None]:
    """Give processes the lowest priority meanwhile, as if they ran elsewhere and only took what is left.

    PostgreSQL gives each of its processes a session. With autogroups, Linux weighs sessions, so these are niced too.
    """
    _set_nice(pids, 19)
    try:
        yield
    finally:
        with suppress(PermissionError):  # only root may raise a priority again
            _set_nice(pids, 0)


def _set_nice(pids: Collection[int], nice: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # it has ended
            os.setpriority(os.PRIO_PROCESS, pid, nice)
            autogroup = Path(f"/proc/{pid}/autogroup")
            if os.getsid(pid) == pid and autogroup.exists():
                autogroup.write_text(str(nice))


@dataclass(frozen=True)
class CoreTimes:
    """The time of all cores of this machine so far, in ticks: all of it, and the part in which they did nothing."""

    total: int
    idle: int

    @classmethod
    def now(cls) -> CoreTimes:
        # user, nice, system, idle, iowait, irq, softirq, steal; then guests, which user contains
        ticks = [int(number) for number in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return cls(sum(ticks), ticks[3] + ticks[4])

    def busy_since(self, before: CoreTimes) -> float:
        """The share of the time since then in which the cores worked."""
        return 1 - (self.idle - before.idle) / max(1, self.total - before.total)


def memory_mb(pid: int) -> float:
    """The resident memory of a process in megabytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [kilobytes] = [line.split()[1] for line in lines if line.startswith("VmRSS")]
    return int(kilobytes) / 1024


def database_pids() -> list[int]:
    """The PostgreSQL processes that serve other connections to this database."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        return sorted(row[0] for row in cursor.fetchall())


def server_pids() -> list[int]:
    """All PostgreSQL processes but the one of this connection, also those that serve no connection."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        return sorted(row[0] for row in cursor.fetchall())


def _table_ids() -> list[int]:
    """The tables of the app in PostgreSQL, and their partitions."""
    models = apps.get_app_config("rq_webhooks").get_models()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT found.id::oid::bigint FROM unnest(%s::regclass[]) AS root (id) CROSS JOIN LATERAL "
            "(SELECT relid FROM pg_partition_tree(root.id) UNION ALL SELECT root.id) AS found (id)",
            [[model._meta.db_table for model in models]],
        )
        return [int(row[0]) for row in cursor.fetchall()]


def table_names() -> list[str]:
    """The tables of the app that have rows themselves: of a partitioned one its partitions."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND oid = ANY(%s::oid[])", [_table_ids()]
        )
        return sorted(row[0] for row in cursor.fetchall())


@dataclass(frozen=True)
class Storage:
    """What the tables of the app take: megabytes of tables, their indexes and the whole database, and dead rows."""

    tables: float
    indexes: float
    disk: float
    dead: int


def storage() -> Storage:
    """The size of the tables now, and the dead rows by PostgreSQL's statistics."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT SUM(pg_table_size(oid)), SUM(pg_indexes_size(oid)), pg_database_size(current_database()), "
            "SUM(pg_stat_get_dead_tuples(oid)) FROM pg_class WHERE oid = ANY(%s::oid[])",
            [_table_ids()],
        )
        tables, indexes, disk, dead = cursor.fetchone()
    megabytes = [float(size) / 2**20 for size in (tables, indexes, disk)]
    return Storage(megabytes[0], megabytes[1], megabytes[2], int(dead))


def mean_within(samples: Sequence[Any], name: str, begin: float, end: float) -> float:
    """The mean of an attribute of the samples from ``begin`` to ``end``, in their ``seconds``. A busy machine may take
    none in the second of a quick run: then of the last one before. Raises NotMeasured if there is none."""
    earlier = [one for one in samples if one.seconds <= end]
    if not earlier:
        raise NotMeasured(f"no sample was taken within {end:.0f} s")
    found = [one for one in earlier if one.seconds >= begin] or earlier[-1:]
    return float(mean(getattr(one, name) for one in found))


@dataclass(frozen=True)
class Writes:
    """Writes to the tables of the app, by PostgreSQL's statistics."""

    tuples: int
    updates: int
    hot_updates: int
    wal_bytes: int

    def __sub__(self, before: Writes) -> Writes:
        return Writes(*(now - then for now, then in zip(vars(self).values(), vars(before).values(), strict=True)))


# A session reports its statistics at the end of a statement, at most once a second. An idle worker has one each second.
REPORTED_WITHIN = 1.5

# The rows that an idle worker may write meanwhile.
IDLE_ROWS = 10


def table_writes() -> Writes:
    """Rows written so far. Waits until all sessions have reported them."""
    now, before = _table_writes(), None
    while before is None or now.tuples - before.tuples > IDLE_ROWS:
        time.sleep(REPORTED_WITHIN)
        now, before = _table_writes(), now
    return now


def _table_writes() -> Writes:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT SUM(n_tup_ins + n_tup_upd + n_tup_del), SUM(n_tup_upd), SUM(n_tup_hot_upd), "
            "pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') FROM pg_stat_user_tables WHERE relid = ANY(%s::oid[])",
            [_table_ids()],
        )
        return Writes(*(int(value) for value in cursor.fetchone()))
