"""The webhooks of deliveries, which a worker reads again only if their rows have changed.

With events for 100 webhooks, to read these for each batch took an eighth of the processor time of a delivery.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from django.db.models import Func, TextField

from webhooks.db import QueryByKeys
from webhooks.models import Webhook

# All webhooks are read again after so many seconds: a restored backup of the database may repeat a version.
KEPT_SECONDS = 60.0


class Version(Func):
    """A text that changes whenever PostgreSQL updates the row: its transaction, and its place in the table. Empty on
    SQLite, which has no such thing."""

    template = "''"
    output_field = TextField()

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        table = connection.ops.quote_name(Webhook._meta.db_table)
        return self.as_sql(compiler, connection, template=f"{table}.xmin::text || {table}.ctid::text", **context)


_columns = [field.attname for field in Webhook._meta.concrete_fields]
_rows = QueryByKeys(lambda: Webhook.objects.annotate(version=Version()).values_list(*_columns, "version"))
_versions = QueryByKeys(lambda: Webhook.objects.annotate(version=Version()).values_list("pk", "version"))

_known: dict[int, tuple[str, Webhook]] = {}
"""Webhooks with their versions, by id."""
_known_since = 0.0


def webhooks_by_id(using: str, ids: Collection[int], keeps: bool = False) -> dict[int, Webhook]:
    """As ``Webhook.objects.in_bulk``. Do not change the instances: other batches have the same ones. With ``keeps``,
    their rows stay until the end of the transaction."""
    global _known, _known_since
    if time.monotonic() - _known_since > KEPT_SECONDS:
        _known, _known_since = {}, time.monotonic()
    known = _known  # another thread may begin a new one
    asked = known.keys() & ids
    versions = dict(_versions.fetch(using, asked, keeps)) if asked else {}
    found = {pk: known[pk][1] for pk, version in versions.items() if known[pk][0] == version}
    if unknown := [pk for pk in ids if pk not in found]:
        for *row, version in _rows.fetch(using, unknown, keeps):
            webhook = Webhook.from_db(using, _columns, row)
            found[webhook.pk] = webhook
            if version:
                known[webhook.pk] = version, webhook
    return found
