"""``webhooks.send()``: Events that are no change of a model, under registered names. And ``send_to()``: events of one
webhook that other code has chosen."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models, router

from webhooks.capture import events
from webhooks.capture.context import current_actor
from webhooks.capture.matching import EventContext, Match, match
from webhooks.capture.skips import Skips, skips_of
from webhooks.capture.subscriptions import refusal_of_disabled
from webhooks.capture.transaction import Entry, TransactionState, current_or_new_state
from webhooks.ground import payloads, registry
from webhooks.ground.conf import conf
from webhooks.ground.db.django_internals import MergedSavepoint, reading_from
from webhooks.ground.errors import log_errors
from webhooks.ground.payloads import Unsendable, snapshots
from webhooks.ground.registry.keys import has_key
from webhooks.ground.registry.registration import Registration
from webhooks.ground.text import NAME_LENGTH, clean
from webhooks.ground.text.json_text import NotJSONSerializable, dumps
from webhooks.models.event import Event
from webhooks.models.skip import Refusal
from webhooks.models.webhook import Webhook

# The columns of an event that the caller determines.
COLUMNS = ("object_type", "object_id", "object_repr", "data", "snapshots", "changed")


def send(name: str, obj: models.Model | None = None, data: Any = None) -> None:
    """Send an event, such as "dcim.rack_audited", to the webhooks that want it.

    ``name`` was given to ``webhooks.register_event()``. ``obj`` is the object of the event, which then goes into the
    lane of its changes. ``data`` is sent as it is. REST framework must be able to write it as JSON. The event is
    recorded in the open transaction, and never merged with another.

    Raises ValueError for a name that is not registered, for an object without a key or with a wrong or secret one, and
    for data that is not JSON. Raises TypeError for an ``obj`` that is no instance of a model. Errors of the database
    or of Redis are logged, as for a save.
    """
    record(name, obj, data)


def record(name: str, obj: models.Model | None = None, data: Any = None, without: Collection[int] = ()) -> None:
    """As ``send``. The webhooks with the ids ``without`` do not get the event."""
    if name not in registry.custom_events():
        raise ValueError(registry.custom_events_problem([name]))
    try:
        text = dumps(data)
    except NotJSONSerializable as error:
        raise ValueError(f"The data of the event {name} cannot be written as JSON: {error}") from error
    registration, key, title = None, name, clean(registry.custom_events()[name], NAME_LENGTH)
    if obj is not None:
        registration, key, title = _identify(name, obj)
    label = registration.label if registration else ""
    event = Event(action=name, object_type=label, object_id=key, object_repr=title, data=text)
    _fail_if_too_large(event)
    if not conf.enabled:
        return
    using = Event.objects.db
    is_here = obj is not None and router.db_for_write(type(obj), instance=obj) == using
    with events.log_missed(using, event), reading_from(using):
        state = current_or_new_state(using)
        if state.subscriptions.has_event(name):
            with state.begin():
                _record_event(state, event, registration if is_here else None, without)


def send_to(webhook: Webhook, event: Event) -> None:
    """Record an event for one webhook alone, also if it has not chosen such events. Its filters decide as always.

    For rules outside this app that choose the webhook. ``event`` is complete: it has its action, the
    columns of its object, and its data, snapshots and changed fields as JSON texts. It goes into the lane of its
    object, and is never merged with another. With an ``error`` it is recorded as failed. Errors of the database or of
    Redis are logged, as for a save.
    """
    _fail_if_too_large(event)
    if not conf.enabled:
        return
    using, event.webhook_ids = Event.objects.db, [webhook.pk]
    with events.log_missed(using, event), reading_from(using):
        state = current_or_new_state(using)
        with state.begin():
            candidates, refusals = list[int](), {webhook.pk: refusal_of_disabled(webhook)}
            if webhook.enabled:
                usernames = [current_actor().username]
                candidates, refusals = state.subscriptions.unless_ignored(event.webhook_ids, usernames)
            _store(state, event, candidates, refusals if state.subscriptions.keeps_skips else {})


def _fail_if_too_large(event: Event) -> None:
    try:
        payloads.refuse_too_large(f"the data of the event {event.action}", len(event.data) + len(event.snapshots))
    except Unsendable as error:
        event.data, event.snapshots, event.changed, event.error = "", "", "", f"{error}."


def _identify(name: str, obj: models.Model) -> tuple[Registration, str, str]:
    """The registration of an object, its key as text, and its name."""
    if not isinstance(obj, models.Model):
        raise TypeError(f"The event {name} must be about an object of a model or None, not {obj!r}.")
    if not has_key(obj.pk):
        raise ValueError(f"The event {name} cannot be about {obj!r}, which is not saved, or deleted already.")
    registration = registry.registration_or_default(type(obj))
    if registration.has_secret_key:
        raise ValueError(
            f"The event {name} cannot be about an object of {registration.label}: its primary key is a "
            "secret. Give none."
        )
    try:
        return registration, registration.key_of(obj), registration.name_of(obj)
    except ValidationError as error:
        raise ValueError(f"The event {name} cannot be about {obj!r}: its key is invalid. {error}") from error


def _record_event(
    state: TransactionState, event: Event, registration: Registration | None, without: Collection[int]
) -> None:
    """Record the event for the webhooks that want it. ``registration``: its object has a row in this database."""
    usernames = [current_actor().username]
    candidates, refusals = state.subscriptions.candidates(event.object_type, event.action, usernames)
    candidates = [pk for pk in candidates if pk not in without]
    if candidates and registration:
        _lock_object(state, registration, event)
    _store(state, event, candidates, refusals)


def _store(state: TransactionState, event: Event, candidates: list[int], refusals: dict[int, Refusal]) -> None:
    """Store the event for the candidates whose filters want it, and skips for the others."""
    actor, new = current_actor(), list[Event]()
    if candidates:
        context = EventContext(event.action, event.data, event.snapshots, event.changed, actor)
        # An event that is too large fails for all of them.
        matched = Match(candidates) if event.error else match(candidates, state.subscriptions, context, state.budget)
        problem = event.error or events.stop_loop(state, matched, actor)
        same = {name: getattr(event, name) for name in COLUMNS}
        for webhook_ids, error in ((matched.matched, problem), (matched.errored, matched.error)):
            if webhook_ids:
                columns = events.complete_columns(state, same, event.action, webhook_ids, error, actor)
                new.append(Event(**columns))
        refusals |= matched.refusals
    skips = skips_of(event, actor, refusals)
    if state.batch is not None:
        entries: list[Entry] = [*new, *skips]
        for entry in entries:
            state.defer(state.batch, entry)
        return
    for new_event in new:
        with MergedSavepoint(state.using) as savepoint, savepoint.last():
            state.insert_event(new_event)
    Skips(state, skips).store()


def _lock_object(state: TransactionState, registration: Registration, event: Event) -> None:
    """Let a later change of the object wait, so that its Event comes later."""
    # A row that this transaction changed is locked already.
    if state.connection.features.has_select_for_update and not state.history((event.object_type, event.object_id)):
        message = "%s %s cannot be locked, its events may be out of order"
        with log_errors(state.using, message, event.object_type, event.object_id), MergedSavepoint(state.using):
            snapshots.read_rows(registration, [registration.normalize_pk(event.object_id)], state.using, lock=True)
