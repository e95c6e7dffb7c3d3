"""Why a user may not save settings of a webhook, although they have the permission to change it.

A webhook sends data to a receiver that a user chooses. So it takes the permission to view the objects, and the secret
headers of a colleague must not reach another receiver.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from webhooks.models import Delivery, Event, State, Webhook
from webhooks.permissions import is_partial, may_view_model, of_viewable_objects
from webhooks.registry import label_of

# A change of these sends data to another receiver, or lets others read it on the way.
DESTINATION_FIELDS = ("payload_url", "ssl_verification", "ca_file_path")
# A change of these sends more data, or reveals data by whether something is sent.
CONTENT_FIELDS = (
    "additional_headers", "body_template",
    "on_created", "on_updated", "on_deleted", "serializer", "conditions", "changed_fields", "only_changes",
    "prechange", "excluded_usernames",
)  # fmt: skip
# Every attempt reads these, so a change applies to deliveries that wait already.
ATTEMPT_FIELDS = {*DESTINATION_FIELDS, "additional_headers", "body_template"}

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
    enters_secret_headers: bool,
) -> dict[str, str]:
    """Why the user may not save these values, by field; empty if they may. ``webhook`` is the stored one."""
    found = {}
    stored = set(webhook.object_types.all()) if webhook else set()
    if hidden := _unviewable(user, set(object_types) - stored):
        text = _("You may not view %(models)s, so you may not send it. You need the permission %(permission)s.")
        needed = ", ".join(label.replace(".", ".view_") for label in hidden)
        found["object_types"] = text % {"models": ", ".join(hidden), "permission": needed}
    changed = _guarded_changes(webhook, values) if webhook else []
    if webhook and changed:
        if reason := _refuse_change(user, webhook, stored, changed):
            found[changed[0]] = reason
        if changed[0] in DESTINATION_FIELDS and webhook.secret_headers and not enters_secret_headers:
            found["secret_headers"] = _("They would go to the new destination: enter them again, or clear them.")
    return found


def _refuse_change(user: Any, webhook: Webhook, object_types: Iterable[ContentType], changed: Sequence[str]) -> str:
    """Why the user may not change these fields; empty if they may."""
    is_redirected = changed[0] in DESTINATION_FIELDS
    if hidden := _unviewable(user, object_types):
        text = _(
            "This webhook sends %(models)s, which you may not view, so you may not change the content that it sends."
        )
        if is_redirected:
            text = _("This webhook sends %(models)s, which you may not view, so you may not change where it sends to.")
        return text % {"models": ", ".join(hidden)}
    if ATTEMPT_FIELDS.isdisjoint(changed) or not is_partial(user) or not _has_hidden_events(user, webhook):
        return ""
    if is_redirected:
        return _(
            "Changes of objects that you may not view wait to be sent, or may be retried or replayed, so you may not "
            "change where it sends to."
        )
    return _(
        "Changes of objects that you may not view wait to be sent, or may be retried or replayed, so you may not "
        "change the content that it sends."
    )


def _guarded_changes(webhook: Webhook, values: Mapping[str, Any]) -> list[str]:
    """The fields for destination, then for content, that these values would change."""

    def normalized(value: Any) -> Any:
        # A form changes line breaks and blanks, and every empty value means the same.
        return [line.rstrip() for line in value.strip().splitlines()] if isinstance(value, str) else value or []

    names = [name for name in (*DESTINATION_FIELDS, *CONTENT_FIELDS) if name in values]
    return [name for name in names if normalized(values[name]) != normalized(getattr(webhook, name))]


def _has_hidden_events(user: Any, webhook: Webhook) -> bool:
    """Whether the webhook may still send an Event of an object that the user may not view."""
    # In the order that an Event takes: one that moves on between two queries is found by the later one.
    sendable = Delivery.objects.filter(webhook=webhook).exclude(outcome=State.SUCCEEDED)
    return any(
        events.exclude(pk__in=of_viewable_objects(user, events).values("pk")).exists()
        for events in (
            Event.objects.failed().matched_by(webhook.pk),
            Event.objects.undispatched().matched_by(webhook.pk),
            Event.objects.filter(pk__in=sendable.values("event")),
        )
    )


def _unviewable(user: Any, content_types: Iterable[ContentType]) -> list[str]:
    """The labels of the models that the user may not view."""
    chosen = [(label_of(one), one.model_class()) for one in content_types]
    return sorted(label for label, model in chosen if model is None or not may_view_model(user, model))
