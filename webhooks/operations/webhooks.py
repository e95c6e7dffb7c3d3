"""Save, test, enable, pause, resume and delete webhooks, rotate keys of encryption, and refuse settings of a user."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import IntegrityError, transaction
from django.db.models import prefetch_related_objects
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from webhooks import hooks
from webhooks.capture.context import actor_columns, current_actor
from webhooks.delivery.retention import purge_webhooks
from webhooks.delivery.wake_up import wake_on_commit
from webhooks.ground import registry
from webhooks.ground.registry import label_of
from webhooks.ground.security import encryption
from webhooks.ground.security.encryption import Secret, Unreadable
from webhooks.ground.text import clean, username_of
from webhooks.ground.text.json_text import dumps
from webhooks.insight import history
from webhooks.models import Delivery, Event, QueuedDelivery, Webhook
from webhooks.models.columns import USERNAME_LENGTH
from webhooks.models.delivery import SUCCEEDED
from webhooks.models.event import PING, PING_OBJECT_TYPE
from webhooks.models.ids import new_id
from webhooks.models.permissions import is_partial, may, may_view_all, of_viewable_objects
from webhooks.models.webhook import (
    CONFLICT,
    CONTENT_FIELDS,
    DESTINATION_FIELDS,
    NORMALIZED_FIELDS,
    SETTINGS,
    TOKEN_FIELDS,
)
from webhooks.models.webhook_secrets import CREDENTIAL_FIELDS, SECRET_FIELDS, SENT_CREDENTIALS
from webhooks.models.webhook_states import WebhookQuerySet
from webhooks.operations import edits

FORGET = "forget_previous_secret"

# Rows that one request deletes at most. Under ATOMIC_REQUESTS they are locked until its end, and workers wait for them.
MAX_ROWS = 1000


# What to say before and after a test.
PING_REFUSED = gettext_lazy("The webhook is disabled. Enable it before you send a test.")
PING_WAITS = gettext_lazy("The webhook is paused, so the test waits until you resume it.")
PINGED = gettext_lazy("A test is on its way to “%(name)s”: event %(id)s.")


def ping(webhook: Webhook, user: Any = None) -> Event:
    """Send a test event to one webhook. A ``user`` gets an entry in the history.

    If the webhook is paused for its failures, the test probes it at once. If a user paused it, the test waits.
    """
    event = new_ping(webhook, webhook_ids=[webhook.pk])
    event.insert(Event.objects.db)
    Webhook.objects.filter(pk=webhook.pk).probe()
    wake_on_commit()
    if user is not None:
        history.record(user, [webhook], history.CHANGE, "Sent a test.")
    return event


def new_ping(webhook: Webhook, **fields: Any) -> Event:
    """A test event of this webhook, not saved. Each has another id, and so another lane: a failed test blocks none."""
    object_id, title = str(new_id()), f"test of {webhook.name}".strip()
    data = dumps({"id": object_id, "display": title})
    about = {"action": PING, "object_type": PING_OBJECT_TYPE, "object_id": object_id, "object_repr": title}
    return Event(data=data, **about, **actor_columns(current_actor()), **fields)


class ChangedMeanwhile(Exception):
    """Nothing was saved: another user changed the webhook, or took its name, while this one edited it."""


class StaleSettings(ChangedMeanwhile):
    """The settings have changed since the user read them."""


class OutsidePermission(PermissionDenied):
    """The host gives the user this permission for other webhooks only. The message says so."""


def save_webhook(
    webhook: Webhook,
    values: Mapping[str, Any],
    object_types: Iterable[ContentType] | None,
    user: Any,
    *,
    opened: str = "",
    tags: Collection[str] | None = None,
    is_checked: bool = False,
) -> Webhook:
    """Save settings that a user gives for a new or a stored webhook, and record that in the history.

    ``values`` are settings by name, and ``forget_previous_secret``. Settings that it leaves out stay as they are.
    ``object_types`` are all models of the webhook; None keeps them. ``user`` needs the permission to add or to change
    the webhook. If this enables it, the heads of its lanes that failed are due at once, as after ``resume``.

    To notice another user's change, give the settings as the user read them: ``opened`` of the form, or the ``tags``
    of ``edits.settings_tag``. ``is_checked`` says that ``check_webhook`` or the form has accepted the values.

    Raises ValidationError with the errors by field, OutsidePermission, ChangedMeanwhile, Webhook.DoesNotExist if it was
    deleted meanwhile, and TypeError for a value that is no setting.
    """
    if unknown := values.keys() - {*SETTINGS, FORGET} | values.keys() & {"object_types"}:
        raise TypeError(f"These are no settings that values may have: {', '.join(sorted(unknown))}")
    values = dict(values if is_checked else check_webhook(webhook, values, object_types, user))
    changed = {name.removeprefix("forget_") for name, value in values.items() if name != FORGET or value}
    act = "add" if webhook._state.adding else "change"
    before, read = None, set[ContentType]()
    if act == "change" and not opened and tags is None:
        read = {*webhook.object_types.all()}
    for name in values.keys() - {FORGET}:
        setattr(webhook, name, values[name])
    try:
        with transaction.atomic(Webhook.objects.db):
            if act == "add":
                webhook.disabled_by = "" if webhook.enabled else clean(username_of(user), USERNAME_LENGTH)
                webhook.save()
            else:
                locked = Webhook.objects.select_for_update(no_key=True, of=("self",))
                stored = locked.prefetch_related("object_types").get(pk=webhook.pk)
                _refuse_stale(stored, changed, opened, tags)
                if not opened and tags is None:
                    _refuse_new_models(user, stored, read, values)
                before = history.field_values(stored)
                _save_changes(webhook, changed, user, stored)
            if object_types is not None:
                webhook.object_types.set(object_types)
                changed.add("object_types")
                prefetch_related_objects([webhook], "object_types")  # the history reads them twice
            if not may(user, act, webhook):
                raise OutsidePermission(OUTSIDE[act])
            if before is None:
                history.record(user, [webhook], history.ADDITION, [{"added": {}}])
            elif message := history.describe_changes(webhook, before, sorted(changed)):
                history.record(user, [webhook], history.CHANGE, message, before)
            if webhook.enabled:
                wake_on_commit()  # deliveries may have waited while it was disabled
    except (IntegrityError, ValidationError) as error:  # another user may have removed a model that is not registered
        raise ChangedMeanwhile(str(CONFLICT)) from error
    return webhook


def _refuse_stale(stored: Webhook, changed: Collection[str], opened: str, tags: Collection[str] | None) -> None:
    """Raise StaleSettings if the locked row has other settings than the user has read, or other secrets to replace."""
    secrets = edits.changed_secrets(opened, edits.secret_tags(stored)).intersection(changed)
    has_other_tag = tags is not None and edits.settings_tag(stored) not in tags
    if secrets or has_other_tag or edits.changed_since(opened, edits.settings_of(stored)):
        raise StaleSettings(str(CONFLICT))


def _refuse_new_models(user: Any, stored: Webhook, read: Collection[ContentType], values: Mapping[str, Any]) -> None:
    """Raise ChangedMeanwhile if another user added a model, after the check, that locks these values for this user."""
    added = {*stored.object_types.all()}.difference(read)
    if added and _unviewable(user, added) and _guarded_changes(stored, values, values.keys() & {*CREDENTIAL_FIELDS}):
        raise ChangedMeanwhile(str(CONFLICT))


def check_webhook(
    webhook: Webhook,
    values: Mapping[str, Any],
    object_types: Iterable[ContentType] | None,
    user: Any,
    free_names: Collection[str] = (),
) -> dict[str, Any]:
    """The values as they will be stored, for ``save_webhook``. ``free_names`` are names of webhooks that are removed
    before.

    Raises ValidationError with the errors by field. A stored value may have become invalid, such as the name of a
    serializer that is gone. This is no error if ``values`` has other fields, unless they enable the webhook.
    """
    # Read again: code may have changed the instance.
    stored = None if webhook._state.adding else Webhook.objects.prefetch_related("object_types").get(pk=webhook.pk)
    if refused := refusals(user, stored, values, object_types or (), values.keys() & {*CREDENTIAL_FIELDS}):
        raise ValidationError({**refused})
    kept = list(stored.object_types.all()) if stored else []
    candidate = copy.copy(stored or webhook)
    for name in values.keys() - {FORGET}:
        setattr(candidate, name, values[name])
    candidate.new_object_types = kept if object_types is None else list(object_types)
    errors = _errors_of(candidate)
    if candidate.name in free_names and [one.code for one in errors.get("name", ())] == ["unique"]:
        del errors["name"]
    given = {*values} if object_types is None else {*values, "object_types"}
    if stored and errors.keys() - given and (stored.enabled or not values.get("enabled")):
        stored.new_object_types = kept
        known = _errors_of(stored)
        errors = {name: found for name, found in errors.items() if name in given or found != known.get(name)}
    if errors:
        raise ValidationError(errors)
    checked = {name: getattr(candidate, name) if name in NORMALIZED_FIELDS else values[name] for name in values}
    if stored and values.get("enabled") == stored.enabled:
        del checked["enabled"]  # no change, even if a worker disables the webhook meanwhile
    return checked


def _errors_of(webhook: Webhook) -> dict[str, list[ValidationError]]:
    try:
        webhook.full_clean()
    except ValidationError as error:
        return error.error_dict
    return {}


def _save_changes(webhook: Webhook, changed: Collection[str], user: Any, stored: Webhook | None = None) -> None:
    """Call it in a transaction. ``stored`` is the row, if that has locked it."""
    if webhook.save_settings(changed, user, None, stored):
        QueuedDelivery.objects.hasten_heads([webhook.pk])


def _announce(name: str, webhooks: Iterable[Webhook], user: Any) -> None:
    """Call the hooks of this name for webhooks that a user has changed."""
    hooks.announce(name, Webhook.objects.db, lambda: [webhook.as_changed(user) for webhook in webhooks])


def set_enabled(webhooks: WebhookQuerySet, user: Any, enabled: bool) -> list[Webhook]:
    """Enable or disable webhooks. Deliveries that waited for it are sent. Returns the webhooks that it changed.

    It enables none that ``why_not_started`` refuses.
    """
    changed = []
    for webhook in webhooks.filter(enabled=not enabled):
        if enabled and why_not_started(user, webhook):
            continue
        webhook.enabled = enabled
        try:
            with transaction.atomic(Webhook.objects.db):
                _save_changes(webhook, ["enabled"], user)
        except Webhook.DoesNotExist:
            continue  # deleted in the meantime
        changed.append(webhook)
    if enabled and changed:
        wake_on_commit()
    text = "Enabled." if enabled else "Disabled."
    history.record(user, changed, history.CHANGE, text, {"enabled": not enabled})
    return changed


def pause(webhooks: WebhookQuerySet, user: Any) -> list[Webhook]:
    """Stop sending to enabled webhooks until ``resume``. Changes are still captured, and their deliveries wait.

    Returns the webhooks that it paused. A worker ends its open requests, and hands the rest back in some seconds.
    """
    with transaction.atomic(webhooks.db):
        paused = list(webhooks.pausable().select_for_update(no_key=True, of=("self",)))
        Webhook.objects.filter(pk__in=[webhook.pk for webhook in paused]).pause(user)
        history.record(user, paused, history.CHANGE, "Paused.")
        _announce("webhook_paused", paused, user)
    return paused


def resume(webhooks: WebhookQuerySet, user: Any) -> list[Webhook]:
    """Send to paused webhooks at once, without waiting for a probe or for the next attempts of the heads of lanes.
    Returns the webhooks that it resumed.

    It resumes none that ``why_not_started`` refuses.
    """
    with transaction.atomic(webhooks.db):
        paused = webhooks.paused().select_for_update(no_key=True, of=("self",))
        resumed = [webhook for webhook in paused if not why_not_started(user, webhook)]
        history.record(user, resumed, history.CHANGE, "Resumed.")
        _announce("webhook_resumed", resumed, user)
        if resumed:
            pks = [webhook.pk for webhook in resumed]
            Webhook.objects.filter(pk__in=pks).resume()
            QueuedDelivery.objects.hasten_heads(pks)
            wake_on_commit()
    return resumed


def delete_webhooks(webhooks: WebhookQuerySet, user: Any = None) -> None:
    """Delete webhooks with all their deliveries. A ``user`` gets entries in the history.

    They are hidden and disabled at once. If there are more than ``MAX_ROWS`` deliveries, the sweep deletes the rest.
    """
    using = webhooks.db
    pks = list(webhooks.values_list("pk", flat=True))
    with transaction.atomic(using):
        if user is not None:
            history.record(user, webhooks, history.DELETION)
        webhooks.delete()
        purge_webhooks(Webhook.with_deleted.using(using).being_deleted().filter(pk__in=pks), MAX_ROWS)


@dataclass
class Rotated:
    """The result of a rotation, in numbers of secrets."""

    renewed: int = 0
    current: int = 0
    """Secrets that had the newest key already."""
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """The names of webhooks, each with the name of a secret, such as "secret headers"."""


def rotate_keys() -> Rotated:
    """Encrypt all secrets with the newest key. Can be repeated, and keeps changes that users make meanwhile.

    Raises Unreadable if the keys in the settings are invalid.
    """
    result = Rotated()
    for webhook, name, secret in _secrets():
        if encryption.is_current(secret.stored):
            result.current += 1
            continue
        try:
            renewed = encryption.encrypt(secret.reveal())
        except Unreadable:
            result.unreadable.append((webhook.name, name.replace("_", " ")))
            continue
        # Filter by the old value: a user may have entered a new secret meanwhile.
        result.renewed += Webhook.objects.filter(pk=webhook.pk, **{name: secret}).update(**{name: renewed})
    return result


def unreadable_secrets() -> list[tuple[str, str]]:
    """The secrets that no key decrypts, as in ``Rotated.unreadable``."""
    return [(webhook.name, name.replace("_", " ")) for webhook, name, secret in _secrets() if secret.problem]


def _secrets() -> Iterator[tuple[Webhook, str, Secret]]:
    """Each secret that is not empty, with its webhook and field."""
    for webhook in Webhook.objects.order_by("pk").only("name", *SECRET_FIELDS):
        yield from ((webhook, name, getattr(webhook, name)) for name in SECRET_FIELDS if getattr(webhook, name))


# Settings that a user may not save, although they have the permission to change the webhook. It sends all objects of
# its models to a receiver that a user chooses. So it takes the permission to view all of them, and the secret headers
# of a colleague must not reach another receiver.

# Every attempt reads these, so a change applies to deliveries that wait already.
ATTEMPT_FIELDS = {*DESTINATION_FIELDS, *CREDENTIAL_FIELDS, *TOKEN_FIELDS, "enabled"}

# For a user with the permission for some webhooks only.
OUTSIDE = {
    "add": gettext_lazy("You may add some webhooks, but none with these values."),
    "change": gettext_lazy("You may change some webhooks, but none with these values."),
}


def refusals(
    user: Any,
    webhook: Webhook | None,
    values: Mapping[str, Any],
    object_types: Iterable[ContentType],
    entered: Collection[str],
) -> dict[str, str]:
    """Why the user may not save these values, by field; empty if they may. ``webhook`` is the stored one.

    ``entered`` are the credentials that the user enters or clears.
    """
    found = _refuse_reserved(webhook, values, entered)
    stored = set(webhook.object_types.all()) if webhook else set()
    if hidden := _unviewable(user, set(object_types) - stored):
        text = _("A webhook sends all objects of %(models)s, and you may not view all of them. %(remedy)s")
        found["object_types"] = text % {"models": ", ".join(hidden), "remedy": _remedy(hidden)}
    changed = _guarded_changes(webhook, values, entered) if webhook else []
    if webhook and changed:
        if reason := _refuse_change(user, webhook, stored, changed):
            found[changed[0]] = reason
        is_moved = changed[0] in DESTINATION_FIELDS
        for name in SENT_CREDENTIALS if is_moved else ():
            if getattr(webhook, name) and name not in entered:
                found[name] = _("They would go to the new destination: enter them again, or clear them.")
    return found


def _refuse_reserved(webhook: Webhook | None, values: Mapping[str, Any], entered: Collection[str]) -> dict[str, str]:
    """Why these values are for code only, by field: a reserved identifier, and the fixed settings of its webhook."""
    if webhook and (reserved := registry.reserved_for(webhook.identifier)):
        fixed = values.keys() & {"identifier", *reserved.fixed}
        changed = {name for name in fixed if not edits.is_same(values[name], getattr(webhook, name))}
        return {name: str(reserved.remedy) for name in changed - {*CREDENTIAL_FIELDS} | fixed & {*entered}}
    chosen = registry.reserved_for(values.get("identifier"))
    return {"identifier": chosen.problem} if chosen else {}


def why_not_started(user: Any, webhook: Webhook) -> str:
    """Why the user may not enable or resume a webhook; empty if they may. It sends what others may view."""
    return _refuse_change(user, webhook, webhook.object_types.all(), ["enabled"])


def _refuse_change(user: Any, webhook: Webhook, object_types: Iterable[ContentType], changed: Sequence[str]) -> str:
    """Why the user may not change these fields; empty if they may."""
    starts = changed == ["enabled"]
    if hidden := _unviewable(user, object_types):
        text = _(
            "You may not view all objects of %(models)s, so you may not change what this webhook sends of them, or "
            "where. %(remedy)s"
        )
        if starts:
            text = _("You may not view all objects of %(models)s, so you may not have them sent. %(remedy)s")
        return text % {"models": ", ".join(hidden), "remedy": _remedy(hidden)}
    if ATTEMPT_FIELDS.isdisjoint(changed) or not is_partial(user) or not _has_hidden_events(user, webhook):
        return ""
    if starts:
        return _("Changes of objects that you may not view wait to be sent, so you may not have them sent.")
    return _(
        "Changes of objects that you may not view wait to be sent, or may be retried or replayed, so you may not "
        "change what this webhook sends, or where."
    )


def _remedy(hidden: Iterable[str]) -> str:
    needed = ", ".join(label.replace(".", ".view_") for label in hidden)
    text = _("Ask a superuser, or get the permission %(permission)s for all objects.")
    return text % {"permission": needed}


def _guarded_changes(webhook: Webhook, values: Mapping[str, Any], entered: Collection[str]) -> list[str]:
    """The fields for destination, for content, and for credentials that these values would change, in this order. Last
    "enabled", if it would be enabled."""
    names = [name for name in (*DESTINATION_FIELDS, *CONTENT_FIELDS) if name in values]
    changed = [name for name in names if not edits.is_same(values[name], getattr(webhook, name))]
    changed += [name for name in CREDENTIAL_FIELDS if name in entered]
    return [*changed, "enabled"] if values.get("enabled") and not webhook.enabled else changed


def _has_hidden_events(user: Any, webhook: Webhook) -> bool:
    """Whether the webhook may still send an Event of an object that the user may not view."""
    # In the order that an Event takes: one that moves on between two queries is found by the later one.
    sendable = Delivery.objects.filter(webhook=webhook).exclude(SUCCEEDED)
    return any(
        events.exclude(pk__in=of_viewable_objects(user, events).values("pk")).exists()
        for events in (
            Event.objects.failed().matched_by(webhook.pk),
            Event.objects.undispatched().matched_by(webhook.pk),
            Event.objects.filter(pk__in=sendable.values("event")),
        )
    )


def _unviewable(user: Any, content_types: Iterable[ContentType]) -> list[str]:
    """The labels of the models of which the user may not view all objects."""
    chosen = [(label_of(one), one.model_class()) for one in content_types]
    # Nothing is sent of a model that is gone. Its events are hidden from all but superusers.
    return sorted(label for label, model in chosen if model is not None and not may_view_all(user, model))
