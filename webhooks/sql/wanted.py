"""What the enabled webhooks want, which every transaction asks at its first change."""

from __future__ import annotations

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


def read(using: str) -> list[Wanted]:
    """The database gathers the ids: its answer has a few rows for each model, not one for each webhook and model."""
    ids = "STRING_AGG(webhook.id::text, ',')" if is_postgresql(using) else "GROUP_CONCAT(webhook.id)"
    found = rows(
        using,
        f"""
        SELECT kind.app_label, kind.model, on_created, on_updated, on_deleted, ids FROM (
            SELECT contenttype_id, on_created, on_updated, on_deleted, {ids} AS ids
            FROM webhooks_webhook AS webhook
            JOIN webhooks_webhook_object_types AS chosen ON chosen.webhook_id = webhook.id
            WHERE enabled GROUP BY contenttype_id, on_created, on_updated, on_deleted
        ) AS wanted JOIN django_content_type AS kind ON kind.id = contenttype_id
        """,
    )
    return [Wanted(row[0], row[1], row[2], row[3], row[4], [int(pk) for pk in row[5].split(",")]) for row in found]
