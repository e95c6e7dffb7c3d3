"""The subscriptions and filters of all webhooks, read at the first change of a transaction."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

from django.db import Error, connections, models

from webhooks import conditions, registry
from webhooks.conditions import ConditionError
from webhooks.conf import conf
from webhooks.db import execute, fetch_all, fetch_each, is_postgresql, stored_time, to_utc
from webhooks.errors import describe_error, get_logger, is_aborted, is_conflict
from webhooks.models import Action
from webhooks.models.skip import Refusal, Rule

logger = get_logger(__name__)

# Seconds that a save may wait for a lock on the tables, such as the lock of a migration.
LOCK_TIMEOUT = 0.1

# Seconds without another read of the tables after a wait that timed out.
PAUSE = 5.0

# Seconds. If the tables cannot be read, cached subscriptions up to this age are used.
MAX_AGE = 60.0


@dataclass(frozen=True)
class Filters:
    """The rules of one webhook beyond its models and actions.

    ``conditions`` are JSON text, or empty. ``shows_prechange``: one of its templates may show the prechange state.
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
    enabled: bool = True
    disabled_at: str = ""
    disabled_by: str = ""
    disabled_reason: str = ""

    @property
    def needs_data(self) -> bool:
        """Whether it depends on the data of an Event if the webhook wants it."""
        return bool(self.conditions or self.changed_fields or self.only_changes)

    @cached_property
    def needs_prechange(self) -> bool:
        """Whether the webhook needs the prechange state."""
        if self.prechange or self.shows_prechange or self.only_changes or self.changed_fields:
            return True
        try:
            return bool(self.conditions) and conditions.parse_stored(self.conditions).needs_prechange
        except ConditionError:
            return False  # each Event then fails with this error


@dataclass(frozen=True)
class Subscriptions:
    """The ids of the enabled webhooks, by object type and action, and by custom event.

    ``filters`` has the webhooks that have any, by id, and all disabled ones. ``disabled`` has the subscriptions of the
    disabled webhooks. It is None if no skips are stored: nothing else depends on it. Without a ``fingerprint``, the
    subscriptions are read again each time.
    """

    by_change: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    filters: dict[int, Filters] = field(default_factory=dict)
    by_event: dict[str, list[int]] = field(default_factory=dict)
    disabled: Subscriptions | None = None
    fingerprint: str = field(default="", compare=False)
    _has_subscribers: dict[type[models.Model], bool] = field(default_factory=dict, init=False, compare=False)

    @property
    def keeps_skips(self) -> bool:
        return self.disabled is not None

    def concerns(self, model: type[models.Model]) -> bool:
        """Whether a webhook wants changes of a model, or would want them if it were enabled."""
        return self.has_subscribers(model) or bool(self.disabled and self.disabled.has_subscribers(model))

    def has_subscribers(self, model: type[models.Model]) -> bool:
        """Whether any webhook wants changes of a model, or of the models that it inherits rows from."""
        found = self._has_subscribers.get(model)
        if found is None:
            labels = {registration.label for registration in registry.registrations_touched(model)}
            found = self._has_subscribers[model] = not labels.isdisjoint(self.object_types)
        return found

    def has_event(self, name: str) -> bool:
        """Whether a webhook wants the custom event of this name, or would want it if it were enabled."""
        return name in self.by_event or bool(self.disabled and name in self.disabled.by_event)

    def subscribers(self, object_type: str, action: str) -> list[int]:
        """The ids of the webhooks that chose this action on "dcim.site", in order. The action may also be the name of
        a custom event."""
        return self.by_change.get((object_type, action)) or self.by_event.get(action, [])

    def candidates(self, object_type: str, action: str, username: str) -> tuple[list[int], dict[int, Refusal]]:
        """The webhooks that want this action by this user, unless their filters refuse it; and why others refuse it
        for every object. There are no reasons if no skips are stored."""
        candidates, refusals = list[int](), dict[int, Refusal]()
        for pk in self.subscribers(object_type, action):
            if pk in self.filters and username in self.filters[pk].excluded_usernames:
                refusals[pk] = Refusal(Rule.IGNORED_USER)
            else:
                candidates.append(pk)
        if self.disabled is None:
            return candidates, {}
        for pk in self.disabled.subscribers(object_type, action):
            one = self.filters[pk]
            reason = {"reason": one.disabled_reason} if one.disabled_reason else {}
            refusals[pk] = Refusal.because(Rule.DISABLED, since=one.disabled_at, by=one.disabled_by, **reason)
        return candidates, refusals

    def by_serializer(self, webhook_ids: Iterable[int]) -> dict[str, list[int]]:
        """These webhooks by the names of their serializers; the default one is empty, and first."""
        found: dict[str, list[int]] = defaultdict(list)
        for webhook_id in webhook_ids:
            found[self.filters[webhook_id].serializer if webhook_id in self.filters else ""].append(webhook_id)
        return dict(sorted(found.items()))

    def serializers(self, object_type: str) -> list[str]:
        """The names of the serializers that webhooks use for any change of "dcim.site"."""
        by_action = (self.by_change.get((object_type, action), []) for action in Action)
        return list(self.by_serializer({pk for webhook_ids in by_action for pk in webhook_ids}))

    @cached_property
    def prechange_types(self) -> set[str]:
        """The object types with a webhook that needs the prechange state."""
        ids = {pk for pk, filters in self.filters.items() if filters.needs_prechange}
        updates = (change for change in self.by_change.items() if ids and change[0][1] == Action.UPDATED)
        return {label for (label, _), webhook_ids in updates if not ids.isdisjoint(webhook_ids)}

    @cached_property
    def object_types(self) -> set[str]:
        """The object types with subscribers."""
        return {object_type for object_type, _ in self.by_change}


# The last subscriptions that this process read on each database, and the time.
_cached: dict[str, tuple[Subscriptions, float]] = {}
_paused_until: dict[str, float] = {}


def current(using: str) -> Subscriptions:
    """The subscriptions as of now, in one query, or two if they have changed.

    Each transaction asks the database for changes, so no edit of a webhook is missed. If the tables cannot be read, it
    uses cached ones of the last minute. While a migration locks the tables, no edit is possible. Raises RuntimeError if
    the cached ones are older, and errors of the database that abort the transaction.
    """
    cached, read_at = _cached.get(using, (Subscriptions(), -MAX_AGE))
    now = time.monotonic()
    is_paused = now < _paused_until.get(using, 0)
    reason = "they could not be read a moment ago"
    if not is_paused:
        try:
            is_known = cached.fingerprint and (cached.disabled is not None) == conf.keeps_skips
            if not is_known or cached.fingerprint != read_fingerprint(using):
                cached = read(using)
            _cached[using] = (cached, now)
            return cached
        except Error as error:
            if is_aborted(using):
                raise
            if is_conflict(error):  # it waited for a lock
                _paused_until[using] = time.monotonic() + PAUSE
            reason = describe_error(error)
    if now - read_at >= MAX_AGE:
        raise RuntimeError(f"The webhooks cannot be read: {reason}")
    if not is_paused:
        logger.error("The webhooks on the database %r cannot be read, the cached ones are used: %s", using, reason)
    return cached


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
    "enabled": "enabled",
    "disabled_at": "disabled_at",
    "disabled_by": "disabled_by",
    "disabled_reason": "disabled_reason",
}
_HAS_FILTERS = f"""
    conditions IS NOT NULL OR CAST(changed_fields AS text) <> '[]' OR only_changes OR prechange OR {_SHOWS_PRECHANGE}
    OR serializer <> '' OR CAST(custom_events AS text) <> '[]' OR CAST(excluded_usernames AS text) <> '[]'
    OR NOT enabled
"""

# A hash of all that ``read`` returns, except for the names of content types: joining them would take half as long as
# the rest. It is sorted, because PostgreSQL moves a row that is updated, and workers update webhooks. SQLite has no
# fingerprint: reading everything is fast there.
_FINGERPRINT = f"""
    SELECT CAST(SHA256(CONVERT_TO(COALESCE(STRING_AGG(line, '' ORDER BY line COLLATE "C"), ''), 'UTF8')) AS text) FROM (
        SELECT CAST(ROW(on_created, on_updated, on_deleted, {", ".join(_FILTERS.values())}) AS text) AS line
        FROM webhooks_webhook WHERE deleted_at IS NULL
        UNION ALL SELECT CAST(ROW(webhook_id, contenttype_id) AS text) FROM webhooks_webhook_object_types
    ) AS lines
"""


def read_fingerprint(using: str) -> str:
    """The fingerprint as of now; empty if the database has none. It takes a third of the time of ``read``."""
    return str(_query(using, _FINGERPRINT)[0][0]) if is_postgresql(using) else ""


def read(using: str) -> Subscriptions:
    """Read the subscriptions, without the cache.

    The database groups the ids, so the answer has a few rows for each model, not one for each webhook and model. There
    is one more row for each webhook that has filters or is disabled.
    """
    found = Subscriptions()
    disabled = Subscriptions(filters=found.filters)
    fingerprint, is_final = "", True
    for kind, app_label, model, enabled, created, updated, deleted, text in _query(using, _read_sql(using)):
        group = found if enabled else disabled
        if kind == "models":
            wanted = {Action.CREATED: created, Action.UPDATED: updated, Action.DELETED: deleted}
            for action in (action for action, is_wanted in wanted.items() if is_wanted):
                group.by_change.setdefault((f"{app_label}.{model}", action), []).extend(map(int, text.split(",")))
            # A model that is not registered may be later, or a migration may rename its content type. The fingerprint
            # stays the same then.
            is_final = is_final and (not enabled or registry.registration_by_label(f"{app_label}.{model}") is not None)
        elif kind == "filters":
            one = _parse(text)
            found.filters[one.webhook_id] = one
            for name in dict.fromkeys(one.custom_events):
                group.by_event.setdefault(name, []).append(one.webhook_id)
        else:
            fingerprint = text
    for group in (found, disabled):
        for ids in (*group.by_change.values(), *group.by_event.values()):
            ids.sort()
    return replace(found, disabled=disabled if conf.keeps_skips else None, fingerprint=fingerprint if is_final else "")


@lru_cache(maxsize=1024)  # most are the same in each transaction
def _parse(text: str) -> Filters:
    values: dict[str, Any] = json.loads(text)
    for name in ("changed_fields", "custom_events", "excluded_usernames"):
        names = json.loads(values[name])
        values[name] = tuple(map(str, names)) if isinstance(names, list) else ()
    for name in ("only_changes", "prechange", "shows_prechange", "enabled"):
        values[name] = bool(values[name])  # a number on SQLite
    values["conditions"] = values["conditions"] or ""
    disabled_at = values["disabled_at"]
    values["disabled_at"] = to_utc(stored_time(disabled_at)).isoformat(timespec="seconds") if disabled_at else ""
    return Filters(**values)


def _read_sql(using: str) -> str:
    for_postgresql = is_postgresql(using)
    ids = "STRING_AGG(webhook.id::text, ',')" if for_postgresql else "GROUP_CONCAT(webhook.id)"
    build = "json_build_object" if for_postgresql else "json_object"
    filters = ", ".join(f"'{name}', {column}" for name, column in _FILTERS.items())
    fingerprint = (
        f"UNION ALL SELECT 'fingerprint', '', '', NULL, NULL, NULL, NULL, ({_FINGERPRINT})" if for_postgresql else ""
    )
    return f"""
        SELECT 'models', kind.app_label, kind.model, enabled, on_created, on_updated, on_deleted, ids FROM (
            SELECT contenttype_id, enabled, on_created, on_updated, on_deleted, {ids} AS ids
            FROM webhooks_webhook AS webhook
            JOIN webhooks_webhook_object_types AS selected ON selected.webhook_id = webhook.id
            WHERE deleted_at IS NULL GROUP BY contenttype_id, enabled, on_created, on_updated, on_deleted
        ) AS by_model JOIN django_content_type AS kind ON kind.id = contenttype_id
        UNION ALL
        SELECT 'filters', '', '', enabled, on_created, on_updated, on_deleted, CAST({build}({filters}) AS text)
        FROM webhooks_webhook WHERE deleted_at IS NULL AND ({_HAS_FILTERS})
        {fingerprint}
        """


def _query(using: str, query: str) -> list[tuple[Any, ...]]:
    """Run a query so that it leaves no trace in the open transaction: in a savepoint, with a short ``lock_timeout``.
    The rollback restores the timeout and releases the locks of the tables.

    SQLite needs none of that: its readers never wait, and a failed query aborts nothing.
    """
    if not is_postgresql(using):
        return fetch_all(using, query)
    connection = connections[using]
    begin, end = "BEGIN", ["ROLLBACK"]
    if not connection.get_autocommit():
        begin = "SAVEPOINT webhooks_subscriptions"
        end = [f"ROLLBACK TO {begin}", f"RELEASE {begin}"]
    limit = f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT * 1000:.0f}ms'"
    try:
        return fetch_each(using, *((statement, ()) for statement in (begin, limit, query, *end)))[2]
    except Error:
        try:
            for statement in end:
                execute(using, statement)
        except Error:
            connection.needs_rollback = connection.in_atomic_block  # the connection is lost
        raise
