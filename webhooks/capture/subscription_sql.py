"""What the enabled webhooks want, which every transaction asks at its first change, or whether it is still the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from django.db import Error, connections
from django.db.backends.utils import CursorWrapper

from webhooks.db import fetch_all, is_postgresql

# Seconds that a save may wait where another transaction, such as that of a migration, has locked these tables.
LONGEST_WAIT = 0.1


class Wanted(NamedTuple):
    """The webhooks that want the same actions of one model."""

    app_label: str
    model: str
    created: bool
    updated: bool
    deleted: bool
    webhook_ids: list[int]


@dataclass(frozen=True)
class Answer:
    """Who wants what, what those demand who demand more, as JSON text for each, and a fingerprint of all of it."""

    wanted: list[Wanted]
    demands: list[str]
    fingerprint: str


_TEMPLATES = "(payload_url || ' ' || additional_headers || ' ' || body_template)"
_SHOWS_BEFORE = f"({_TEMPLATES} LIKE '%%snapshots%%' OR {_TEMPLATES} LIKE '%%changed%%')"

# What a webhook demands beyond models and actions, by the names of ``subscriptions.Demand``. Columns of JSON are taken
# as text, so that what is read of it can be remembered by that text.
_DEMANDS = {
    "webhook_id": "id",
    "conditions": "CAST(conditions AS text)",
    "changed_fields": "CAST(changed_fields AS text)",
    "only_changes": "only_changes",
    "prechange": "prechange",
    "serializer": "serializer",
    "custom_events": "CAST(custom_events AS text)",
    "excluded_usernames": "CAST(excluded_usernames AS text)",
    "shows_before": _SHOWS_BEFORE,
}
_DEMANDING = f"""
    conditions IS NOT NULL OR CAST(changed_fields AS text) <> '[]' OR only_changes OR prechange OR {_SHOWS_BEFORE}
    OR serializer <> '' OR CAST(custom_events AS text) <> '[]' OR CAST(excluded_usernames AS text) <> '[]'
"""

# Of everything that the answer is made of, but for the names of content types: to join them would take half as long as
# all the rest. Sorted, for PostgreSQL moves a row that is written to, and workers write to those of webhooks.
# SQLite, to which asking costs little, has none.
_FINGERPRINT = f"""
    SELECT CAST(SHA256(CONVERT_TO(COALESCE(STRING_AGG(told, '' ORDER BY told COLLATE "C"), ''), 'UTF8')) AS text) FROM (
        SELECT CAST(ROW(on_created, on_updated, on_deleted, {", ".join(_DEMANDS.values())}) AS text) AS told
        FROM webhooks_webhook WHERE enabled
        UNION ALL SELECT CAST(ROW(webhook_id, contenttype_id) AS text) FROM webhooks_webhook_object_types
    ) AS everything
"""


def read(using: str, enabled_only: bool = True) -> Answer:
    """The database gathers the ids: its answer has a few rows for each model, not one for each webhook and model, and
    one more for each webhook that has demands."""
    wanted, demands, found = [], [], ""
    statement = _statement(is_postgresql(using), enabled_only)
    for what, app_label, model, created, updated, deleted, told in _read_apart(using, statement):
        if what == "wanted":
            wanted.append(Wanted(app_label, model, created, updated, deleted, [int(pk) for pk in told.split(",")]))
        elif what == "demand":
            demands.append(told)
        else:
            found = told
    return Answer(wanted, demands, found)


def fingerprint(using: str) -> str:
    """That of what ``read`` would answer now; empty where the database has none. It takes a third of the time."""
    return str(_read_apart(using, _FINGERPRINT)[0][0]) if is_postgresql(using) else ""


def _read_apart(using: str, query: str) -> list[tuple[Any, ...]]:
    """Read in a way that spoils nothing of the transaction that is open: in a savepoint, with a short ``lock_timeout``,
    and in one round trip where the driver can. The rollback restores the timeout and gives the tables' locks back.

    SQLite needs none of that: nothing keeps its readers waiting, and an error of a query spoils nothing else.
    """
    if not is_postgresql(using):
        return fetch_all(using, query)
    connection = connections[using]
    begin, end = ["BEGIN"], ["ROLLBACK"]
    if not connection.get_autocommit():
        begin = ["SAVEPOINT webhooks_wanted"]
        end = ["ROLLBACK TO SAVEPOINT webhooks_wanted", "RELEASE SAVEPOINT webhooks_wanted"]
    begin.append(f"SET LOCAL lock_timeout = '{LONGEST_WAIT * 1000:.0f}ms'")
    with connection.cursor() as cursor:
        try:
            return _run(cursor, begin, query, end)
        except Error:
            try:
                for statement in end:
                    cursor.execute(statement)
            except Error:
                connection.needs_rollback = connection.in_atomic_block  # the connection is lost
            raise


def _run(cursor: CursorWrapper, begin: list[str], query: str, end: list[str]) -> list[tuple[Any, ...]]:
    # psycopg 3 sends several statements at once, and gives the results of all of them, unless it may prepare them.
    if getattr(cursor.connection, "prepare_threshold", 0) is None:
        cursor.execute("; ".join([*begin, query, *end]))
        while cursor.description is None:
            cursor.nextset()
        return list(cursor.fetchall())
    for statement in [*begin, query]:
        cursor.execute(statement)
    found = list(cursor.fetchall())
    for statement in end:
        cursor.execute(statement)
    return found


def _statement(for_postgresql: bool, enabled_only: bool) -> str:
    chosen = "enabled" if enabled_only else "deleted_at IS NULL"
    ids = "STRING_AGG(webhook.id::text, ',')" if for_postgresql else "GROUP_CONCAT(webhook.id)"
    build = "json_build_object" if for_postgresql else "json_object"
    demand = ", ".join(f"'{name}', {column}" for name, column in _DEMANDS.items())
    known_by = f"UNION ALL SELECT 'fingerprint', '', '', NULL, NULL, NULL, ({_FINGERPRINT})" if for_postgresql else ""
    return f"""
        SELECT 'wanted', kind.app_label, kind.model, on_created, on_updated, on_deleted, ids FROM (
            SELECT contenttype_id, on_created, on_updated, on_deleted, {ids} AS ids
            FROM webhooks_webhook AS webhook
            JOIN webhooks_webhook_object_types AS picked ON picked.webhook_id = webhook.id
            WHERE {chosen} GROUP BY contenttype_id, on_created, on_updated, on_deleted
        ) AS wanted JOIN django_content_type AS kind ON kind.id = contenttype_id
        UNION ALL
        SELECT 'demand', '', '', on_created, on_updated, on_deleted, CAST({build}({demand}) AS text)
        FROM webhooks_webhook WHERE {chosen} AND ({_DEMANDING})
        {known_by}
        """
