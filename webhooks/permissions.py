"""What a user may see and change, and which data they may send elsewhere.

Three rules apply together: Django's permissions for the models of this app; the host's ``restrict()`` for single rows,
as NetBox has it; and the setting ``MAY_VIEW`` for the objects of Events. It is the path of ``by_restriction``, of
``by_model``, or of a callable of the host: it takes a user and Events, and returns the Events that the user may view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from django.apps import apps
from django.contrib.auth import get_permission_codename
from django.contrib.contenttypes.models import ContentType
from django.db import connections, models
from django.db.models import Q, QuerySet, Value
from django.db.models.functions import Cast, Concat, Substr
from django.utils.module_loading import import_string

from webhooks import registry
from webhooks.conf import conf
from webhooks.models import Delivery, Event, Webhook
from webhooks.models.delivery import State
from webhooks.models.event import PING_OBJECT_TYPE
from webhooks.registry import label_of
from webhooks.registry.registration import source_field

M = TypeVar("M", bound=models.Model)
Restrict = Callable[[QuerySet[M], Any, str], QuerySet[M]]

# A change of these sends data to another receiver, or lets others read it on the way.
ENTER_AGAIN = "They would go to the new destination: enter them again, or clear them."

DESTINATION_FIELDS = ("payload_url", "ssl_verification", "ca_file_path")
# A change of these sends more data, or reveals data by whether something is sent.
CONTENT_FIELDS = (
    "additional_headers", "body_template",
    "on_created", "on_updated", "on_deleted", "serializer", "conditions", "changed_fields", "only_changes",
    "prechange", "excluded_usernames",
)  # fmt: skip
# Every attempt reads these, so a change applies to deliveries that wait already.
ATTEMPT_FIELDS = {*DESTINATION_FIELDS, "additional_headers", "body_template"}


def has_perm(user: Any, permission: str) -> bool:
    """Whether the user has this permission. A user model without ``has_perm`` gives none."""
    return hasattr(user, "has_perm") and bool(user.has_perm(permission))


def allowed(user: Any, action: str, rows: QuerySet[M]) -> QuerySet[M]:
    """The rows of a model of this app on which the user may perform the action: view, change, retry, …

    The permission for the model decides, and the host's ``restrict()`` if it has one.
    """
    if _sees_all(user):
        return rows
    if not has_perm(user, f"webhooks.{action}_{rows.model._meta.model_name}"):
        return rows.none()
    restrict = _restriction()
    return restrict(rows, user, action) if restrict else rows


def may(user: Any, action: str, row: models.Model) -> bool:
    """Whether the user may perform the action on one row of this app."""
    if is_restricted(user):
        return allowed(user, action, type(row)._base_manager.filter(pk=row.pk)).exists()
    return has_perm(user, f"webhooks.{action}_{row._meta.model_name}")


def is_restricted(user: Any) -> bool:
    """Whether the user may have permissions for some rows of this app only."""
    return not _sees_all(user) and _restriction() is not None


def _restriction() -> Restrict | None:
    """The host's ``restrict(queryset, user, action)``: NetBox has it on all querysets. None if no model has one."""
    for registration in registry.registrations():
        manager = registration.model._default_manager
        if hasattr(manager, "restrict"):
            classes = type(manager.get_queryset()).__mro__
            found: list[Restrict] = [vars(one)["restrict"] for one in classes if "restrict" in vars(one)]
            if found:
                return found[-1]  # the base class has the one for all models
    return None


def visible_webhooks(user: Any, webhooks: QuerySet[Webhook] | None = None) -> QuerySet[Webhook]:
    """The webhooks that the user may view or change, of these or of all."""
    webhooks = Webhook.objects.all() if webhooks is None else webhooks
    if not is_restricted(user):
        return webhooks if may_view_webhooks(user) else webhooks.none()
    every = Webhook.with_deleted.order_by()
    viewed, changed = (allowed(user, action, every).values("pk") for action in ("view", "change"))
    return webhooks.filter(Q(pk__in=viewed) | Q(pk__in=changed))


def visible_events(user: Any, events: QuerySet[Event] | None = None) -> QuerySet[Event]:
    """The Events that the user may view, with their objects."""
    events = Event.objects.all() if events is None else events
    return of_viewable_objects(user, allowed(user, "view", events))


def visible_deliveries(user: Any, deliveries: QuerySet[Delivery] | None = None) -> QuerySet[Delivery]:
    """The Deliveries that the user may view, with the objects of their Events, and with their webhooks if the host
    restricts rows."""
    deliveries = allowed(user, "view", Delivery.objects.all() if deliveries is None else deliveries)
    if is_restricted(user):
        deliveries = deliveries.filter(webhook__in=visible_webhooks(user, Webhook.with_deleted.order_by()))
    return deliveries.filter(event__in=of_viewable_objects(user)) if _hides_objects(user) else deliveries


def of_viewable_objects(user: Any, events: QuerySet[Event] | None = None) -> QuerySet[Event]:
    """The Events of objects that the user may view, by ``MAY_VIEW`` alone."""
    events = Event.objects.all() if events is None else events
    if not may_view_problem():
        return import_string(conf.may_view)(user, events)  # type: ignore[no-any-return]
    return events if _sees_all(user) else events.none()  # the check webhooks.E011 names the problem


def may_view_webhooks(user: Any) -> bool:
    """As in the admin, the permission to change implies the permission to view."""
    return has_perm(user, "webhooks.view_webhook") or may_change_webhooks(user)


def may_view_events(user: Any) -> bool:
    return has_perm(user, "webhooks.view_event")


def may_view_deliveries(user: Any) -> bool:
    return has_perm(user, "webhooks.view_delivery")


def may_change_webhooks(user: Any) -> bool:
    """Whether the user may change at least some webhooks."""
    return has_perm(user, "webhooks.change_webhook")


def may_change_all_webhooks(user: Any) -> bool:
    return may_change_webhooks(user) and not is_restricted(user)


def is_partial(user: Any) -> bool:
    """Whether the user may see some Events or Deliveries and not others."""
    return is_restricted(user) or _hides_objects(user)


def _hides_objects(user: Any) -> bool:
    query = of_viewable_objects(user).query
    return bool(query.where) or query.is_sliced or bool(query.combinator) or bool(query.distinct)


# Callables for MAY_VIEW, and a part for a host's own


def by_model(user: Any, events: QuerySet[Event]) -> QuerySet[Event]:
    """The Events of models that the user has Django's permission to view, such as ``dcim.view_site``."""
    return events if _sees_all(user) else events.filter(object_type__in=_viewable_labels(user))


def by_restriction(user: Any, events: QuerySet[Event]) -> QuerySet[Event]:
    """As ``by_model``. Where a model's manager has NetBox's ``restrict(user, action)``, only the objects that it
    returns; for a deleted object, the permission for its model decides. The default."""
    if _sees_all(user):
        return events
    restricted = [one.model for one in registry.registrations() if hasattr(one.model._default_manager, "restrict")]
    labels = set(_viewable_labels(user))
    seen = Q(object_type__in=sorted(labels - {model._meta.label_lower for model in restricted}))
    for model in restricted:
        if model._meta.label_lower in labels:
            seen |= of_objects(model._default_manager.restrict(user, "view"), and_gone=True)  # type: ignore[attr-defined]
    return events.filter(seen)


def of_objects(objects: QuerySet[Any], *, and_gone: bool = False) -> Q:
    """A filter for the Events of these objects. With ``and_gone`` also for all deleted objects of the model: it is no
    longer known who might have viewed them."""
    model = objects.model._meta.concrete_model
    known = Q(object_id__in=_object_ids(objects))
    if and_gone:
        known |= ~Q(object_id__in=_object_ids(model._base_manager.using(objects.db)))
    return Q(object_type=model._meta.label_lower) & known


def may_view_problem() -> str:
    """Why the setting ``MAY_VIEW`` cannot be used, as a clause that follows its name; empty if it can."""
    try:
        found = import_string(conf.may_view)
    except ImportError as error:
        return f"which cannot be imported: {error}"
    return "" if callable(found) else "which cannot be called"


# Settings of a webhook that need more than the permission to change it


def refusals(
    user: Any,
    webhook: Webhook | None,
    values: Mapping[str, Any],
    object_types: Iterable[ContentType],
    enters_secret_headers: bool,
) -> dict[str, str]:
    """Why the user may not save these values, by field; empty if they may. ``webhook`` is the stored one.

    A webhook sends data to a receiver that a user chooses. So it takes the permission to view the objects, and the
    secret headers of a colleague must not reach another receiver.
    """
    found = {}
    stored = set(webhook.object_types.all()) if webhook else set()
    if refused := _unviewable(user, set(object_types) - stored):
        needed = ", ".join(label.replace(".", ".view_") for label in refused)
        found["object_types"] = (
            f"You may not view {', '.join(refused)}, so you may not send it. You need the permission {needed}."
        )
    changed = guarded_changes(webhook, values) if webhook else []
    if webhook and changed:
        if refusal := _refusal_to_change(user, webhook, changed):
            found[changed[0]] = refusal
        is_redirected = not set(DESTINATION_FIELDS).isdisjoint(changed)
        if is_redirected and webhook.secret_headers and not enters_secret_headers:
            found["secret_headers"] = ENTER_AGAIN
    return found


def guarded_changes(webhook: Webhook, values: Mapping[str, Any]) -> list[str]:
    """The fields for destination and content that these values would change."""

    def normalized(value: Any) -> Any:
        # A form changes line breaks and blanks, and every empty value means the same.
        return [line.rstrip() for line in value.strip().splitlines()] if isinstance(value, str) else value or []

    names = [name for name in (*DESTINATION_FIELDS, *CONTENT_FIELDS) if name in values]
    return [name for name in names if normalized(values[name]) != normalized(getattr(webhook, name))]


def _refusal_to_change(user: Any, webhook: Webhook, names: Sequence[str]) -> str:
    what = "where it sends to" if names[0] in DESTINATION_FIELDS else "the content that it sends"
    if refused := _unviewable(user, webhook.object_types.all()):
        return f"This webhook sends {', '.join(refused)}, which you may not view, so you may not change {what}."
    if not ATTEMPT_FIELDS.isdisjoint(names) and is_partial(user) and _has_hidden_events(user, webhook):
        return (
            "Changes of objects that you may not view wait to be sent, or may be retried or replayed, so you may not "
            f"change {what}."
        )
    return ""


def _has_hidden_events(user: Any, webhook: Webhook) -> bool:
    """Whether the webhook may still send an Event of an object that the user may not view."""
    # In the order that an Event takes: one that moves on between two queries is found by the later one.
    sendable = Delivery.objects.filter(webhook=webhook).exclude(state=State.SUCCEEDED)
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
    return sorted(label for label, model in chosen if model is None or not _may_view_model(user, model))


def _sees_all(user: Any) -> bool:
    return bool(getattr(user, "is_superuser", False) and user.is_active)


def _viewable_labels(user: Any) -> list[str]:
    """The labels of models that the user may view, and of Events without an object: tests and custom events."""
    labels = [model._meta.label_lower for model in apps.get_models() if _may_view_model(user, model)]
    return [*labels, PING_OBJECT_TYPE, ""]


def _may_view_model(user: Any, model: type[models.Model]) -> bool:
    meta = model._meta
    return has_perm(user, f"{meta.app_label}.{get_permission_codename('view', meta)}")


def _object_ids(objects: QuerySet[Any]) -> QuerySet[Any]:
    """The primary keys as text, as Events store them."""
    key = source_field(objects.model._meta.pk)
    text: Any = Cast("pk", models.TextField())
    if isinstance(key, models.UUIDField) and not connections[objects.db].features.has_native_uuid_field:
        parts = [Substr(text, start, length) for start, length in ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))]
        text = Concat(parts[0], *(piece for part in parts[1:] for piece in (Value("-"), part)))
    found: QuerySet[Any] = objects.order_by().annotate(webhooks_key=text).values("webhooks_key")
    return found
