"""What the enabled webhooks want, which every transaction asks at its first change, or whether it is still the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from webhooks.sql.dialect import is_postgresql, rows


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
    for what, app_label, model, created, updated, deleted, told in rows(
        using, _statement(is_postgresql(using), enabled_only)
    ):
        if what == "wanted":
            wanted.append(Wanted(app_label, model, created, updated, deleted, [int(pk) for pk in told.split(",")]))
        elif what == "demand":
            demands.append(told)
        else:
            found = told
    return Answer(wanted, demands, found)


def fingerprint(using: str) -> str:
    """That of what ``read`` would answer now; empty where the database has none. It takes a third of the time."""
    return str(rows(using, _FINGERPRINT)[0][0]) if is_postgresql(using) else ""


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
