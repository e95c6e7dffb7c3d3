"""What “Why didn't it fire?” shows: the form, and the answer to a question about an object, an event or a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import models
from django.utils.translation import gettext as _

from webhooks.ground import registry
from webhooks.ground.db.session import index_plans
from webhooks.ground.registry.registration import Registration
from webhooks.ground.text import as_key, as_uuid, clean
from webhooks.insight.silence import read_unregistered
from webhooks.insight.why import Cause, StoredChange, Target, UnknownObject, Verdict, why
from webhooks.models import Delivery, Event, permissions
from webhooks.models.skip import Rule
from webhooks.operations.kinds import RETRY
from webhooks.pages.links import Link

# These verdicts need nothing to be done, so they come last.
LAST = (Cause.SENT, Cause.NOT_CHOSEN)

MAX_NAMED = 5  # objects with the same name that are offered


class WhyPage:
    """The form with the question, and the answer to it.

    ``given`` has the parameters of an address, such as ``object_type`` and ``object_id``.
    """

    def __init__(self, given: Mapping[str, Any], user: Any) -> None:
        self.asked = {name: clean(str(value).strip()) for name, value in given.items()}
        offered = [one for one in _registrations(user) if permissions.may_view_model(user, one.model)]
        self.models = [(one.label, f"{one.model._meta.verbose_name} ({one.label})") for one in offered]
        """The labels and names of the models that the form offers."""
        self.webhooks = list(permissions.visible_webhooks(user).order_by("name").values_list("pk", "name"))
        """The ids and names of the webhooks that the form offers."""
        self.webhook = as_key(self.asked.get("webhook", ""))
        """The chosen one, or 0."""
        self.objects: Sequence[tuple[str, str, str]] = ()
        """The model, id and name of several objects that have the name that was entered."""
        self.problem = ""
        """Why the question cannot be answered."""
        self.answers: list[Answer] = []
        self.is_asked = False
        try:
            question = _question(user, self.asked)
            verdicts = why(**question, user=user) if question else []
        except _SeveralObjects as found:
            [self.objects] = found.args
        except UnknownObject as unknown:
            self.problem = str(unknown)
        else:
            groups = groupby(verdicts, key=lambda one: one.change)
            self.answers = [Answer(change, list(group), user) for change, group in groups]
            self.is_asked = bool(question)


class Answer:
    """A change and its verdicts."""

    def __init__(self, change: StoredChange | None, verdicts: Sequence[Verdict], user: Any) -> None:
        self.change, self.name = change, ""
        """The name is such as "AMS1 updated"."""
        if change:
            self.name = str(Event(action=change.action, object_repr=change.object_repr or change.object_id))
        others = [one for one in verdicts if one.cause == Cause.NOT_CHOSEN]
        shown = [one for one in verdicts if one.cause != Cause.NOT_CHOSEN] or others
        in_order = sorted(shown, key=lambda one: (one.cause in LAST, one.webhook.name))
        self.verdicts = [VerdictRow(one, _button(one, user), _link(one, user)) for one in in_order]
        self.others = others if len(shown) < len(verdicts) else []
        """The verdicts of webhooks without its model or action, if there are others."""


@dataclass(frozen=True)
class VerdictRow:
    """A verdict with the way out of it, as far as the user may go it."""

    verdict: Verdict
    button: Link | None
    """Ends it."""
    link: Link | None
    """The page where the way out begins."""


def _registrations(user: Any) -> list[Registration]:
    """The registered models, and the ones of webhooks that are not registered any more."""
    silences = read_unregistered(permissions.visible_webhooks(user)).values()
    lost = {label for silence in silences for label in silence.models if registry.is_model(label)}
    unregistered = [registry.registration_or_default(apps.get_model(label)) for label in sorted(lost)]
    return [*registry.registrations(), *unregistered]


# The question


class _SeveralObjects(Exception):
    """Several objects have the name that was entered. The argument has their models, ids and names."""


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
    if len(named) > 1:
        raise _SeveralObjects([(label, registration.key_of(one), registration.name_of(one)) for one in named])
    if named:
        return label, registration.key_of(named[0])
    try:
        registration.normalize_pk(given)
    except ValidationError:
        text = _(
            "No object of %(model)s has the id or the exact name “%(given)s”, or you may not view it. To ask about a "
            "deleted object, enter its id."
        )
        raise UnknownObject(text % {"model": label, "given": given}) from None
    return label, given


def _named(objects: models.QuerySet[Any], name: str) -> list[models.Model]:
    """The objects with exactly this name, if the model has names."""
    try:
        field = objects.model._meta.get_field("name")
    except FieldDoesNotExist:
        return []
    return list(objects.filter(name=name)[:MAX_NAMED]) if isinstance(field, models.CharField) else []


# The ways out


def _button(verdict: Verdict, user: Any) -> Link | None:
    """The button that ends this, if the user may press it."""
    webhook = verdict.webhook
    if verdict.cause == Cause.PAUSED and permissions.may(user, "change", webhook):
        return Link(_("Resume the webhook"), "webhook", webhook.pk, "resume", posts=True)
    is_retriable = verdict.delivery and verdict.cause in (Cause.FAILED, Cause.DISCARDED, Cause.RETRYING)
    if is_retriable and permissions.may(user, "retry", Delivery(pk=verdict.delivery)):
        return Link(RETRY.button_in(verdict.state or ""), "delivery", verdict.delivery, RETRY.name, posts=True)
    has_failed = verdict.event and verdict.cause == Cause.EVENT_FAILED
    if has_failed and permissions.may(user, "replay", Event(pk=verdict.event)):
        return Link(_("Replay the event"), "event", verdict.event, "replay", posts=True)
    return None


def _link(verdict: Verdict, user: Any) -> Link | None:
    """The page where the way out begins, if the user may view it."""
    label = ""
    match verdict.target:
        case Target.WEBHOOK:
            is_disabled = verdict.cause == Cause.HELD or verdict.rule == Rule.DISABLED
            label = _("Enable the webhook") if is_disabled else _("Open the webhook")
        case Target.DELIVERY if permissions.may_view_deliveries(user):
            label = _("Open the earlier delivery") if verdict.behind else _("Open the delivery")
        case Target.EVENT if permissions.may_view_events(user):
            label = _("Open the event")
        case Target.STATUS if permissions.may_view_deliveries(user):
            label = _("Open the status page")
    return Link(label, str(verdict.target), verdict.target_id or None) if label else None
