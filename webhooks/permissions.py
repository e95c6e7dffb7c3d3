"""Who may see what: Events, and Deliveries of them, of objects that a user may view; and which changes they may have
sent.

The setting ``MAY_VIEW`` names one of these, or a callable of the host's own: a user and Events in, those Events out
that the user may view.
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
MayView = Callable[[Any, QuerySet[Event]], QuerySet[Event]]
Restrict = Callable[[QuerySet[M], Any, str], QuerySet[M]]

# Whoever changes one of these has the changes sent elsewhere, or to whoever is in between.
WHERE_TO = ("payload_url", "ssl_verification", "ca_file_path")
# Whoever changes one of these has more told of the objects, or learns what is in them by whether something is sent.
WHAT_OF = (
    "additional_headers", "body_template",
    "on_created", "on_updated", "on_deleted", "serializer", "conditions", "changed_fields", "only_changes",
    "prechange", "excluded_usernames",
)  # fmt: skip
# Of these, what counts at each attempt, and so for what waits already.
AT_ATTEMPTS = {*WHERE_TO, "additional_headers", "body_template"}


def has_perm(user: Any, permission: str) -> bool:
    """Whether the user has this permission. A user model without ``has_perm`` gives none."""
    return hasattr(user, "has_perm") and bool(user.has_perm(permission))


def allowed(user: Any, action: str, rows: QuerySet[M]) -> QuerySet[M]:
    """Those of ``rows``, of a model of this app, that the user may view, change, retry …, as ``action`` says: by the
    permission for the model; and if the host restricts objects, by its ``restrict()``."""
    if _sees_all(user):
        return rows
    if not has_perm(user, f"webhooks.{action}_{rows.model._meta.model_name}"):
        return rows.none()
    restrict = _restriction()
    return restrict(rows, user, action) if restrict else rows


def may(user: Any, action: str, row: models.Model) -> bool:
    """Whether the user may do this to a row of this app."""
    if is_restricted(user):
        return allowed(user, action, type(row)._base_manager.filter(pk=row.pk)).exists()
    return has_perm(user, f"webhooks.{action}_{row._meta.model_name}")


def is_restricted(user: Any) -> bool:
    """Whether the host may allow the user some rows of this app and not others."""
    return not _sees_all(user) and _restriction() is not None


def _restriction() -> Restrict | None:
    """The host's ``restrict(queryset, user, action)``, which NetBox has on the querysets of all its models. None if no
    registered model has one."""
    for registration in registry.registrations():
        manager = registration.model._default_manager
        if hasattr(manager, "restrict"):
            classes = type(manager.get_queryset()).__mro__
            found: list[Restrict] = [vars(one)["restrict"] for one in classes if "restrict" in vars(one)]
            if found:
                return found[-1]  # as it is for all models
    return None


def visible_webhooks(user: Any, webhooks: QuerySet[Webhook] | None = None) -> QuerySet[Webhook]:
    """Those of ``webhooks`` (of all, if none are given) that the user may view or change."""
    webhooks = Webhook.objects.all() if webhooks is None else webhooks
    if not is_restricted(user):
        return webhooks if may_view_webhooks(user) else webhooks.none()
    every = Webhook.with_deleted.order_by()
    viewed, changed = (allowed(user, action, every).values("pk") for action in ("view", "change"))
    return webhooks.filter(Q(pk__in=viewed) | Q(pk__in=changed))


def visible_events(user: Any, events: QuerySet[Event] | None = None) -> QuerySet[Event]:
    """Those of ``events`` that the user may view: Events at all, and their objects."""
    events = Event.objects.all() if events is None else events
    return of_viewable_objects(user, allowed(user, "view", events))


def visible_deliveries(user: Any, deliveries: QuerySet[Delivery] | None = None) -> QuerySet[Delivery]:
    """Those of ``deliveries`` that the user may view: Deliveries at all, and the objects of their Events; and if the
    host restricts objects, their webhooks."""
    deliveries = allowed(user, "view", Delivery.objects.all() if deliveries is None else deliveries)
    if is_restricted(user):
        deliveries = deliveries.filter(webhook__in=visible_webhooks(user, Webhook.with_deleted.order_by()))
    return deliveries.filter(event__in=of_viewable_objects(user)) if _hides_objects(user) else deliveries


def of_viewable_objects(user: Any, events: QuerySet[Event] | None = None) -> QuerySet[Event]:
    """Those of ``events`` whose objects the user may view, whatever they may see of this app."""
    return _may_view()(user, Event.objects.all() if events is None else events)


def may_view_webhooks(user: Any) -> bool:
    """As in the admin, who may change them may view them."""
    return has_perm(user, "webhooks.view_webhook") or may_change_webhooks(user)


def may_view_events(user: Any) -> bool:
    return has_perm(user, "webhooks.view_event")


def may_view_deliveries(user: Any) -> bool:
    return has_perm(user, "webhooks.view_delivery")


def may_change_webhooks(user: Any) -> bool:
    """Whether the user may change some webhook."""
    return has_perm(user, "webhooks.change_webhook")


def may_change_all_webhooks(user: Any) -> bool:
    """Whether the user may set URLs, headers and templates of any webhook, and so may read all of them."""
    return may_change_webhooks(user) and not is_restricted(user)


def changeable(user: Any) -> Callable[[int], bool]:
    """Whether the user may change the webhook of an id."""
    if not is_restricted(user):
        may_change = may_change_webhooks(user)
        return lambda pk: may_change
    return set(allowed(user, "change", Webhook.with_deleted.order_by()).values_list("pk", flat=True)).__contains__


def is_partial(user: Any) -> bool:
    """Whether there may be Events, or Deliveries, that the user may not view although they may view others."""
    return is_restricted(user) or _hides_objects(user)


def _hides_objects(user: Any) -> bool:
    query = of_viewable_objects(user).query
    return bool(query.where) or query.is_sliced or bool(query.combinator) or bool(query.distinct)


def by_model(user: Any, events: QuerySet[Event]) -> QuerySet[Event]:
    """Of models that the user has Django's permission to view, such as ``dcim.view_site``."""
    return events if _sees_all(user) else events.filter(object_type__in=_viewable(user))


def by_restriction(user: Any, events: QuerySet[Event]) -> QuerySet[Event]:
    """As ``by_model``; and of registered models whose managers have NetBox's ``restrict(user, action)``, only of the
    objects that it gives. Of an object that is gone, the permission for its model decides. The default."""
    if _sees_all(user):
        return events
    restricted = [one.model for one in registry.registrations() if hasattr(one.model._default_manager, "restrict")]
    allowed = set(_viewable(user))
    seen = Q(object_type__in=sorted(allowed - {model._meta.label_lower for model in restricted}))
    for model in restricted:
        if model._meta.label_lower in allowed:
            seen |= of_objects(model._default_manager.restrict(user, "view"), and_gone=True)  # type: ignore[attr-defined]
    return events.filter(seen)


def of_objects(objects: QuerySet[Any], *, and_gone: bool = False) -> Q:
    """Events of these objects: for a ``MAY_VIEW`` of the host's own. With ``and_gone`` of all those of their model that
    are gone, too: who might have viewed which of them, nobody can tell any more."""
    model = objects.model._meta.concrete_model
    known = Q(object_id__in=_keys(objects))
    if and_gone:
        known |= ~Q(object_id__in=_keys(model._base_manager.using(objects.db)))
    return Q(object_type=model._meta.label_lower) & known


def unviewable(user: Any, content_types: Iterable[ContentType]) -> list[str]:
    """The labels of those models that the user may not view: nor may they have their changes sent."""
    picked = [(label_of(one), one.model_class()) for one in content_types]
    return sorted(label for label, model in picked if model is None or not _may_view_model(user, model))


def refusal_to_send(user: Any, content_types: Iterable[ContentType]) -> str:
    """Why the user may not have changes of these models sent; empty if they may."""
    refused = unviewable(user, content_types)
    needed = ", ".join(label.replace(".", ".view_") for label in refused)
    return f"You may not view {', '.join(refused)}, so you may not send it: that takes {needed}." if refused else ""


def guarded_changes(webhook: Webhook, wanted: Mapping[str, Any]) -> list[str]:
    """Which of the settings that say where a webhook sends to and what of its objects would be others."""
    return [
        name
        for name in (*WHERE_TO, *WHAT_OF)
        if name in wanted and _plainly(wanted[name]) != _plainly(getattr(webhook, name))
    ]


def _plainly(value: Any) -> Any:
    """Without what a form changes of a text by itself; and whatever is empty says the same."""
    return [line.rstrip() for line in value.strip().splitlines()] if isinstance(value, str) else value or []


def refusal_to_change(user: Any, webhook: Webhook, names: Sequence[str]) -> str:
    """Why the user may not change these settings, as ``guarded_changes`` names them; empty if they may. What the
    webhook sends, and what waits to be sent, would reach whom they choose, or tell them of objects."""
    refused = unviewable(user, webhook.object_types.all())
    if refused:
        asked = "where to" if names[0] in WHERE_TO else "what of it"
        return f"This webhook sends {', '.join(refused)}, which you may not view, so you may not change {asked}."
    if not AT_ATTEMPTS.isdisjoint(names) and is_partial(user) and _has_unseen(user, webhook):
        asked = "where to" if names[0] in WHERE_TO else "what of them"
        return (
            "Changes of objects that you may not view wait to be sent, or may be sent again, so you may not change "
            f"{asked}."
        )
    return ""


def refusal_to_take_along(webhook: Webhook, is_entered: bool) -> str:
    """Why where a webhook sends to may not be changed while its secret headers stay, whoever does it; empty if it may:
    they would be read by whoever was chosen, and so by whoever chooses."""
    if is_entered or not webhook.secret_headers:
        return ""
    return "They would be sent to where the webhook sends to from now on: enter them again, or clear them."


def _has_unseen(user: Any, webhook: Webhook) -> bool:
    """Whether there is an Event of an object that the user may not view, and it is still sent there, or may be."""
    # In the way that Events go: what takes a step between two of the questions is found by the later one.
    to_come = (Event.objects.failed(), Event.objects.undispatched())  # the former by a replay
    if any(_is_partly_unseen(user, events.matched_by(webhook.pk)) for events in to_come):
        return True
    sendable = Delivery.objects.filter(webhook=webhook).exclude(state=State.SUCCEEDED)  # some by a retry
    return _is_partly_unseen(user, Event.objects.filter(pk__in=sendable.values("event")))


def _is_partly_unseen(user: Any, events: QuerySet[Event]) -> bool:
    return events.exclude(pk__in=of_viewable_objects(user, events).values("pk")).exists()


def _may_view() -> MayView:
    """The callable of the setting; where it cannot be had, nobody but superusers sees anything (webhooks.E011)."""
    return _nothing if problem() else import_string(conf.may_view)


def problem() -> str:
    """Why the callable of the setting cannot be had, in words that go on from its name; nothing if it can."""
    try:
        found = import_string(conf.may_view)
    except ImportError as error:
        return f"which cannot be imported: {error}"
    return "" if callable(found) else "which cannot be called"


def _nothing(user: Any, events: QuerySet[Event]) -> QuerySet[Event]:
    return events if _sees_all(user) else events.none()


def _sees_all(user: Any) -> bool:
    return bool(getattr(user, "is_superuser", False) and user.is_active)


def _viewable(user: Any) -> list[str]:
    """The labels of the models that the user may view; and those of Events of no object: tests, and custom ones."""
    labels = [model._meta.label_lower for model in apps.get_models() if _may_view_model(user, model)]
    return [*labels, PING_OBJECT_TYPE, ""]


def _may_view_model(user: Any, model: type[models.Model]) -> bool:
    meta = model._meta
    return has_perm(user, f"{meta.app_label}.{get_permission_codename('view', meta)}")


def _keys(objects: QuerySet[Any]) -> QuerySet[Any]:
    """Their keys, as Events have them: as text."""
    key = source_field(objects.model._meta.pk)
    text: Any = Cast("pk", models.TextField())
    if isinstance(key, models.UUIDField) and not connections[objects.db].features.has_native_uuid_field:
        parts = [Substr(text, start, length) for start, length in ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))]
        text = Concat(parts[0], *(piece for part in parts[1:] for piece in (Value("-"), part)))
    found: QuerySet[Any] = objects.order_by().annotate(webhooks_key=text).values("webhooks_key")
    return found
