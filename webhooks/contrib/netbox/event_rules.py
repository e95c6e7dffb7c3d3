"""The action "Deliver durably" of NetBox's event rules: NetBox chooses the event and the receiver, this app delivers.

NetBox calls ``enqueue`` at the end of a request, after the commit of its changes, and when a job begins or ends. Its
own action puts a job into Redis then. This one records an Event for a copy of the rule's webhook, among the webhooks of
this app. The payload has what NetBox's own action sends, and more keys.

A copy follows its original: NetBox's form has the URL, the headers, the template, the secret. Users change the other
settings at the copy, such as the filters, the order, a pause.
"""

from __future__ import annotations

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

from webhooks import registry
from webhooks.capture.context import actor
from webhooks.capture.custom_events import send_to
from webhooks.contrib.netbox.originals import webhook_item
from webhooks.errors import get_logger, log_errors
from webhooks.management.imports import request_fields
from webhooks.models import Event, Webhook
from webhooks.operations.webhooks import ChangedMeanwhile, check_webhook, save_webhook, set_enabled
from webhooks.payloads import snapshots, snapshots_json
from webhooks.permissions import Operator
from webhooks.registry.registration import NAME_LENGTH
from webhooks.text import NotJSONSerializable, clean, dumps, username_of

logger = get_logger(__name__)

EVENT = "extras.event_rule"
"""What a copy wants, so that it wants something. Nothing sends this event."""

FOLLOWER = Operator("", name="NetBox's webhook")
"""Who changes a copy, in the history."""

registry.register_event(EVENT, gettext_lazy("Copy of NetBox's webhook: event rules choose what it sends"))  # type: ignore[arg-type]


class DeliverDurably(EventRuleAction):
    slug = "rq_webhooks.deliver"
    label = gettext_lazy("Deliver durably")
    description = gettext_lazy("Send a webhook from a queue in the database: retried, in order, and also without Redis")
    object_model = Original
    object_required = True

    def validate(self, *, action_object: Original, action_data: Any) -> None:
        """Refuse a webhook that this app would not send, with the reason."""
        copy = find_copy(action_object) or Webhook(custom_events=[EVENT])
        try:
            check_webhook(copy, _settings_of(action_object), None, FOLLOWER)
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
    return f"netbox-webhook-{original.pk}"


def _settings_of(original: Original) -> dict[str, Any]:
    """The settings that a copy has from its original."""
    return {"name": f"{original.name[:130]} (event rules)", **request_fields(webhook_item(original), [])}


def find_copy(original: Original) -> Webhook | None:
    """The webhook of this app that sends for one of NetBox's. None before an event rule needs one."""
    return Webhook.objects.filter(identifier=_identifier_of(original)).first()


def follow(original: Original) -> Webhook:
    """Create the copy of a webhook of NetBox, or correct it, and return it.

    A setting that this app refuses is copied nevertheless. The deliveries then fail and wait, and say why.
    """
    values, copy = _settings_of(original), find_copy(original)
    if copy is None:
        try:
            copy = Webhook(identifier=_identifier_of(original), custom_events=[EVENT])
            return save_webhook(copy, values, None, FOLLOWER, is_checked=True)
        except ChangedMeanwhile:
            copy = find_copy(original)  # another process has created it
            if copy is None:
                raise
    wanted = Webhook(**values)
    if changed := {name: one for name, one in values.items() if getattr(copy, name) != getattr(wanted, name)}:
        save_webhook(copy, changed, None, FOLLOWER, is_checked=True)
    return copy


def _quietly(work: Callable[..., object], *args: Any) -> None:
    """A save in NetBox must not fail because of a copy."""
    using = Webhook.objects.db
    with log_errors(using, "The copy of a webhook of NetBox cannot be changed: %s", args), transaction.atomic(using):
        work(*args)


@receiver(post_save, sender=EventRule)
def _create_copy(instance: EventRule, **kwargs: Any) -> None:
    """With the rule, so that users find the copy before its first event."""
    if instance.action_type == DeliverDurably.slug and isinstance(instance.action_object, Original):
        _quietly(follow, instance.action_object)


@receiver(post_save, sender=Original)
def _correct_copy(instance: Original, **kwargs: Any) -> None:
    """At once: deliveries that wait go to the corrected URL."""
    if find_copy(instance):
        _quietly(follow, instance)


@receiver(post_delete, sender=Original)
def _disable_copy(instance: Original, **kwargs: Any) -> None:
    """Not deleted: that would delete its history, too."""
    _quietly(set_enabled, Webhook.objects.filter(identifier=_identifier_of(instance)), FOLLOWER, False)
