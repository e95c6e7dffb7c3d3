"""The subscriptions and filters of all webhooks, read at the first change of a transaction."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

from django.db import Error, models, transaction

from webhooks.capture import conditions
from webhooks.capture.conditions import ConditionError
from webhooks.capture.context import Actor
from webhooks.ground import registry
from webhooks.ground.conf import conf
from webhooks.ground.db import execute, fetch_all, fetch_each, fingerprint_sql, in_block, is_postgresql, to_utc
from webhooks.ground.errors import describe_error, get_logger, is_aborted, is_conflict
from webhooks.models.event import Action
from webhooks.models.skip import Refusal, Rule
from webhooks.models.webhook import ACTION_FIELDS, SECTIONS, TEMPLATE_FIELDS, Webhook

logger = get_logger(__name__)

# Seconds that a save may wait for a lock on the tables, such as the lock of a migration. The tables are read in a
# savepoint, and its rollback restores the timeout of the host and releases the locks. Readers of SQLite never wait.
LOCK_TIMEOUT = 0.1
_SET_TIMEOUT = f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT * 1000:.0f}ms'"

# Seconds without another read of the tables after a wait that timed out.
PAUSE = 5.0

# Seconds. If the tables cannot be read, cached subscriptions up to this age are used.
MAX_AGE = 60.0

# An object type and an action. A custom event has no object type here, and its name is the action.
Wanted = tuple[str, str]


@dataclass(frozen=True)
class Filters:
    """The rules of one webhook beyond its models and actions.

    ``conditions`` are JSON text, or empty. ``prechange``: the payload has the prechange state, or a template may show
    it.
    """

    webhook_id: int
    conditions: str = ""
    changed_fields: tuple[str, ...] = ()
    only_changes: bool = False
    prechange: bool = False
    serializer: str = ""
    excluded_usernames: tuple[str, ...] = ()

    @classmethod
    def of(cls, webhook: Webhook) -> Filters:
        """The rules of a webhook, saved or not, as its attributes are."""
        templates = " ".join(getattr(webhook, name) for name in TEMPLATE_FIELDS)
        return cls(
            webhook.pk or 0,
            json.dumps(webhook.conditions) if webhook.conditions else "",
            _names(webhook.changed_fields),
            only_changes=webhook.only_changes,
            prechange=webhook.prechange or "snapshots" in templates or "changed" in templates,
            serializer=webhook.serializer,
            excluded_usernames=_names(webhook.excluded_usernames),
        )

    @property
    def needs_data(self) -> bool:
        """Whether it depends on the data of an Event if the webhook wants it."""
        return bool(self.conditions or self.changed_fields or self.only_changes)

    def ignores_all(self, usernames: Collection[str]) -> bool:
        """Whether the webhook ignores the changes of all these users."""
        return bool(self.excluded_usernames) and all(username in self.excluded_usernames for username in usernames)

    @cached_property
    def needs_prechange(self) -> bool:
        """Whether the webhook needs the prechange state."""
        if self.prechange or self.only_changes or self.changed_fields:
            return True
        try:
            return bool(self.conditions) and conditions.parse_stored(self.conditions).needs_prechange
        except ConditionError:
            return False  # each Event then fails with this error


def _names(stored: Any) -> tuple[str, ...]:
    return tuple(map(str, stored)) if isinstance(stored, list) else ()


@dataclass(frozen=True)
class Subscriptions:
    """What each webhook wants.

    ``by_change`` has the ids of the enabled webhooks, in order. ``disabled`` has the refusals of the others. It is None
    if no skips are stored: nothing else depends on it. ``filters`` has the webhooks with any, by id.
    ``has_unknown_model``: a model is not registered, so perhaps a migration is about to rename its content type.
    Without a ``fingerprint``, the subscriptions are read again the next time.
    """

    by_change: dict[Wanted, list[int]] = field(default_factory=dict)
    filters: dict[int, Filters] = field(default_factory=dict)
    disabled: dict[Wanted, dict[int, Refusal]] | None = None
    has_unknown_model: bool = False
    fingerprint: str | None = field(default=None, compare=False)
    _concerns: dict[type[models.Model], bool] = field(default_factory=dict, init=False, compare=False)

    @property
    def keeps_skips(self) -> bool:
        return self.disabled is not None

    def concerns(self, model: type[models.Model]) -> bool:
        """Whether a webhook wants changes of a model, or would want them if it were enabled."""
        is_concerned = self._concerns.get(model)
        if is_concerned is None:
            disabled = {object_type for object_type, _ in self.disabled or ()}
            touched = {registration.label for registration in registry.registrations_touched(model)}
            is_concerned = not touched.isdisjoint(self.object_types | disabled)
            if touched:  # else the model may be registered later
                self._concerns[model] = is_concerned
        return is_concerned

    def has_subscribers(self, model: type[models.Model]) -> bool:
        """Whether a webhook wants changes of a model, or of the models that it inherits rows from."""
        return any(registration.label in self.object_types for registration in registry.registrations_touched(model))

    def has_event(self, name: str) -> bool:
        """Whether a webhook wants the custom event of this name, or would want it if it were enabled."""
        return ("", name) in self.by_change or ("", name) in (self.disabled or ())

    def subscribers(self, object_type: str, action: str) -> list[int]:
        """The ids of the webhooks that chose this action on "dcim.site", in order. The action may also be the name of
        a custom event."""
        return self.by_change.get((object_type, action)) or self.by_change.get(("", action), [])

    def candidates(
        self, object_type: str, action: str, usernames: Collection[str]
    ) -> tuple[list[int], dict[int, Refusal]]:
        """The webhooks that want this action by any of these users, unless their filters refuse it; and why others
        refuse it for every object. There are no reasons if no skips are stored."""
        candidates, refusals = self.unless_ignored(self.subscribers(object_type, action), usernames)
        if self.disabled is None:
            return candidates, {}
        return candidates, refusals | (self.disabled.get((object_type, action)) or self.disabled.get(("", action), {}))

    def unless_ignored(
        self, webhook_ids: Iterable[int], usernames: Collection[str]
    ) -> tuple[list[int], dict[int, Refusal]]:
        """These webhooks without the ones that ignore all these users, and why those refuse."""
        wanted, known = list(webhook_ids), self.filters
        ignoring = (pk for pk in wanted if pk in known and known[pk].ignores_all(usernames))
        refusals = dict.fromkeys(ignoring, Refusal(Rule.IGNORED_USER))
        return [pk for pk in wanted if pk not in refusals], refusals

    def last_wanted(self, actors: Sequence[Actor], webhook_ids: Iterable[int]) -> Actor:
        """The last of these actors whom none of these webhooks ignores. The very last, if there is none."""
        ignored = {name for pk in webhook_ids if pk in self.filters for name in self.filters[pk].excluded_usernames}
        return next((actor for actor in reversed(actors) if actor.username not in ignored), actors[-1])

    def by_serializer(self, webhook_ids: Iterable[int]) -> dict[str, list[int]]:
        """These webhooks by the names of their serializers; the default one is empty, and first."""
        by_name: dict[str, list[int]] = defaultdict(list)
        for webhook_id in webhook_ids:
            by_name[self.filters[webhook_id].serializer if webhook_id in self.filters else ""].append(webhook_id)
        return dict(sorted(by_name.items()))

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
        return {object_type for object_type, _ in self.by_change if object_type}


# The last subscriptions that this process read on each database, and the time.
_cached: dict[str, tuple[Subscriptions, float]] = {}
_paused_until: dict[str, float] = {}


def current(using: str) -> Subscriptions:
    """The subscriptions as of now: in one query, if they have not changed since this process read them.

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
            fingerprint = read_fingerprint(using, cached.has_unknown_model)
            if fingerprint != cached.fingerprint or (cached.disabled is not None) != conf.keeps_skips:
                cached = read(using, fingerprint, cached.has_unknown_model)
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


def read(using: str, fingerprint: str, with_names: bool) -> Subscriptions:
    """Read the subscriptions, without the cache. ``fingerprint`` was read before them, ``with_names`` or without."""
    subscriptions = Subscriptions(disabled={} if conf.keeps_skips else None)
    labels_by_pk: dict[int, list[str]] = defaultdict(list)
    has_locks = is_postgresql(using)
    with transaction.atomic(using) if has_locks else nullcontext():
        if has_locks:
            execute(using, _SET_TIMEOUT)
        webhooks = list(Webhook.objects.using(using).order_by("pk").only(*_COLUMNS, *TEMPLATE_FIELDS))
        # Not as objects: a save must not wait long after the edit of one webhook of a thousand.
        chosen = Webhook.object_types.through.objects.using(using)
        for pk, *label in chosen.values_list("webhook_id", "contenttype__app_label", "contenttype__model"):
            labels_by_pk[pk].append(".".join(label))
        # Another transaction may have edited a webhook in between.
        is_same = fetch_all(using, _fingerprint_sql(is_postgresql(using), with_names))[0][0] == fingerprint
        if has_locks:
            transaction.set_rollback(True, using)
    for webhook in webhooks:
        filters = Filters.of(webhook)
        if filters != Filters(webhook.pk):
            subscriptions.filters[webhook.pk] = filters
        labels = labels_by_pk[webhook.pk]
        wanted: list[Wanted] = [(label, action) for label in labels for action in webhook.actions]
        wanted += [("", name) for name in dict.fromkeys(_names(webhook.custom_events))]
        if webhook.enabled:
            for change in wanted:
                subscriptions.by_change.setdefault(change, []).append(webhook.pk)
        elif subscriptions.disabled is not None:
            refusal = refusal_of_disabled(webhook)
            for change in wanted:
                subscriptions.disabled.setdefault(change, {})[webhook.pk] = refusal
    has_unknown_model = not all(map(registry.registration_by_label, subscriptions.object_types))
    is_final = is_same and has_unknown_model == with_names
    return replace(subscriptions, has_unknown_model=has_unknown_model, fingerprint=fingerprint if is_final else None)


def refusal_of_disabled(webhook: Webhook) -> Refusal:
    """Why a disabled webhook does not want a change."""
    since = to_utc(webhook.disabled_at).isoformat(timespec="seconds") if webhook.disabled_at else ""
    reason = {"reason": webhook.disabled_reason} if webhook.disabled_reason else {}
    return Refusal.because(Rule.DISABLED, since=since, by=webhook.disabled_by, **reason)


# The columns that subscriptions depend on. Of a template, only whether it may show the prechange state.
_COLUMNS = (
    "id", "enabled", *ACTION_FIELDS, *SECTIONS["filters"], "prechange", "serializer", "custom_events", "disabled_at",
    "disabled_by", "disabled_reason",
)  # fmt: skip


@cache
def _fingerprint_sql(for_postgresql: bool, with_names: bool) -> str:
    """A text that differs if ``read`` would return anything else. Without the names of content types, it takes three
    quarters of the time."""
    templates = " || ' ' || ".join(TEMPLATE_FIELDS)
    shows_prechange = f"({templates} LIKE '%%snapshots%%' OR {templates} LIKE '%%changed%%')"
    parts: list[tuple[Sequence[str], str]] = [
        ((*_COLUMNS, shows_prechange), "rq_webhooks_webhook WHERE deleted_at IS NULL"),
        (("webhook_id", "contenttype_id"), "rq_webhooks_webhook_object_types"),
    ]
    if with_names:
        parts.append((("id", "app_label", "model"), "django_content_type"))
    return fingerprint_sql(for_postgresql, *parts)


def read_fingerprint(using: str, with_names: bool) -> str:
    """The fingerprint as of now, in one round trip."""
    for_postgresql = is_postgresql(using)
    query = _fingerprint_sql(for_postgresql, with_names)
    if not for_postgresql:
        return str(fetch_all(using, query)[0][0])
    begin, end = "BEGIN", [("ROLLBACK", ())]
    if not transaction.get_autocommit(using):
        begin = "SAVEPOINT webhooks_subscriptions"
        end = [(f"ROLLBACK TO {begin}", ()), (f"RELEASE {begin}", ())]
    try:
        [_, _, rows, *_] = fetch_each(using, (begin, ()), (_SET_TIMEOUT, ()), (query, ()), *end)
        return str(rows[0][0])
    except Error:
        try:
            fetch_each(using, *end)
        except Error:
            if in_block(using):
                transaction.set_rollback(True, using)  # the connection is lost
        raise
