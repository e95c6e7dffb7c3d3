"""Which enabled webhooks want which change, and their filters, as read at the first change of a transaction."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from django.db import Error, connections, models

from webhooks import conditions, db, registry
from webhooks.conditions import ConditionError
from webhooks.db import fetch_all, is_aborted, is_conflict, is_postgresql
from webhooks.logs import get_logger
from webhooks.models import Action

logger = get_logger(__name__)

# Seconds that a save may wait for a lock on the tables, such as the lock of a migration.
LOCK_TIMEOUT = 0.1

# Seconds without another read of the tables after a wait that timed out.
PAUSE = 5.0

# Seconds. If the tables cannot be read, cached subscriptions up to this age are used.
MAX_AGE = 60.0


@dataclass(frozen=True)
class Filters:
    """What one webhook wants, beyond models and actions.

    ``conditions`` are JSON text, or empty. ``shows_prechange``: one of its templates may show the previous state.
    """

    webhook_id: int
    conditions: str = ""
    changed_fields: tuple[str, ...] = ()
    only_changes: bool = False
    prechange: bool = False
    shows_prechange: bool = False
    serializer: str = ""
    custom_events: tuple[str, ...] = ()
    excluded_usernames: tuple[str, ...] = ()

    @property
    def needs_data(self) -> bool:
        """Whether it depends on the data of an Event if the webhook wants it."""
        return bool(self.conditions or self.changed_fields or self.only_changes)

    @cached_property
    def needs_prechange(self) -> bool:
        """Whether the webhook needs the state before an update."""
        if self.prechange or self.shows_prechange or self.only_changes or self.changed_fields:
            return True
        try:
            return bool(self.conditions) and conditions.parse_stored(self.conditions).needs_prechange
        except ConditionError:
            return False  # each Event then fails with this error


@dataclass(frozen=True)
class Subscriptions:
    """What the enabled webhooks want: their ids by object type and action, and by custom event. ``filters`` has those
    webhooks that have any, by id."""

    by_change: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    filters: dict[int, Filters] = field(default_factory=dict)
    by_event: dict[str, list[int]] = field(default_factory=dict)
    _has_subscribers: dict[type[models.Model], bool] = field(default_factory=dict, init=False, compare=False)
    _serializers: dict[str, tuple[str, ...]] = field(default_factory=dict, init=False, compare=False)

    def has_subscribers(self, model: type[models.Model]) -> bool:
        """Whether any webhook wants changes of a model, or of the models that it inherits rows from."""
        found = self._has_subscribers.get(model)
        if found is None:
            labels = {registration.label for registration in registry.registrations_touched(model)}
            found = self._has_subscribers[model] = not labels.isdisjoint(self.object_types)
        return found

    def matching(self, object_type: str, action: Action, username: str = "") -> list[int]:
        """The ids of the webhooks that want this action on "dcim.site" from this user, in order."""
        return self._without_excluded(self.by_change.get((object_type, action), []), username)

    def for_custom_event(self, name: str, username: str = "") -> list[int]:
        """The ids of the webhooks that want this custom event from this user, in order."""
        return self._without_excluded(self.by_event.get(name, []), username)

    def _without_excluded(self, webhook_ids: list[int], username: str) -> list[int]:
        return [pk for pk in webhook_ids if username not in self._excluded.get(pk, ())]

    def by_serializer(self, webhook_ids: Iterable[int]) -> dict[str, list[int]]:
        """These webhooks by the names of their serializers; the default one is empty, and first."""
        found: dict[str, list[int]] = defaultdict(list)
        for webhook_id in webhook_ids:
            found[self.filters[webhook_id].serializer if webhook_id in self.filters else ""].append(webhook_id)
        return dict(sorted(found.items()))

    def serializers(self, object_type: str) -> tuple[str, ...]:
        """The names of the serializers that webhooks use for "dcim.site", whatever the action."""
        names = self._serializers.get(object_type)
        if names is None:
            ids = {
                pk for (label, _), webhook_ids in self.by_change.items() if label == object_type for pk in webhook_ids
            }
            names = self._serializers[object_type] = tuple(self.by_serializer(ids))
        return names

    def has_filters(self, webhook_ids: Iterable[int]) -> bool:
        """Whether the data of an Event decide if one of these wants it."""
        return bool(self.filters) and any(pk in self.filters and self.filters[pk].needs_data for pk in webhook_ids)

    @cached_property
    def prechange_types(self) -> set[str]:
        """The object types with a webhook that needs the state before an update."""
        ids = {pk for pk, filters in self.filters.items() if filters.needs_prechange}
        updates = (change for change in self.by_change.items() if ids and change[0][1] == Action.UPDATED)
        return {label for (label, _), webhook_ids in updates if not ids.isdisjoint(webhook_ids)}

    @cached_property
    def _excluded(self) -> dict[int, tuple[str, ...]]:
        return {pk: filters.excluded_usernames for pk, filters in self.filters.items() if filters.excluded_usernames}

    @cached_property
    def object_types(self) -> set[str]:
        """The object types with subscribers."""
        return {object_type for object_type, _ in self.by_change}


class Unreadable(Exception):
    """The webhooks cannot be read, and the cached ones are too old."""


class CachedSubscriptions(NamedTuple):
    """What this process read last, and when. Without a fingerprint it is read again each time."""

    subscriptions: Subscriptions
    fingerprint: str
    read_at: float


_cached: dict[str, CachedSubscriptions] = {}
_paused_until: dict[str, float] = {}


def current(using: str, enabled_only: bool = True) -> Subscriptions:
    """The subscriptions as of now, in one query, or two if they have changed.

    Each transaction asks the database for changes, so no edit of a webhook is missed. If the tables cannot be read,
    cached ones of the last minute are used: while a migration locks them, no edit is possible. Raises Unreadable, and
    errors of the database that abort the transaction.
    """
    if not enabled_only:
        return read(using, enabled_only)[0]
    if time.monotonic() < _paused_until.get(using, 0):
        return _last_read(using, "they could not be read a moment ago")
    try:
        return _read_if_changed(using)
    except Error as error:
        if is_aborted(using):
            raise
        if is_conflict(error):  # it waited for a lock
            _paused_until[using] = time.monotonic() + PAUSE
        reason = db.describe_error(error)
        found = _last_read(using, reason)
        logger.error("The webhooks on the database %r cannot be read, the cached ones are used: %s", using, reason)
        return found


def _read_if_changed(using: str) -> Subscriptions:
    cached, now = _cached.get(using), time.monotonic()
    if cached and cached.fingerprint and cached.fingerprint == read_fingerprint(using):
        _cached[using] = cached._replace(read_at=now)
        return cached.subscriptions
    found, fingerprint = read(using)
    # A model that is not registered may be later, or a migration may rename its content type. The fingerprint stays the
    # same then.
    is_final = all(registry.registration_by_label(object_type) for object_type in found.object_types)
    _cached[using] = CachedSubscriptions(found, fingerprint if is_final else "", now)
    return found


def _last_read(using: str, reason: str) -> Subscriptions:
    cached = _cached.get(using)
    if cached and time.monotonic() - cached.read_at < MAX_AGE:
        return cached.subscriptions
    raise Unreadable(f"The webhooks cannot be read: {reason}") from None  # or each save would log three tracebacks


_TEMPLATES = "(payload_url || ' ' || additional_headers || ' ' || body_template)"
_SHOWS_PRECHANGE = f"({_TEMPLATES} LIKE '%%snapshots%%' OR {_TEMPLATES} LIKE '%%changed%%')"

# The columns of ``Filters``. JSON is read as text, and parsed once for each text.
_FILTERS = {
    "webhook_id": "id",
    "conditions": "CAST(conditions AS text)",
    "changed_fields": "CAST(changed_fields AS text)",
    "only_changes": "only_changes",
    "prechange": "prechange",
    "serializer": "serializer",
    "custom_events": "CAST(custom_events AS text)",
    "excluded_usernames": "CAST(excluded_usernames AS text)",
    "shows_prechange": _SHOWS_PRECHANGE,
}
_HAS_FILTERS = f"""
    conditions IS NOT NULL OR CAST(changed_fields AS text) <> '[]' OR only_changes OR prechange OR {_SHOWS_PRECHANGE}
    OR serializer <> '' OR CAST(custom_events AS text) <> '[]' OR CAST(excluded_usernames AS text) <> '[]'
"""

# A hash of all that ``read`` returns, except for the names of content types: joining them would take half as long as
# the rest. It is sorted, because PostgreSQL moves a row that is updated, and workers update webhooks. SQLite has no
# fingerprint: reading everything is fast there.
_FINGERPRINT = f"""
    SELECT CAST(SHA256(CONVERT_TO(COALESCE(STRING_AGG(line, '' ORDER BY line COLLATE "C"), ''), 'UTF8')) AS text) FROM (
        SELECT CAST(ROW(on_created, on_updated, on_deleted, {", ".join(_FILTERS.values())}) AS text) AS line
        FROM webhooks_webhook WHERE enabled
        UNION ALL SELECT CAST(ROW(webhook_id, contenttype_id) AS text) FROM webhooks_webhook_object_types
    ) AS lines
"""


def read_fingerprint(using: str) -> str:
    """The fingerprint as of now; empty if the database has none. It takes a third of the time of ``read``."""
    return str(_query(using, _FINGERPRINT)[0][0]) if is_postgresql(using) else ""


def read(using: str, enabled_only: bool = True) -> tuple[Subscriptions, str]:
    """Read the subscriptions and their fingerprint.

    The database groups the ids: the answer has a few rows for each model, not one for each webhook and model, and one
    more for each webhook that has filters.
    """
    by_change: dict[tuple[str, str], list[int]] = defaultdict(list)
    by_event: dict[str, list[int]] = defaultdict(list)
    filters: dict[int, Filters] = {}
    fingerprint = ""
    for kind, app_label, model, created, updated, deleted, text in _query(using, _read_sql(using, enabled_only)):
        if kind == "models":
            wanted = {Action.CREATED: created, Action.UPDATED: updated, Action.DELETED: deleted}
            for action in (action for action, is_wanted in wanted.items() if is_wanted):
                by_change[f"{app_label}.{model}", action] += map(int, text.split(","))
        elif kind == "filters":
            one = filters[_parse(text).webhook_id] = _parse(text)
            for name in dict.fromkeys(one.custom_events):
                by_event[name].append(one.webhook_id)
        else:
            fingerprint = text
    for ids in (*by_change.values(), *by_event.values()):
        ids.sort()
    return Subscriptions(dict(by_change), filters, dict(by_event)), fingerprint


@lru_cache(maxsize=1024)  # most are the same in each transaction
def _parse(text: str) -> Filters:
    values: dict[str, Any] = json.loads(text)
    for name in ("changed_fields", "custom_events", "excluded_usernames"):
        names = json.loads(values[name])
        values[name] = tuple(map(str, names)) if isinstance(names, list) else ()
    for name in ("only_changes", "prechange", "shows_prechange"):
        values[name] = bool(values[name])  # a number on SQLite
    return Filters(**values | {"conditions": values["conditions"] or ""})


def _read_sql(using: str, enabled_only: bool) -> str:
    selected = "enabled" if enabled_only else "deleted_at IS NULL"
    for_postgresql = is_postgresql(using)
    ids = "STRING_AGG(webhook.id::text, ',')" if for_postgresql else "GROUP_CONCAT(webhook.id)"
    build = "json_build_object" if for_postgresql else "json_object"
    filters = ", ".join(f"'{name}', {column}" for name, column in _FILTERS.items())
    fingerprint = (
        f"UNION ALL SELECT 'fingerprint', '', '', NULL, NULL, NULL, ({_FINGERPRINT})" if for_postgresql else ""
    )
    return f"""
        SELECT 'models', kind.app_label, kind.model, on_created, on_updated, on_deleted, ids FROM (
            SELECT contenttype_id, on_created, on_updated, on_deleted, {ids} AS ids
            FROM webhooks_webhook AS webhook
            JOIN webhooks_webhook_object_types AS selected ON selected.webhook_id = webhook.id
            WHERE {selected} GROUP BY contenttype_id, on_created, on_updated, on_deleted
        ) AS by_model JOIN django_content_type AS kind ON kind.id = contenttype_id
        UNION ALL
        SELECT 'filters', '', '', on_created, on_updated, on_deleted, CAST({build}({filters}) AS text)
        FROM webhooks_webhook WHERE {selected} AND ({_HAS_FILTERS})
        {fingerprint}
        """


def _query(using: str, query: str) -> list[tuple[Any, ...]]:
    """Run a query so that it leaves no trace in the open transaction: in a savepoint, with a short ``lock_timeout``.
    It takes one round trip if the driver can. The rollback restores the timeout and releases the locks of the tables.

    SQLite needs none of that: its readers never wait, and a failed query aborts nothing.
    """
    if not is_postgresql(using):
        return fetch_all(using, query)
    connection = connections[using]
    begin, end = ["BEGIN"], ["ROLLBACK"]
    if not connection.get_autocommit():
        begin = ["SAVEPOINT webhooks_subscriptions"]
        end = ["ROLLBACK TO SAVEPOINT webhooks_subscriptions", "RELEASE SAVEPOINT webhooks_subscriptions"]
    begin.append(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT * 1000:.0f}ms'")
    with connection.cursor() as cursor:
        try:
            # psycopg 3 sends several statements at once and returns all results, unless it may prepare them.
            if getattr(cursor.connection, "prepare_threshold", 0) is None:
                cursor.execute("; ".join([*begin, query, *end]))
                while cursor.description is None:
                    cursor.nextset()
                return list(cursor.fetchall())
            for statement in [*begin, query]:
                cursor.execute(statement)
            found = list(cursor.fetchall())
        except Error:
            try:
                _execute_all(cursor, end)
            except Error:
                connection.needs_rollback = connection.in_atomic_block  # the connection is lost
            raise
        _execute_all(cursor, end)
        return found


def _execute_all(cursor: Any, statements: Iterable[str]) -> None:
    for statement in statements:
        cursor.execute(statement)
