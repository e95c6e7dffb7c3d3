"""The partitions of the history on PostgreSQL: the sweep makes them ahead, and empties and drops old ones.

To delete a row costs a worker as much as a third of a delivery, and leaves dead rows. To empty a partition costs almost
nothing. Deliveries, attempts and bodies are divided by time, because the ids of deliveries begin with it. Events are
divided by their ids. Each table has a default partition for all other rows.

Each change of a table gives up if it does not get its lock at once: a report may hold it for long, and whatever needs
the table then waits behind the change. The next sweep tries again. docs/worker.md has the reasons.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise, takewhile

from django.db import DatabaseError, InterfaceError, OperationalError, connections, transaction

from webhooks.ground.conf import conf
from webhooks.ground.db import database_time, execute, fetch_all, is_postgresql, now_sql
from webhooks.ground.errors import get_logger, is_lock_refused, is_statement_timeout
from webhooks.models.delivery import Delivery, is_state_sql
from webhooks.models.event import OVERLAP
from webhooks.models.ids import id_at
from webhooks.models.queue import at_once_seconds
from webhooks.models.statistic import DAY, Period, unix_time_sql
from webhooks.models.worker import Mark, Sweep, may_delete_events

logger = get_logger(__name__)

EVENT, DELIVERY = "rq_webhooks_event", "rq_webhooks_delivery"

# The tables that are divided by time: the borders of their partitions are the same.
BY_TIME = {DELIVERY: "id", "rq_webhooks_attempt": "delivery_id", "rq_webhooks_body": "delivery_id"}

# A partitioned table has no storage parameters, so each partition takes them from the default partition.
STORAGE = "SELECT reloptions FROM pg_class WHERE oid = to_regclass(%s)"

# A change of a table waits for its locks up to so many milliseconds. Everything else that needs the table waits behind
# it. With many partitions left to drop, it waits for longer.
LOCK_WAIT, LONG_LOCK_WAIT, MANY_LEFT = 50, 500, 30

# A partition has this part of the retention of succeeded deliveries. On a site with few deliveries it is half of it:
# there, old rows are deleted one by one, too. A busy site sends at least so many in the shorter time.
PART, QUIET_PART, BUSY = 8, 2, 30_000

# The first partition begins so many seconds from now. While a report reads the tables, none can be made. So there are
# partitions for as many seconds as that may take, or so many partitions if they are short.
MARGIN, AHEAD, MOST_AHEAD = 5, 1800, 20

# One transaction makes so many partitions of a table. Rows for the default partition wait for its end.
MOST_AT_ONCE = 5

# A partition of events has at least so many ids. The first one begins at least so many after the last event. A burst of
# so many has partitions, too.
MIN_IDS, MIN_MARGIN_IDS, BURST_IDS = 50_000, 10_000, 200_000

# Seconds after the begin of a partition until no event comes with an earlier time, or few.
SETTLED = 60

# PostgreSQL reads the default partition when it adds another one, and nothing else can read it meanwhile.
MAX_DEFAULT_BYTES = 256 * 2**20

# A partition with so few rows left goes: the rows move into the default partition.
FOLDED = 1000

# Two neighbours with so many bytes left become one: a dispatch looks into each partition of its window.
JOINED_BYTES = 16 * 2**20

# If more rows than this stay in a partition, they may be too many to copy.
MANY_STAY = 10_000

# The comment of a partition that was emptied: rows are left that stay for longer. Or so many stay that it cannot be.
EMPTIED = "The sweep deletes its rows one by one."


class HistoryError(Exception):
    """PostgreSQL refused a change of a partition. The sweep logs it, and tries again later."""


@dataclass(frozen=True)
class Partition:
    """A partition of the history. ``begin`` and ``end`` are ids of events, or milliseconds since 1970."""

    stamp: str
    """The end of its name."""
    begin: int
    end: int
    is_emptied: bool

    def has_long_begun(self, moment: int) -> bool:
        """Whether it has been due for longer than it lasts."""
        return self.end + (self.end - self.begin) <= moment


def obstacle(using: str) -> str:
    """Why the history has no partitions: "sqlite", "not_partitioned", "not_owner", "no_create". Empty if it has."""
    if not is_postgresql(using):
        return "sqlite"
    tables = ", ".join(f"to_regclass('{table}')" for table in (EVENT, *BY_TIME))
    creates = "has_schema_privilege(relnamespace, 'CREATE') AND has_database_privilege(current_database(), 'TEMPORARY')"
    of_all = f"BOOL_AND(relkind = 'p'), BOOL_AND(pg_has_role(relowner, 'USAGE')), BOOL_AND({creates})"
    statement = f"SELECT {of_all} FROM pg_class WHERE oid IN ({tables})"
    [[is_partitioned, is_owner, may_create]] = fetch_all(using, statement)
    if not is_partitioned:
        return "not_partitioned"
    return "not_owner" if not is_owner else "" if may_create else "no_create"


def read_partitions(using: str, table: str) -> list[Partition]:
    """The partitions that ``make_ahead`` has made, in order."""
    rows = fetch_all(
        using,
        "SELECT relname, pg_get_expr(relpartbound, oid), obj_description(oid, 'pg_class') "
        "FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = to_regclass(%s)",
        [table],
    )
    partitions = []
    for name, bound, comment in rows:
        borders = re.fullmatch(r"FOR VALUES FROM \('([^']+)'\) TO \('([^']+)'\)", bound or "")  # just dropped
        if borders and name.startswith(f"{table}_p"):
            begin, end = (int(text) if table == EVENT else uuid.UUID(text).int >> 80 for text in borders.groups())
            partitions.append(Partition(name.removeprefix(f"{table}_p"), begin, end, comment == EMPTIED))
    return sorted(partitions, key=lambda part: part.begin)


def _whole(using: str, table: str) -> list[Partition]:
    """The partitions that are not emptied, in order."""
    return [part for part in read_partitions(using, table) if not part.is_emptied]


def first_emptied_later(using: str) -> int | None:
    """The time from which on old deliveries go with their partitions, in milliseconds since 1970. The sweep deletes
    older ones one by one. None: all."""
    if obstacle(using):
        return None
    seconds = conf.retention_days["succeeded"] * DAY
    due = _due(using)
    longest = 2 * seconds * 1000 / PART
    whole = _whole(using, DELIVERY)
    chosen = (part for part in whole if part.end - part.begin <= longest and not part.has_long_begun(due))
    return next((part.begin for part in chosen), None)


# Made ahead


def make_ahead() -> bool:
    """Make the next partitions before there are rows for them. Returns whether there are more to make."""
    using = Delivery.objects.db
    if _is_in_hosts_transaction(using) or obstacle(using):
        return False
    has_more: set[bool] = set()
    _change(using, lambda: has_more.add(_make_by_time(using)))
    _change(using, lambda: has_more.add(_make_of_events(using)))
    _make_mark(using)
    return True in has_more


def _make_by_time(using: str) -> bool:
    known, now = read_partitions(using, DELIVERY), _now(using)
    period = _period(using, is_first=not known)
    until, made = now + _ahead(period), 0
    while (begin := _first_gap(known, now)) < until and made < MOST_AT_ONCE:
        end = (begin // period + 1) * period
        if end - begin < period / 2:
            end += period
        # The clock was far ahead, and made one that begins later.
        end = min([end, *(part.begin for part in known if part.begin > begin)])
        stamp = f"{datetime.fromtimestamp(begin / 1000, UTC):%Y%m%d%H%M%S}"
        for table, column in BY_TIME.items():
            _make(using, table, column, stamp, id_at(begin), id_at(end))
        known.append(Partition(stamp, begin, end, is_emptied=False))
        made += 1
    return begin < until


def _first_gap(known: list[Partition], now: int) -> int:
    """The first time from now on that is in no partition: soon, or where the ones of the present end."""
    ordered = sorted(known, key=lambda part: part.begin)
    is_covered = any(part.begin <= now < part.end for part in ordered)
    gap = now if is_covered else (now // 1000 + MARGIN) * 1000
    for part in ordered:
        if part.begin <= gap < part.end:
            gap = part.end
    return gap


def _make_of_events(using: str) -> bool:
    known, rate = read_partitions(using, EVENT), _rate(using)
    period = _period(using, is_first=not known)
    expected = max(MIN_IDS, int(rate * period / 1000))
    last, end, made = _last_event(using), known[-1].end if known else 0, 0
    until = last + max(expected, int(rate * _ahead(period) / 1000)) + BURST_IDS
    if last >= end:
        [[newest]] = fetch_all(using, f"SELECT COALESCE(MAX(id), 0) FROM {EVENT}")
        end = max(last, newest) + max(MIN_MARGIN_IDS, int(rate * 60))
    while end <= until and made < MOST_AT_ONCE:
        begin, end, made = end, end + expected, made + 1
        _make(using, EVENT, "id", str(begin), begin, end)
    return end <= until


def _make_mark(using: str) -> None:
    """Make a mark when a new partition has begun, so that dispatches look into few partitions."""
    now, known = _now(using), Sweep.get_or_begin()[0].marks
    known = [Mark(*mark) for mark in known]
    latest = max((mark.end for mark in known), default=0)
    marks = [mark for mark in known if mark.milliseconds <= now]  # the clock was ahead, and was set back
    if marks != known:
        # What was created meanwhile must stay in the windows.
        marks = [*marks[:-1], (marks[-1] if marks else Mark(0, 0))._replace(end=latest)]
        Sweep.objects.filter(pk=1).update(marks=marks)
    partitions = read_partitions(using, DELIVERY)
    begun = next((part for part in partitions if part.begin <= now < part.end), None)
    if begun is None or (marks and marks[-1].milliseconds >= begun.begin):
        return
    if now >= begun.begin + min(SETTLED * 1000, (begun.end - begun.begin) // 4):
        border = _last_event(using) + MIN_MARGIN_IDS
        # An event below the mark may be committed later. So the look begins where the mark before was made.
        least = marks[-1].event_id if marks else 0
        partition = max((part.begin for part in read_partitions(using, EVENT) if part.begin <= least), default=0)
        # The next mark comes soon after the begin of the next partition.
        end = next((part.end for part in partitions if part.begin == begun.end), begun.end)
        mark = Mark(border, begun.begin, partition, max(end, latest))
        Sweep.objects.filter(pk=1).update(marks=[*marks[-1:], mark])


def _last_event(using: str) -> int:
    """The highest id that any event has, also one that is not committed yet."""
    statement = f"SELECT COALESCE(pg_sequence_last_value(pg_get_serial_sequence('{EVENT}', 'id')::regclass), 0)"
    return int(fetch_all(using, statement)[0][0])


def _make(using: str, table: str, column: str, stamp: str, begin: int | uuid.UUID, end: int | uuid.UUID) -> None:
    name, default = _name(using, table, f"_p{stamp}"), _name(using, table, "_default")
    [[size]] = fetch_all(using, "SELECT pg_relation_size(to_regclass(%s))", [default])
    if size > MAX_DEFAULT_BYTES:
        raise HistoryError(f"{default} has {size // 2**20} MB, too much to add another partition to its table")
    execute(using, f"LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE")
    _create(using, table, f"_p{stamp}")
    here = f"{column} >= '{begin}' AND {column} < '{end}'"
    # A clock that is ahead may have made some already.
    moved = f"WITH moved AS (DELETE FROM {default} WHERE {here} RETURNING *)"
    execute(using, f"{moved} INSERT INTO {name} SELECT * FROM moved")
    _attach(using, table, name, begin, end)


def _create(using: str, table: str, end: str) -> str:
    """Create a table that can become a partition. Returns its quoted name."""
    name = _name(using, table, end)
    [[options]] = fetch_all(using, STORAGE, [_name(using, table, "_default")])
    storage = f"WITH ({', '.join(options)})" if options else ""
    execute(using, f"CREATE TABLE {name} (LIKE {_name(using, table)} INCLUDING ALL) {storage}")
    return name


def _attach(using: str, table: str, name: str, begin: int | uuid.UUID, end: int | uuid.UUID) -> None:
    root = _name(using, table)
    execute(using, f"ALTER TABLE {root} ATTACH PARTITION {name} FOR VALUES FROM ('{begin}') TO ('{end}')")


def _period(using: str, is_first: bool) -> int:
    """How long a new partition lasts, in milliseconds."""
    seconds = conf.retention_days["succeeded"] * DAY
    is_busy = is_first or _rate(using) * seconds / PART >= BUSY
    return max(1000, int(seconds * 1000 / (PART if is_busy else QUIET_PART)))


def _ahead(period: int) -> int:
    """For how long there are partitions at least, in milliseconds."""
    return max(period, min(AHEAD * 1000, MOST_AHEAD * period))


def _rate(using: str) -> float:
    """How many attempts workers make a second: in the last ten minutes, or in the last day if that is more."""
    now = unix_time_sql(using)
    rows = fetch_all(
        using,
        f"""
        SELECT COALESCE(SUM(attempted) FILTER (WHERE period = {Period.MINUTE}), 0) / 600.0,
            COALESCE(SUM(attempted) FILTER (WHERE period = {Period.HOUR}), 0) / {DAY}.0
        FROM rq_webhooks_statistic
        WHERE period = {Period.MINUTE} AND start >= {now} - 660
            OR period = {Period.HOUR} AND start >= {now} - {DAY}
        """,
    )
    return float(max(rows[0]))


# Emptied and dropped


def _due(using: str) -> int:
    """A partition is due if it ended before this time, in milliseconds since 1970: its succeeded deliveries are older
    than their retention then, except for rows with a noted end."""
    return _now(using) - int((conf.retention_days["succeeded"] * DAY + at_once_seconds()) * 1000)


def drop_old() -> bool:
    """Empty the oldest partition of deliveries and the oldest of events that are due, and drop emptied ones. Rows that
    are stored for longer stay. Returns whether another partition is due."""
    using = Delivery.objects.db
    if _is_in_hosts_transaction(using) or obstacle(using):
        return False
    due, whole = _due(using), _whole(using, DELIVERY)
    old = [part for part in whole if part.end <= due]
    is_emptied = bool(old) and _empty(using, DELIVERY, old[0])
    border = _border(due, whole[1:] if is_emptied else whole)
    # At a high rate, many partitions of events have the events of one of deliveries.
    over = list(takewhile(lambda partition: _is_over(using, partition, border), _whole(using, EVENT)[:2]))
    may_empty = bool(over) and may_delete_events(using)
    are_events_emptied = may_empty and _empty(using, EVENT, over[0])
    for tables in (tuple(BY_TIME), (EVENT,)):
        left = [part for part in read_partitions(using, tables[0]) if part.is_emptied]
        wait = LONG_LOCK_WAIT if len(left) > MANY_LEFT else LOCK_WAIT
        pairs = ((one, other) for one, other in pairwise(left) if one.end == other.begin)
        if few := next((part for part in left if _has_few(using, tables, part)), None):
            _change(using, partial(_fold, using, tables, few), wait)
        elif pair := next((pair for pair in pairs if _bytes_left(using, tables, pair) <= JOINED_BYTES), None):
            _change(using, partial(_join, using, tables, *pair), wait)
    return (is_emptied and len(old) > 1) or (are_events_emptied and len(over) > 1)


def old_in_default(using: str, after: int, most: int) -> list[tuple[int, bool]]:
    """The next events in the default partition whose deliveries may have gone with partitions: ids above ``after``, up
    to ``most``. The others among them have a time ahead, of a wrong clock."""
    if obstacle(using):
        return []
    name, border = _name(using, EVENT, "_default"), _border(_due(using), _whole(using, DELIVERY))
    columns = f"id, EXTRACT(EPOCH FROM timestamp) * 1000 < %s, {_is_ahead_sql(using)}"
    statement = f"SELECT {columns} FROM {name} WHERE id > %s ORDER BY id LIMIT %s"
    rows = fetch_all(using, statement, [border, after, most])
    return [(pk, is_old) for pk, is_old, _ in takewhile(lambda row: row[1] or row[2], rows)]


def _is_ahead_sql(using: str) -> str:
    """Whether the time of an event is ahead of the database's, by more than clocks usually differ."""
    return f"timestamp > {now_sql(using, OVERLAP.total_seconds())}"


def _border(due: int, whole: list[Partition]) -> int:
    """The events of deliveries that are not deleted yet must stay: those from this time on, in milliseconds."""
    return min(due, whole[0].begin) if whole else due


def _is_over(using: str, partition: Partition, border: int) -> bool:
    """Whether all its events are older than ``border``, in milliseconds, and later ones have come. One of a clock that
    is ahead does not count, unless all are."""
    name = _name(using, EVENT, f"_p{partition.stamp}")
    usual = f"SELECT EXTRACT(EPOCH FROM timestamp) * 1000 FROM {name} WHERE NOT {_is_ahead_sql(using)}"
    is_old = f"COALESCE(({usual} ORDER BY id DESC LIMIT 1) < %s, NOT EXISTS (SELECT 1 FROM {name}))"
    later = f"(SELECT MAX(id) FROM {EVENT}) >= {partition.end}"
    [[is_old, has_later]] = fetch_all(using, f"SELECT {is_old}, {later}", [border])
    return bool(is_old and has_later)


def _empty(using: str, table: str, partition: Partition) -> bool:
    """Empty a partition of deliveries, with their attempts and bodies, or of events. Returns false if a lock was not
    free.

    If so many rows stay that PostgreSQL stops it, the sweep deletes its rows one by one. It would be stopped each time,
    and the next partitions would wait for it.
    """
    find_staying, empty = (_events_that_stay, _empty_of_events) if table == EVENT else (_that_stay, _empty_by_time)
    stays = find_staying(using, partition)
    try:
        return _change(using, lambda: empty(using, partition, stays))
    except OperationalError as error:
        staying = stays.replace("UNION", "UNION ALL")  # so that PostgreSQL counts no further than it must
        few = f"SELECT id FROM ({staying}) AS staying (id) WHERE id IS NOT NULL LIMIT {MANY_STAY}"
        counted = f"SELECT COUNT(*) FROM ({few}) AS few"
        if not is_statement_timeout(error) or fetch_all(using, counted)[0][0] < MANY_STAY:
            raise
    logger.warning("Too many rows of %s_p%s stay to empty it. They are deleted one by one", table, partition.stamp)
    if table == EVENT:  # they may have been looked at before
        Sweep.objects.filter(pk=1, last_event__gte=partition.begin).update(last_event=partition.begin - 1)
    return _change(using, lambda: _mark_emptied(using, _name(using, table, f"_p{partition.stamp}")))


def _that_stay(using: str, partition: Partition) -> str:
    """A SELECT of the deliveries of a partition that stay, by indexes of these few rows: it may have a hundred
    millions. Without the last state that a webhook got of an object, an earlier failed delivery would not be superseded
    any more."""
    name = _name(using, DELIVERY, f"_p{partition.stamp}")
    before = f"STATEMENT_TIMESTAMP() - make_interval(secs => {conf.retention_days['succeeded'] * DAY:f})"
    here = f"delivery_id >= '{id_at(partition.begin)}' AND delivery_id < '{id_at(partition.end)}'"
    failed = f"""
        SELECT webhook_id, lane, MIN(event_id) AS event_id FROM rq_webhooks_queue
        WHERE failed_at IS NOT NULL AND lane IS NOT NULL AND delivery_id < '{id_at(partition.end)}'
        GROUP BY webhook_id, lane
    """
    last_state = f"""(
        SELECT later.id FROM {name} AS later
        WHERE later.lane IS NOT NULL AND later.webhook_id = failed.webhook_id AND later.lane = failed.lane
            AND (later.webhook_id, later.lane, later.event_id) > (failed.webhook_id, failed.lane, failed.event_id)
            AND later.outcome = 'succeeded' AND {is_state_sql("later.event_id")}
            AND (SELECT delivery_id FROM rq_webhooks_queue WHERE delivery_id = later.id) IS NULL
        ORDER BY later.webhook_id DESC, later.lane DESC, later.event_id DESC LIMIT 1
    )"""
    return f"""
        SELECT delivery_id FROM rq_webhooks_queue WHERE {here}
        UNION SELECT id FROM {name} WHERE error_kind <> ''
        UNION SELECT id FROM {name} WHERE discarded_at IS NOT NULL
        UNION SELECT id FROM {name} WHERE noted_end >= {before}
        UNION SELECT {last_state} FROM ({failed}) AS failed
    """


def _events_that_stay(using: str, partition: Partition) -> str:
    """The same of events. One statement: a dispatch may just turn an undispatched event into deliveries."""
    name = _name(using, EVENT, f"_p{partition.stamp}")
    here = f"event_id >= {partition.begin} AND event_id < {partition.end}"
    return f"""
        SELECT id FROM {name} WHERE error <> '' AND replayed_at IS NULL
        UNION SELECT event_id FROM rq_webhooks_undispatched WHERE {here}
        UNION SELECT event_id FROM {DELIVERY} WHERE {here}
    """


def _empty_by_time(using: str, partition: Partition, stays: str) -> None:
    delivery, *others = (_name(using, table, f"_p{partition.stamp}") for table in BY_TIME)
    _lock(using, *others, delivery)
    _keep(using, "kept_0", f"SELECT * FROM {delivery} WHERE id IN ({stays})")
    for number, name in enumerate(others, 1):
        _keep(using, f"kept_{number}", f"SELECT * FROM {name} WHERE delivery_id IN (SELECT id FROM kept_0)")
    _put_back(using, [delivery, *others])


def _empty_of_events(using: str, partition: Partition, stays: str) -> None:
    name = _name(using, EVENT, f"_p{partition.stamp}")
    _lock(using, name)
    _keep(using, "kept_0", f"SELECT * FROM {name} WHERE id IN ({stays})")
    _put_back(using, [name])


def _fold(using: str, tables: tuple[str, ...], partition: Partition) -> None:
    """Move the few rows that are left into the default partition, and drop the partition."""
    names = [_name(using, table, f"_p{partition.stamp}") for table in tables]
    _lock(using, *reversed(names))  # DROP locks the whole tables, when the rows are copied
    for number, name in enumerate(names):
        _keep(using, f"kept_{number}", f"SELECT * FROM {name}")
    execute(using, f"DROP TABLE {', '.join(names)}")
    for number, table in enumerate(tables):
        execute(using, f"INSERT INTO {table} SELECT * FROM kept_{number}")
        execute(using, f"DROP TABLE kept_{number}")


def _join(using: str, tables: tuple[str, ...], first: Partition, second: Partition) -> None:
    """Make one emptied partition of two neighbours. The rows are copied before anything locks the whole tables."""
    both = {table: [_name(using, table, f"_p{part.stamp}") for part in (first, second)] for table in tables}
    for table, names in both.items():
        execute(using, f"LOCK TABLE {', '.join(names)} IN SHARE ROW EXCLUSIVE MODE")
        joined = _create(using, table, "_joined")
        for name in names:
            execute(using, f"INSERT INTO {joined} SELECT * FROM {name}")
    execute(using, f"DROP TABLE {', '.join(name for names in both.values() for name in names)}")
    for table, (name, _) in both.items():
        execute(using, f"ALTER TABLE {_name(using, table, '_joined')} RENAME TO {table}_p{first.stamp}")
        is_of_events = table == EVENT
        begin, end = (first.begin, second.end) if is_of_events else (id_at(first.begin), id_at(second.end))
        _attach(using, table, name, begin, end)
        if table in (DELIVERY, EVENT):
            _mark_emptied(using, name)


def _lock(using: str, *names: str) -> None:
    execute(using, f"LOCK TABLE {', '.join(names)} IN ACCESS EXCLUSIVE MODE")


def _keep(using: str, name: str, statement: str) -> None:
    execute(using, f"CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS {statement}")


def _put_back(using: str, names: list[str]) -> None:
    """Empty these partitions, and insert the rows that were kept. Marks the first one."""
    execute(using, f"TRUNCATE {', '.join(names)}")
    for number, name in enumerate(names):
        execute(using, f"INSERT INTO {name} SELECT * FROM kept_{number}")
        execute(using, f"DROP TABLE kept_{number}")
    _mark_emptied(using, names[0])


def _mark_emptied(using: str, name: str) -> None:
    execute(using, f"COMMENT ON TABLE {name} IS '{EMPTIED}'")


def _bytes_left(using: str, tables: tuple[str, ...], parts: tuple[Partition, ...]) -> int:
    """Of partitions that were emptied, which have no dead rows to speak of."""
    names = [f"'{_name(using, table, f'_p{part.stamp}')}'" for table in tables for part in parts]
    sizes = ", ".join(f"(pg_table_size(to_regclass({name})))" for name in names)
    return int(fetch_all(using, f"SELECT SUM(bytes) FROM (VALUES {sizes}) AS sizes (bytes)")[0][0])


def _has_few(using: str, tables: tuple[str, ...], partition: Partition) -> bool:
    names = [_name(using, table, f"_p{partition.stamp}") for table in tables]
    rows = " UNION ALL ".join(f"(SELECT 1 FROM {name} LIMIT {FOLDED + 1})" for name in names)
    return bool(fetch_all(using, f"SELECT COUNT(*) <= {FOLDED} FROM ({rows}) AS left_over")[0][0])


# The key of an advisory lock: the letters "whrt" and a number, see ``models.worker``.
_LOCK = "2003333748, 2"


def _is_in_hosts_transaction(using: str) -> bool:
    """Whether a test of the host called the worker. Its locks would last until the end of the test."""
    return bool(connections[using].savepoint_ids)  # Django's savepoint_ids: no documented name says how deep a block is


def _change(using: str, work: Callable[[], None], wait: int = LOCK_WAIT) -> bool:
    """Run ``work`` in a savepoint. Returns false if another worker is at it, or a lock is not free in ``wait``
    milliseconds."""
    try:
        with transaction.atomic(using):
            settings = f"current_setting('lock_timeout'), set_config('lock_timeout', '{wait}ms', true)"
            [[is_free, before, _]] = fetch_all(using, f"SELECT pg_try_advisory_xact_lock({_LOCK}), {settings}")
            if is_free:
                work()
            # The rest of the transaction waits for rows, as usual.
            fetch_all(using, "SELECT set_config('lock_timeout', %s, true)", [before])
            return bool(is_free)
    except DatabaseError as error:
        if is_lock_refused(error):
            logger.info("A table of the history is in use. The sweep divides it later")
            return False
        is_away = isinstance(error, OperationalError | InterfaceError) and not connections[using].is_usable()
        if is_away or is_statement_timeout(error):
            raise
        raise HistoryError(str(error)) from error


def _name(using: str, table: str, end: str = "") -> str:
    """The quoted name of a partition, in the schema of its table."""
    rows = fetch_all(
        using,
        "SELECT format('%%I.%%I', nspname, relname::text || %s) FROM pg_class "
        "JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = to_regclass(%s)",
        [end, table],
    )
    return str(rows[0][0])


def _now(using: str) -> int:
    """The time by the database's clock, in milliseconds since 1970."""
    return int(database_time(using) * 1000)
