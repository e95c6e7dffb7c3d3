"""Let a run take the events of transactions that were open when it began.

An event gets its id before its transaction commits. So events with lower ids may appear after a run has passed them.
Before such a run ends, it waits for the transactions that were open at its first step, and then reads its range again.
Mostly they are short: it begins after them, and reads once.

A transaction also goes by the webhooks that it read at its first change. So the second reading ends with the newest
event of that moment: an open transaction may have recorded later events without a new webhook.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from webhooks.delivery.runs.kinds import kind_of
from webhooks.ground.db import DatabaseNow, fetch_all, is_postgresql
from webhooks.models import Run
from webhooks.models.worker import in_worker_transaction

# A run begins its first reading at most so many seconds after its first step, even if transactions are open.
SHORT_SECONDS = 5.0

# Seconds between two looks for the open transactions: before the first reading, and before the second one.
LOOK_EVERY_BEFORE, LOOK_EVERY = 0.1, 1.0

# Transactions without an id have written nothing. A prepared one belongs to no process. A process without a user is one
# of PostgreSQL itself, such as autovacuum while it analyzes a table.
_OPEN = """
    SELECT backend_xid::text, pid FROM pg_stat_activity
    WHERE datname = current_database() AND backend_xid IS NOT NULL AND usesysid IS NOT NULL AND pid <> pg_backend_pid()
    UNION ALL
    SELECT transaction::text, 0 FROM pg_prepared_xacts WHERE database = current_database()
"""


def open_transactions(using: str) -> dict[str, int]:
    """The transactions of other sessions that have written something: the processes of PostgreSQL by transaction id."""
    return dict(fetch_all(using, _OPEN)) if is_postgresql(using) else {}  # SQLite has one writer


@dataclass(frozen=True)
class Late:
    """Where a run is with its readings. It stores this as a dictionary."""

    open: Mapping[str, int]
    """The transactions that were open at its first step, and still are: see ``open_transactions``."""
    reading: int = 0
    """0: the run waits before its first reading. 1 and 2: it is in this one, or has ended it."""
    done: int = 0
    """The rows under ``RunKind.late_key`` that it has done."""

    @classmethod
    def of(cls, run: Run) -> Late:
        return cls(**run.late) if run.late else cls({})

    def add(self, done: int) -> Late:
        return replace(self, done=self.done + done)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) if self.reading or self.open else {}


def is_waiting(run: Run) -> bool:
    """Whether a running run takes no step until transactions have ended, or until the next look for them."""
    late, has_ended_reading = Late.of(run), run.total is not None and not run.cursors
    is_between = late.reading == 0 or (late.reading == 1 and has_ended_reading)
    return is_between and kind_of(run).late_key(run) is not None


def ready(run: Run) -> Run | None:
    """The run as it is now if it may take a step. None if it waits: it is due again later."""
    return in_worker_transaction(Run.objects.db, lambda: _look(run.pk)) if is_waiting(run) else run


def _look(pk: int) -> Run | None:
    run = Run.objects.due().select_for_update(skip_locked=True).filter(pk=pk).first()
    if run is None or not is_waiting(run):
        return run
    late, still_open = Late.of(run), open_transactions(Run.objects.db)
    if run.late:
        still_open = {xid: pid for xid, pid in still_open.items() if xid in late.open}
    late = replace(late, open=still_open)
    is_new = not Run.objects.filter(pk=pk, created__lt=DatabaseNow(-SHORT_SECONDS)).exists()
    if still_open and (late.reading or is_new):
        run.save_step(late=late.as_dict(), look_at=DatabaseNow(LOOK_EVERY if late.reading else LOOK_EVERY_BEFORE))
        return None
    _begin_reading(run, replace(late, reading=late.reading + 1))
    return run


def _begin_reading(run: Run, late: Late) -> None:
    """Read the range up to the newest event. The first reading has passed the rows that cannot come late."""
    kind = kind_of(run)
    since, key = run.filters.get("created_after"), str(kind.late_key(run))
    begin, last = kind.bounds(datetime.fromisoformat(since) if since else None)
    passed = {name: count for name, count in run.counts.items() if name != key}
    run.save_step(
        late=late.as_dict(),
        look_at=None,
        counted_event=begin,
        last_event=last,
        total=None,
        counts=passed | ({key: late.done} if late.done else {}),
        cursors={},
        failed=0,
        skipped=sum(passed.values()) - (run.done - late.done),
    )
