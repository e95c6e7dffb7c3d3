"""The action "Deliver durably" of NetBox's event rules: NetBox chooses the event and the receiver, this app delivers.

NetBox calls ``enqueue`` at the end of a request, after the commit of its changes, and when a job begins or ends. Its
own action puts a job into Redis then. This one records an Event for a copy of the rule's webhook, among the webhooks of
this app. The payload has what NetBox's own action sends, and more keys.

A copy follows its original: NetBox's form has the URL, the headers, the template, the secret. Users change the other
settings at the copy, such as the filters, the order, a pause.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from extras.constants import WEBHOOK_EVENT_TYPES
from extras.models import EventRule
from extras.models import Webhook as Original
from netbox.event_rules import EventRuleAction

from webhooks.capture.context import actor
from webhooks.capture.custom_events import send_to
from webhooks.contrib.netbox.originals import settings_of
from webhooks.ground import registry
from webhooks.ground.errors import get_logger, log_errors
from webhooks.ground.payloads import snapshots, snapshots_json
from webhooks.ground.text import NAME_LENGTH, clean, one_line, username_of
from webhooks.ground.text.json_text import NotJSONSerializable, dumps
from webhooks.management.imports import DURABLY
from webhooks.models import Event, Webhook
from webhooks.models.permissions import Operator
from webhooks.operations.webhooks import ChangedMeanwhile, check_webhook, save_webhook, set_enabled

logger = get_logger(__name__)

EVENT = "extras.event_rule"
"""What a copy wants, so that it wants something. Nothing sends this event, and no other webhook may have it."""

RESERVED = "netbox-webhook-"
"""Begins the identifiers of copies. Else a user could own the copy of a webhook that NetBox does not show them."""

FOLLOWER = Operator("", name="NetBox's webhook")
"""Who changes a copy, in the history."""

registry.reserve_identifiers(
    registry.Reserved(
        RESERVED,
        gettext_lazy("copies of NetBox's webhooks"),  # type: ignore[arg-type]
        ("name", *settings_of(Original())),
        gettext_lazy("Change this at NetBox's webhook. The copy follows it."),  # type: ignore[arg-type]
        {EVENT: gettext_lazy("Copy of NetBox's webhook: event rules choose what it sends")},  # type: ignore[dict-item]
    )
)


class DeliverDurably(EventRuleAction):
    slug = DURABLY
    label = gettext_lazy("Deliver durably")
    description = gettext_lazy("Send a webhook from a queue in the database: retried, in order, and also without Redis")
    object_model = Original
    object_required = True

    def validate(self, *, action_object: Original, action_data: Any) -> None:
        """Refuse a webhook that this app would not send, with the reason."""
        new = Webhook(identifier=f"{RESERVED}new", name=_names_of(action_object)[-1], custom_events=[EVENT])
        try:
            check_webhook(new, settings_of(action_object), None, FOLLOWER)
        except ValidationError as error:
            problems = "; ".join(f"{name}: {' '.join(texts)}" for name, texts in error.message_dict.items())
            text = _("The webhook “%(name)s” cannot be delivered durably. %(problems)s")
            raise ValidationError(text % {"name": action_object, "problems": problems}) from None

    def resolve_import_object(self, value: str) -> Original:
        return Original.objects.get(name=value)

    def enqueue(self, *, event_rule: EventRule, event_context: Any, action_object: Original, action_data: Any) -> None:
        if action_object is None:
            logger.warning("The event rule %s has no webhook any more, and nothing is sent of it", event_rule)
            return
        copy = follow(action_object)
        with _acting(event_context):
            send_to(copy, _event(event_context, action_data))


event_rule_actions = [DeliverDurably]


# The event


def _acting(context: Mapping[str, Any]) -> AbstractContextManager[None]:
    """As the user of the request. A job has a user and no request."""
    if request := context.get("request"):
        return actor(request=request)
    return actor(username_of(context.get("user")))


def _event(context: Mapping[str, Any], data: Mapping[str, Any]) -> Event:
    """The event that NetBox's own action would send. ``data`` has the static data of the rule, too."""
    action = WEBHOOK_EVENT_TYPES.get(context["event_type"], context["event_type"])
    key = context.get("object_id")
    event = Event(
        action=action,
        object_type=".".join(context["object_type"].natural_key()),
        object_id=str(action if key is None else key),  # NetBox does not say which job it is
        object_repr=clean(str(data.get("display") or ""), NAME_LENGTH),
    )
    known = context.get("snapshots") or {}
    before, after = known.get("prechange"), known.get("postchange")
    try:
        event.data = dumps(data)
        event.snapshots = snapshots_json(before and dumps(before), after and dumps(after))
        if before and after:
            event.changed = dumps(snapshots.changed_fields(before, after))
    except NotJSONSerializable as error:
        event.data, event.snapshots, event.error = "", "", f"NetBox's data cannot be written as JSON: {error}."
    return event


# Copies of NetBox's webhooks


def _identifier_of(original: Original) -> str:
    return f"{RESERVED}{original.pk}"


def _names_of(original: Original) -> list[str]:
    """Names for a copy. Other webhooks may have the first one, and even the second."""
    name, unique = _beginning_of_name(original), secrets.token_hex(4)
    return [f"{name})", f"{name} {original.pk})", f"{name} {original.pk}, {unique})"]


def _beginning_of_name(original: Original) -> str:
    return f"{one_line(original.name)[:100]} (event rules"


def find_copy(original: Original) -> Webhook | None:
    """The webhook of this app that sends for one of NetBox's. None before an event rule needs one."""
    return Webhook.objects.filter(identifier=_identifier_of(original)).first()


def follow(original: Original) -> Webhook:
    """Create the copy of a webhook of NetBox, or correct it, and return it.

    A setting that this app refuses is copied nevertheless. The deliveries then fail and wait, and say why.
    """
    for name in _names_of(original):
        copy = find_copy(original)
        try:
            if copy is None:
                new = Webhook(identifier=_identifier_of(original), custom_events=[EVENT])
                return save_webhook(new, {"name": name, **settings_of(original)}, None, FOLLOWER, is_checked=True)
            if changed := _differences(copy, original, name):
                save_webhook(copy, changed, None, FOLLOWER, is_checked=True)
            return copy
        except (ChangedMeanwhile, Webhook.DoesNotExist) as error:
            # Another webhook has this name. Or another process has created, changed or deleted the copy.
            conflict = error
    raise conflict


def _differences(copy: Webhook, original: Original, name: str) -> dict[str, Any]:
    """The settings of the original that its copy does not have, and this name if the original was renamed."""
    values = settings_of(original)
    wanted = Webhook(**values)
    changed = {field: value for field, value in values.items() if getattr(copy, field) != getattr(wanted, field)}
    return changed if copy.name.startswith(_beginning_of_name(original)) else changed | {"name": name}


def _quietly(original: Original, work: Callable[[], object]) -> None:
    """A save in NetBox must not fail because of a copy."""
    using = Webhook.objects.db
    with (
        log_errors(using, "The copy of NetBox's webhook %s cannot be changed", original.name),
        transaction.atomic(using),
    ):
        work()


@receiver(post_save, sender=EventRule)
def _create_copy(instance: EventRule, **kwargs: Any) -> None:
    """With the rule, so that users find the copy before its first event."""
    if instance.action_type == DeliverDurably.slug and isinstance(original := instance.action_object, Original):
        _quietly(original, lambda: follow(original))


@receiver(post_save, sender=Original)
def _correct_copy(instance: Original, **kwargs: Any) -> None:
    """At once: deliveries that wait go to the corrected URL."""
    _quietly(instance, lambda: find_copy(instance) and follow(instance))


@receiver(post_delete, sender=Original)
def _disable_copy(instance: Original, **kwargs: Any) -> None:
    """Not deleted: that would delete its history, too."""
    copies = Webhook.objects.filter(identifier=_identifier_of(instance))
    _quietly(instance, lambda: set_enabled(copies, FOLLOWER, False))
