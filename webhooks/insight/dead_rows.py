"""What keeps PostgreSQL from removing dead rows: old transactions, and tables that no VACUUM has cleaned for long.

VACUUM removes no row that the oldest transaction may still read. Meanwhile tables and indexes grow, and statements read
past the dead rows. SQLite has neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from django.apps import apps
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webhooks.db import fetch_all, is_postgresql
from webhooks.insight.wording import exact_time, number, span
from webhooks.models import Event

# Seconds that a transaction may be open, and that a table with many dead rows may wait for VACUUM.
PATIENCE = 600

# An open transaction is reported if at least this many others have begun since: fewer leave few dead rows. If
# PostgreSQL does not say when it was opened, the second number decides alone.
TRANSACTIONS, TRANSACTIONS_IF_UNKNOWN = 1000, 100_000

# A table has many dead rows if there are at least this many, and more than half as many as live ones.
DEAD_ROWS = 10_000

# How many transactions are read, and how many tables are shown.
MAX_SHOWN = 5


class Kind(StrEnum):
    SESSION = "session"
    STANDBY = "standby"
    PREPARED = "prepared"
    SLOT = "slot"


@dataclass(frozen=True)
class OpenTransaction:
    """A transaction that holds back VACUUM. If a standby or a replication slot has it, it is open on the standby."""

    kind: Kind
    name: str
    """The process id of a session or standby, or the name."""
    user: str = ""
    application: str = ""
    state: str = ""
    since: datetime | None = None
    """When it was opened. None if PostgreSQL does not say."""
    seconds: float = 0.0
    """For how long it is open."""
    transactions: int = 0
    """How many others have begun since."""

    @property
    def holder(self) -> str:
        """Who has opened it: "the session 4711 of the user “report” (pg_dump, idle in transaction)"."""
        forms = {
            (Kind.SESSION, True): _("the session %(name)s of the user “%(user)s”"),
            (Kind.SESSION, False): _("the session %(name)s"),
            (Kind.PREPARED, True): _("the prepared transaction “%(name)s” of the user “%(user)s”"),
            (Kind.PREPARED, False): _("the prepared transaction “%(name)s”"),
            (Kind.STANDBY, False): _("a query on a standby that the process %(name)s serves"),
            (Kind.SLOT, False): _("the replication slot “%(name)s”"),
        }
        has_user = bool(self.user) and self.kind in (Kind.SESSION, Kind.PREPARED)
        holder = forms[self.kind, has_user] % {"name": self.name, "user": self.user}
        details = ", ".join(filter(None, (self.application, self.state)))
        return f"{holder} ({details})" if details else holder

    @property
    def age(self) -> str:
        """For how long it is open."""
        if self.since is None:
            form = ngettext("for %(number)s transaction", "for %(number)s transactions", self.transactions)
            return form % {"number": number(self.transactions)}
        return _("since %(time)s, for %(span)s") % {"time": exact_time(self.since), "span": span(self.seconds)}

    @property
    def remedy(self) -> str:
        match self.kind:
            case Kind.SESSION:
                return _("It ends with the transaction. To end the session at once, in psql:")
            case Kind.STANDBY:
                return _("It ends with the query. To end it at once, do so on the standby.")
            case Kind.PREPARED:
                return _("Commit it, or roll it back in psql:")
        if self.state == "active":
            return _("It ends with a query on the standby that uses the slot. To end it at once, do so there.")
        return _("Start the standby that uses the slot. If there is none any more, drop the slot in psql:")

    @property
    def command(self) -> str:
        quoted = "'" + self.name.replace("'", "''") + "'"
        match self.kind:
            case Kind.SESSION:
                return f"SELECT pg_terminate_backend({self.name});"
            case Kind.PREPARED:
                return f"ROLLBACK PREPARED {quoted};"
            case Kind.SLOT if self.state != "active":
                return f"SELECT pg_drop_replication_slot({quoted});"
        return ""


@dataclass(frozen=True)
class Table:
    """The rows of a table as PostgreSQL estimates them."""

    name: str
    live: int
    dead: int
    vacuumed_at: datetime | None = None
    seconds: float = 0.0
    """Since the last VACUUM, or since the start of the server if there was none."""

    @property
    def needs_vacuum(self) -> bool:
        return self.dead >= DEAD_ROWS and self.dead > self.live / 2 and self.seconds > PATIENCE


@dataclass(frozen=True)
class VacuumState:
    """Empty on SQLite."""

    open: tuple[OpenTransaction, ...] = ()
    """Those that are open for too long, the one that holds back most first."""
    tables: tuple[Table, ...] = ()
    """Those of the app, the one with the most dead rows first."""
    user: str = ""
    """The database's user, as SQL writes it."""
    sees_all: bool = True
    """Whether this user may see since when the transactions of other users are open."""
    patience_s: ClassVar = PATIENCE

    @property
    def shown_tables(self) -> Sequence[Table]:
        return self.tables[:MAX_SHOWN]

    @property
    def is_in_trouble(self) -> bool:
        return bool(self.open) or any(table.needs_vacuum for table in self.tables)

    @property
    def dead(self) -> int:
        return sum(table.dead for table in self.tables)


# A session without a transaction holds back nothing. Neither does a VACUUM. A standby has no database.
_OPEN = """
    SELECT * FROM (
        SELECT CASE backend_type WHEN 'walsender' THEN 'standby' ELSE 'session' END, pid::text, usename,
            application_name, state, xact_start AS since,
            EXTRACT(EPOCH FROM STATEMENT_TIMESTAMP() - xact_start)::float8 AS seconds,
            GREATEST(AGE(backend_xid), AGE(backend_xmin)) AS transactions
        FROM pg_stat_activity
        WHERE pid <> PG_BACKEND_PID() AND (datname = CURRENT_DATABASE() OR datname IS NULL)
            AND pid NOT IN (SELECT pid FROM pg_stat_progress_vacuum)
        UNION ALL
        SELECT 'prepared', gid, owner, '', '', prepared,
            EXTRACT(EPOCH FROM STATEMENT_TIMESTAMP() - prepared)::float8, AGE(transaction)
        FROM pg_prepared_xacts WHERE database = CURRENT_DATABASE()
        UNION ALL
        SELECT 'slot', slot_name, '', '', CASE WHEN active THEN 'active' ELSE 'inactive' END, NULL, NULL, AGE(xmin)
        FROM pg_replication_slots
    ) AS found
    WHERE transactions >= %s AND (seconds > %s OR seconds IS NULL AND transactions >= %s)
    ORDER BY transactions DESC LIMIT %s
"""

_TABLES = """
    SELECT pg_stat_user_tables.relname, n_live_tup, n_dead_tup, vacuumed_at,
        EXTRACT(EPOCH FROM STATEMENT_TIMESTAMP() - COALESCE(vacuumed_at, PG_POSTMASTER_START_TIME()))::float8,
        QUOTE_IDENT(CURRENT_USER), PG_HAS_ROLE('pg_read_all_stats', 'USAGE')
    FROM pg_stat_user_tables CROSS JOIN LATERAL (SELECT GREATEST(last_vacuum, last_autovacuum) AS vacuumed_at) AS last
        LEFT JOIN pg_inherits ON inhrelid = relid  -- a partition counts with its table
        JOIN pg_class ON pg_class.oid = COALESCE(inhparent, relid)
    WHERE pg_class.relname = ANY(%s) AND schemaname = ANY(CURRENT_SCHEMAS(false))
    ORDER BY n_dead_tup DESC, 1
"""


def read_vacuum_state() -> VacuumState:
    """Read it in two queries of PostgreSQL's own statistics. They do not read the tables themselves."""
    using = Event.objects.db
    if not is_postgresql(using):
        return VacuumState()
    found = fetch_all(using, _OPEN, [TRANSACTIONS, PATIENCE, TRANSACTIONS_IF_UNKNOWN, MAX_SHOWN])
    open_ones = tuple(
        OpenTransaction(Kind(kind), name, user or "", application or "", state or "", since, seconds or 0, transactions)
        for kind, name, user, application, state, since, seconds, transactions in found
    )
    models = apps.get_app_config("rq_webhooks").get_models(include_auto_created=True)
    rows = fetch_all(using, _TABLES, [[model._meta.db_table for model in models]])
    user, sees_all = rows[0][5:] if rows else ("", True)
    return VacuumState(open_ones, tuple(Table(*row[:5]) for row in rows), user, sees_all)
