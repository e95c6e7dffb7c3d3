"""Which webhooks want which change, and what they demand of it beyond its model and action."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from django.db import Error, models

from webhooks import conditions, db, registry
from webhooks.capture import subscription_sql
from webhooks.conditions import ConditionError
from webhooks.db import is_aborted, is_conflict
from webhooks.logs import get_logger
from webhooks.models import Action

logger = get_logger(__name__)

# Seconds for which a process leaves the tables alone after it waited for them in vain.
PAUSE = 5.0

# Seconds for which what was read last counts where the tables cannot be read.
TRUSTED = 60.0


@dataclass(frozen=True)
class Demand:
    """What one webhook demands of an Event beyond its model and action.

    ``conditions`` are JSON text, or empty; ``shows_before`` says that one of its templates tells of the state before.
    """

    webhook_id: int
    conditions: str = ""
    changed_fields: tuple[str, ...] = ()
    only_changes: bool = False
    prechange: bool = False
    shows_before: bool = False
    serializer: str = ""
    custom_events: tuple[str, ...] = ()
    excluded_usernames: tuple[str, ...] = ()

    @property
    def is_judged(self) -> bool:
        """Whether it depends on an Event's data if the webhook wants it."""
        return bool(self.conditions or self.changed_fields or self.only_changes)

    @cached_property
    def needs_before(self) -> bool:
        """Whether the state before an update has to be known for it."""
        return bool(
            self.prechange
            or self.shows_before
            or self.only_changes
            or self.changed_fields
            or (self.conditions and _look_back(self.conditions))
        )


@dataclass(frozen=True)
class Subscriptions:
    """The enabled webhooks as one transaction saw them: ids by object type and action, and the demands of those that
    have any, by id."""

    by_change: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    demands: dict[int, Demand] = field(default_factory=dict)
    by_event: dict[str, list[int]] = field(default_factory=dict)
    _ignored: dict[type[models.Model], bool] = field(default_factory=dict, init=False, compare=False)
    _serializers: dict[str, tuple[str, ...]] = field(default_factory=dict, init=False, compare=False)

    def listening(self, event: str, username: str = "") -> list[int]:
        """The ids of the webhooks that want this custom event from this user, in order."""
        return self._unless_excluded(self.by_event.get(event, []), username)

    def by_serializer(self, webhook_ids: Iterable[int]) -> dict[str, list[int]]:
        """These webhooks by the names of the serializers that they chose; the default one has none, and is first."""
        found: dict[str, list[int]] = defaultdict(list)
        for webhook_id in webhook_ids:
            found[self.demands[webhook_id].serializer if webhook_id in self.demands else ""].append(webhook_id)
        return dict(sorted(found.items()))

    def serializers(self, object_type: str) -> tuple[str, ...]:
        """The names of the serializers that any webhook wants of "dcim.site", whatever the action."""
        names = self._serializers.get(object_type)
        if names is None:
            ids = {pk for (label, _), those in self.by_change.items() if label == object_type for pk in those}
            names = self._serializers[object_type] = tuple(self.by_serializer(ids))
        return names

    def matching(self, object_type: str, action: Action, username: str = "") -> list[int]:
        """The ids of the webhooks that want this action on "dcim.site" from this user, in order."""
        return self._unless_excluded(self.by_change.get((object_type, action), []), username)

    def _unless_excluded(self, found: list[int], username: str) -> list[int]:
        return [pk for pk in found if username not in self._excluded.get(pk, ())]

    def touch(self, object_type: str) -> bool:
        """Whether any webhook wants anything of "dcim.site"."""
        return object_type in self.object_types

    def ignore(self, model: type[models.Model]) -> bool:
        """Whether nobody wants anything of a model, or of those that it inherits rows from."""
        is_ignored = self._ignored.get(model)
        if is_ignored is None:
            touched = registry.registrations_touched(model)
            is_ignored = self._ignored[model] = not any(self.touch(one.label) for one in touched)
        return is_ignored

    def demanding(self, webhook_ids: Iterable[int]) -> bool:
        """Whether any of these has demands that are to be judged."""
        return bool(self.demands) and any(pk in self.demands and self.demands[pk].is_judged for pk in webhook_ids)

    def need_before(self, object_type: str) -> bool:
        """Whether the state before an update of "dcim.site" has to be known for any webhook."""
        return object_type in self._looking_back

    @cached_property
    def looks_back(self) -> bool:
        """Whether the state before has to be known for anybody, of anything."""
        return bool(self._looking_back)

    @cached_property
    def _looking_back(self) -> set[str]:
        theirs = {webhook_id for webhook_id, demand in self.demands.items() if demand.needs_before}
        return {
            object_type
            for (object_type, action), webhook_ids in (self.by_change.items() if theirs else ())
            if action == Action.UPDATED and not theirs.isdisjoint(webhook_ids)
        }

    @cached_property
    def _excluded(self) -> dict[int, tuple[str, ...]]:
        return {pk: demand.excluded_usernames for pk, demand in self.demands.items() if demand.excluded_usernames}

    @cached_property
    def object_types(self) -> set[str]:
        """Of which any webhook wants anything."""
        return {object_type for object_type, _ in self.by_change}


class Unreadable(Exception):
    """The webhooks cannot be read, and what is known of them is too old."""


class Known(NamedTuple):
    """What this process read last of a database, and when. Without a fingerprint it is read again each time."""

    subscriptions: Subscriptions
    fingerprint: str
    read_at: float


_known: dict[str, Known] = {}
_paused_until: dict[str, float] = {}


def current(using: str, enabled_only: bool = True) -> Subscriptions:
    """The subscriptions as of now, in one query, or two if they have changed.

    Each transaction asks the database whether they have changed, so no edit of a webhook is missed. If the tables
    cannot be read, what was read in the last minute counts: while a migration locks them, no edit is possible. Raises
    Unreadable, and an error of the database that ended the transaction.
    """
    if not enabled_only:
        return _subscriptions(subscription_sql.read(using, enabled_only))
    if time.monotonic() < _paused_until.get(using, 0):
        return _last_known(using, "they could not be read a moment ago")
    try:
        return _read(using)
    except Error as error:
        if is_aborted(using):
            raise
        if is_conflict(error):  # it waited for a lock
            _paused_until[using] = time.monotonic() + PAUSE
        why = db.describe_error(error)
        found = _last_known(using, why)
        logger.error("The webhooks on the database %r cannot be read, those known from before count: %s", using, why)
        return found


def _read(using: str) -> Subscriptions:
    known, now = _known.get(using), time.monotonic()
    if known and known.fingerprint and known.fingerprint == subscription_sql.fingerprint(using):
        _known[using] = known._replace(read_at=now)
        return known.subscriptions
    answer = subscription_sql.read(using)
    found = _subscriptions(answer)
    _known[using] = Known(found, answer.fingerprint if _is_lasting(found) else "", now)
    return found


def _last_known(using: str, why: str) -> Subscriptions:
    known = _known.get(using)
    if known and time.monotonic() - known.read_at < TRUSTED:
        return known.subscriptions
    raise Unreadable(f"The webhooks cannot be read: {why}") from None  # or each save would log three tracebacks


def _is_lasting(found: Subscriptions) -> bool:
    """Whether all that is wanted is of models that are registered here. What is not may be so later, or a migration
    that is still to come may rename its content type, and no fingerprint tells that."""
    return all(registry.registration_by_label(object_type) for object_type in found.object_types)


def _subscriptions(answer: subscription_sql.Answer) -> Subscriptions:
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in answer.wanted:
        wants = {Action.CREATED: row.created, Action.UPDATED: row.updated, Action.DELETED: row.deleted}
        for action in (action for action, is_wanted in wants.items() if is_wanted):
            found[f"{row.app_label}.{row.model}", action] += row.webhook_ids
    by_change = {change: sorted(ids) for change, ids in found.items()}
    demanding = {demand.webhook_id: demand for demand in map(_demand, answer.demands)}
    return Subscriptions(by_change, demanding, _by_event(demanding.values()))


def _by_event(demands: Iterable[Demand]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for demand in demands:
        for event in dict.fromkeys(demand.custom_events):  # one named twice wants it once
            found[event].append(demand.webhook_id)
    return {event: sorted(ids) for event, ids in found.items()}


@lru_cache(maxsize=1024)  # the text of most is the same in each transaction
def _demand(text: str) -> Demand:
    told: dict[str, Any] = json.loads(text)
    return Demand(
        webhook_id=told["webhook_id"],
        conditions=told["conditions"] or "",
        changed_fields=_names(told["changed_fields"]),
        only_changes=bool(told["only_changes"]),
        prechange=bool(told["prechange"]),
        shows_before=bool(told["shows_before"]),
        serializer=told["serializer"],
        custom_events=_names(told["custom_events"]),
        excluded_usernames=_names(told["excluded_usernames"]),
    )


def _look_back(text: str) -> bool:
    try:
        return conditions.parse_stored(text).needs_prechange
    except ConditionError:
        return False  # nothing can be judged by them, which each Event then tells


def _names(text: str) -> tuple[str, ...]:
    names = json.loads(text)
    return tuple(map(str, names)) if isinstance(names, list) else ()
