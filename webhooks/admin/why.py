"""“Why didn't it fire?”: a page that asks about an object, an event, a delivery, a request or a webhook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from django.apps import apps
from django.contrib import admin
from django.core.exceptions import FieldDoesNotExist, PermissionDenied, ValidationError
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from webhooks import permissions, registry
from webhooks.admin.display import page
from webhooks.admin.lists import as_key, as_uuid, page_url, row_url
from webhooks.db import index_plans
from webhooks.insight.silence import read_unregistered
from webhooks.insight.why import Cause, StoredChange, Target, UnknownObject, Verdict, why
from webhooks.models import Delivery, Event, State
from webhooks.models.skip import Rule
from webhooks.registry.registration import Registration
from webhooks.templatetags.webhooks_display import when
from webhooks.text import clean

# The colours of the causes, by the state of a delivery that has the same one. The others are neutral.
COLOURS = {
    Cause.SENT: "succeeded",
    Cause.SENDING: "sending",
    Cause.DUE: "pending",
    Cause.RETRYING: "pending",
    Cause.WAITING: "waiting",
    Cause.PAUSED: "paused",
    Cause.HELD: "paused",
    Cause.FAILED: "failed",
    Cause.EVENT_FAILED: "failed",
    Cause.NOT_REGISTERED: "failed",
    Cause.NOT_DISPATCHED: "waiting",
    Cause.SKIPPED: "waiting",
}

# These verdicts need nothing to be done, so they come last.
LAST = (Cause.SENT, Cause.NOT_CHOSEN)

MAX_NAMED = 5  # objects with the same name that are offered


@require_safe
def show(request: HttpRequest) -> HttpResponse:
    """The form, and below it the answer to the question in the address."""
    if not permissions.may_view_webhooks(request.user):
        raise PermissionDenied
    offered = [one for one in _registrations(request.user) if permissions.may_view_model(request.user, one.model)]
    asked = {name: clean(str(value).strip()) for name, value in request.GET.items()}
    context: dict[str, Any] = {
        **admin.site.each_context(request),
        "title": _("Why didn't it fire?"),
        "asked": asked,
        "models": [(one.label, f"{one.model._meta.verbose_name} ({one.label})") for one in offered],
        "webhooks": permissions.visible_webhooks(request.user).order_by("name").values_list("pk", "name"),
        "webhook": as_key(asked.get("webhook", "")),
    }
    try:
        question = _question(request.user, asked)
        verdicts = why(**question, user=request.user) if question else []
    except _SeveralObjects as found:
        context["objects"] = found.objects
    except UnknownObject as unknown:
        context["problem"] = str(unknown)
    else:
        groups = groupby(verdicts, key=lambda one: one.change)
        context["answers"] = [_answer(change, list(group), request.user) for change, group in groups]
        context["is_asked"] = bool(question)
    return page(request, "rq_webhooks/admin/why.html", context)


def _registrations(user: Any) -> list[Registration]:
    """The registered models, and the ones of webhooks that are not registered any more."""
    silences = read_unregistered(permissions.visible_webhooks(user)).values()
    lost = {label for silence in silences for label in silence.models if registry.is_model(label)}
    unregistered = [registry.registration_or_default(apps.get_model(label)) for label in sorted(lost)]
    return [*registry.registrations(), *unregistered]


# The question


class _SeveralObjects(Exception):
    """Several objects have the name that was entered."""

    def __init__(self, objects: Sequence[tuple[str, str, str]]) -> None:
        super().__init__()
        self.objects = objects


def _question(user: Any, asked: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of ``why``; empty if nothing is asked. Raises UnknownObject, and _SeveralObjects."""
    chosen: dict[str, Any] = {"webhook": as_key(asked["webhook"])} if asked.get("webhook") else {}
    if given := asked.get("delivery"):
        pk = as_uuid(given)
        delivery = permissions.visible_deliveries(user).filter(pk=pk).first() if pk else None
        if delivery is None:
            raise UnknownObject(_("Delivery %(id)s is not stored, or you may not view it.") % {"id": given})
        return {"event": delivery.event_id, "webhook": delivery.webhook_id}
    if given := asked.get("event"):
        if not as_key(given):
            raise UnknownObject(_("Event %(id)s is not stored, or you may not view it.") % {"id": given})
        return chosen | {"event": as_key(given)}
    if given := asked.get("request_id"):
        return chosen | {"request_id": given}
    if given := asked.get("object_id"):
        return chosen | {"obj": _object(user, asked.get("object_type", "").lower(), given)}
    return chosen


def _object(user: Any, label: str, given: str) -> tuple[str, str]:
    """The object with this key, or else with this exact name."""
    if not label:
        raise UnknownObject(_("Choose the model of the object: objects of several models may have the same id."))
    registration = registry.registration_by_label(label)
    if registration is None or not permissions.may_view_model(user, registration.model):
        return label, given
    objects = permissions.viewable_objects(user, registration.model)
    with index_plans(Event.objects.db):
        events = Event.objects.filter(object_type=label, object_id=given)
        has_event = permissions.of_viewable_objects(user, events).exists()
        named = [] if has_event or registration.find(objects, given) else _named(objects, given)
    if not named:
        _check_key(registration, given)
        return label, given
    if len(named) > 1:
        raise _SeveralObjects([(label, registration.key_of(one), registration.name_of(one)) for one in named])
    return label, registration.key_of(named[0])


def _check_key(registration: Registration, given: str) -> None:
    """Raises UnknownObject for what no object has as its name, or can have as its id."""
    try:
        registration.normalize_pk(given)
    except ValidationError:
        text = _(
            "No object of %(model)s has the id or the exact name “%(given)s”, or you may not view it. To ask about a "
            "deleted object, enter its id."
        )
        raise UnknownObject(text % {"model": registration.label, "given": given}) from None


def _named(objects: models.QuerySet[Any], name: str) -> list[models.Model]:
    """The objects with exactly this name, if the model has names."""
    try:
        field = objects.model._meta.get_field("name")
    except FieldDoesNotExist:
        return []
    return list(objects.filter(name=name)[:MAX_NAMED]) if isinstance(field, models.CharField) else []


# The answer


def _answer(change: StoredChange | None, verdicts: Sequence[Verdict], user: Any) -> dict[str, Any]:
    """A change and its verdicts. Webhooks without its model or action are named together, if there are others."""
    others = [one for one in verdicts if one.cause == Cause.NOT_CHOSEN]
    shown = [one for one in verdicts if one.cause != Cause.NOT_CHOSEN] or others
    return {
        "change": change,
        "name": _name(change) if change else "",
        "when": when(change.timestamp) if change else "",
        "verdicts": [_row(one, user) for one in sorted(shown, key=lambda one: (one.cause in LAST, one.webhook.name))],
        "others": others if len(shown) < len(verdicts) else [],
    }


def _name(change: StoredChange) -> str:
    """Such as "AMS1 updated"."""
    return str(Event(action=change.action, object_repr=change.object_repr or change.object_id))


def _row(verdict: Verdict, user: Any) -> dict[str, Any]:
    return {
        "verdict": verdict,
        "colour": COLOURS.get(verdict.cause, "discarded"),
        "button": _button(verdict, user),
        "link": _link(verdict, user),
    }


def _button(verdict: Verdict, user: Any) -> tuple[str, str] | None:
    """The address and the label of the button that ends this, if the user may press it."""
    webhook = verdict.webhook
    if verdict.cause == Cause.PAUSED and permissions.may(user, "change", webhook):
        return page_url("resume", webhook), _("Resume the webhook")
    is_retriable = verdict.delivery and verdict.cause in (Cause.FAILED, Cause.DISCARDED, Cause.RETRYING)
    if is_retriable and permissions.may(user, "retry", Delivery(pk=verdict.delivery)):
        label = _("Retry now") if verdict.state == State.PENDING else _("Retry")
        return reverse("admin:rq_webhooks_delivery_retry", args=[verdict.delivery]), label
    has_failed = verdict.event and verdict.cause == Cause.EVENT_FAILED
    if has_failed and permissions.may(user, "replay", Event(pk=verdict.event)):
        return reverse("admin:rq_webhooks_event_replay", args=[verdict.event]), _("Replay the event")
    return None


def _link(verdict: Verdict, user: Any) -> tuple[str, str] | None:
    """The address and the label of the page where the way out begins."""
    match verdict.target:
        case Target.WEBHOOK:
            is_disabled = verdict.cause == Cause.HELD or verdict.rule == Rule.DISABLED
            label = _("Enable the webhook") if is_disabled else _("Open the webhook")
            return row_url("webhook", verdict.target_id), label
        case Target.DELIVERY if permissions.may_view_deliveries(user):
            label = _("Open the earlier delivery") if verdict.behind else _("Open the delivery")
            return row_url("delivery", verdict.target_id), label
        case Target.EVENT if permissions.may_view_events(user):
            return row_url("event", verdict.target_id), _("Open the event")
        case Target.STATUS if permissions.may_view_deliveries(user):
            return reverse("webhooks_backend_status"), _("Open the status page")
    return None
