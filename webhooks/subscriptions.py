"""Which webhooks want which change."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property

from django.contrib.contenttypes.models import ContentType
from django.db import connections

from webhooks.models import Action, Webhook

# In the order of the columns of the statement.
ACTIONS = (Action.CREATED, Action.UPDATED, Action.DELETED)


@dataclass(frozen=True)
class Subscriptions:
    """The enabled webhooks as one transaction saw them: ids by object type and action."""

    by_change: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def matching(self, object_type: str, action: Action) -> list[int]:
        """The ids of the webhooks that want this action on "dcim.site", in order."""
        return self.by_change.get((object_type, action), [])

    def touch(self, object_type: str) -> bool:
        """Whether any webhook wants anything of "dcim.site"."""
        return object_type in self._object_types

    @cached_property
    def _object_types(self) -> set[str]:
        return {object_type for object_type, _ in self.by_change}


def current(using: str) -> Subscriptions:
    """The subscriptions as of now, in one query.

    It is asked in every transaction, so it is not left to the ORM, which takes longer to put it together than the
    database to answer; and the database gathers the ids, so that its answer has a few rows for each model, not one
    for each webhook and model. Nothing of it is kept for the next transaction: there is no way of editing a webhook,
    in this process or another, that could be missed.
    """
    connection = connections[using]
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    with connection.cursor() as cursor:
        cursor.execute(_statement(connection.vendor))
        for app_label, model, *wants, ids in cursor.fetchall():
            for action in (action for action, is_wanted in zip(ACTIONS, wants, strict=True) if is_wanted):
                found[f"{app_label}.{model}", action] += map(int, ids.split(","))
    return Subscriptions({change: sorted(ids) for change, ids in found.items()})


def _statement(vendor: str) -> str:
    webhooks, chosen = Webhook._meta.db_table, Webhook.object_types.through._meta.db_table
    ids = "STRING_AGG(webhook.id::text, ',')" if vendor == "postgresql" else "GROUP_CONCAT(webhook.id)"
    return f"""
        SELECT kind.app_label, kind.model, on_created, on_updated, on_deleted, ids FROM (
            SELECT contenttype_id, on_created, on_updated, on_deleted, {ids} AS ids
            FROM {webhooks} AS webhook JOIN {chosen} AS chosen ON chosen.webhook_id = webhook.id
            WHERE enabled GROUP BY contenttype_id, on_created, on_updated, on_deleted
        ) AS wanted JOIN {ContentType._meta.db_table} AS kind ON kind.id = contenttype_id
    """
