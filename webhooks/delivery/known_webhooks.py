"""The webhooks of deliveries, which a worker reads again only if their rows have changed.

With events for 100 webhooks, to read these for each batch took an eighth of the processor time of a delivery.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db import connections
from django.db.models import Func, TextField

from webhooks.ground.db import QueryByKeys, is_postgresql
from webhooks.models.columns import webhook_model
from webhooks.models.webhook_states import WebhookState
from webhooks.models.worker import keep_webhooks

if TYPE_CHECKING:
    from webhooks.models import Webhook

# All webhooks are read again after so many seconds, and with a new connection to the database: after a crash or a
# restore, PostgreSQL may use the same numbers of transactions again.
KEPT_SECONDS = 60.0


class Version(Func):
    """A text that changes if PostgreSQL updates the row: its transaction, its place in the table, and when a user saved
    it. Empty on SQLite, which has no such thing."""

    template = "''"
    output_field = TextField()

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        table = connection.ops.quote_name(webhook_model()._meta.db_table)
        parts = (f"{table}.{column}::text" for column in ("xmin", "ctid", "last_updated"))
        return self.as_sql(compiler, connection, template=" || ".join(parts), **context)


@cache
def _columns() -> list[str]:
    return [field.attname for field in webhook_model()._meta.concrete_fields]


_rows = QueryByKeys(lambda: webhook_model().objects.annotate(version=Version()).values_list(*_columns(), "version"))
_versions = QueryByKeys(lambda: webhook_model().objects.annotate(version=Version()).values_list("pk", "version"))

# A worker changes these columns itself, and no request depends on them.
_STATE = {"created", "last_updated", *(field.attname for field in WebhookState._meta.concrete_fields)}


class Known(NamedTuple):
    """Webhooks with their versions, by id."""

    connection: Any
    """The connection of the driver that read them."""
    until: float
    webhooks: dict[int, tuple[str, Webhook]]


_known = Known(None, 0.0, {})


def webhooks_by_id(using: str, ids: Collection[int], keeps: bool = False) -> dict[int, Webhook]:
    """As ``Webhook.objects.in_bulk``. Do not change the instances: other batches have the same ones. With ``keeps``,
    their rows stay until the end of the transaction, and those that another transaction has locked are left out."""
    known = _known_by(connections[using].connection)
    asked = known.keys() & ids
    versions = dict(_versions.fetch(using, asked, keeps)) if asked else {}
    webhooks = {pk: known[pk][1] for pk, version in versions.items() if known[pk][0] == version}
    if unknown := [pk for pk in ids if pk not in webhooks]:
        for *row, version in _rows.fetch(using, unknown, keeps):
            webhook = webhook_model().from_db(using, _columns(), row)
            webhooks[webhook.pk] = webhook
            if version:
                known[webhook.pk] = version, webhook
    return webhooks


def kept_webhooks(using: str, ids: Collection[int]) -> tuple[dict[int, Webhook], set[int]]:
    """The webhooks with these ids, by id. Their rows stay until the end of the transaction. A row that another
    transaction has locked is read without its changes. Second, the ids of those that it may have deleted."""
    kept = webhooks_by_id(using, ids, keeps=True)
    locked = [pk for pk in ids if pk not in kept]
    if not locked or not is_postgresql(using):
        return kept, set()
    free = keep_webhooks(using, locked)
    unchanged = webhooks_by_id(using, locked)  # after the lock: a row that is here now, is here until it is free
    kept |= {pk: webhook for pk, webhook in unchanged.items() if pk in free}
    return kept, unchanged.keys() - free


def may_go_on(webhook: Webhook, current: Webhook | None) -> bool:
    """Whether deliveries that were claimed for ``webhook`` may be sent. ``current`` is its row as it is now, or None if
    it was deleted."""
    if current is None or not current.enabled or current.paused_at is not None:
        return False
    return webhook is current or all(
        getattr(webhook, name) == getattr(current, name) for name in _columns() if name not in _STATE
    )


def _known_by(connection: Any) -> dict[int, tuple[str, Webhook]]:
    global _known
    if connection is None or connection is not _known.connection or time.monotonic() > _known.until:
        _known = Known(connection, time.monotonic() + KEPT_SECONDS, {})
    return _known.webhooks
