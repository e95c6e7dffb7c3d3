"""Before the form of a webhook is saved: its request for an object or a custom event, and a trial of its filters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.contrib.contenttypes.models import ContentType
from django.db.models import QuerySet
from django.utils.text import capfirst
from django.utils.translation import gettext as _

from webhooks.ground import registry
from webhooks.ground.conf import conf
from webhooks.ground.db.session import index_plans
from webhooks.ground.registry import label_of
from webhooks.ground.registry.registration import Registration
from webhooks.ground.text import clean
from webhooks.insight.paging import read_page
from webhooks.models import Action, Event, Webhook, permissions
from webhooks.models.permissions.redaction import explain
from webhooks.models.webhook import ACTION_FIELDS, SECTIONS
from webhooks.operations import trial
from webhooks.operations.trial import NoSample, Sample

if TYPE_CHECKING:
    from webhooks.pages.forms import WebhookForm

TEMPLATE = "rq_webhooks/parts/webhook/try_it.html"
"""The controls and the result, with the classes of the admin. It needs htmx, and ``try_it.js``."""

# The names of the controls. The form of the webhook has none of these.
MODEL, OBJECT, FIND, ACTION, DO = "try_model", "try_object", "try_find", "try_action", "try"
DATA = "try_data_%s"  # one for each custom event: a new choice must not get the data of the one before
SHOW, SEND = "show", "send"

# The fields that a trial of the filters alone needs.
FILTERS = ("object_types", *SECTIONS["filters"])

# A trial needs no name, and no models or actions: its object is chosen apart.
IGNORED_ERRORS = {"name", "object_types", *ACTION_FIELDS, "custom_events"}

OFFERED = 10  # objects

# Begins a choice that is the name of a custom event. The others are labels of models.
EVENT = "event:"

Search = Callable[[Any, QuerySet[Any], str], QuerySet[Any]]
"""Takes a model, rows of it and a term, and returns the rows that it finds."""


def panel(
    user: Any,
    url: str,
    search: Search,
    webhook: Webhook | None = None,
    form: WebhookForm | None = None,
    posted: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The context of ``TEMPLATE``: the controls, which post to ``url``, and the result of the posted ``form``.

    ``webhook`` is the stored one.
    """
    chosen, actions = list(webhook.object_types.all()) if webhook else [], webhook.actions if webhook else []
    if form is not None:
        form.full_clean()
        chosen, actions = list(form.cleaned_data.get("object_types") or []), form.instance.actions
    groups = _groups(user, {label_of(one) for one in chosen})
    given = posted or {}
    usual = Action.UPDATED if Action.UPDATED in actions or not actions else next(iter(actions))
    own = [label for label, _title, _type in groups[0][1]]
    of = given.get(MODEL, "" if form else next(iter(own), ""))
    choice = Choice(
        user, search, of, given.get(OBJECT, ""), given.get(FIND, ""), given.get(ACTION, usual),
        given.get(DATA % of.removeprefix(EVENT), ""),
    )  # fmt: skip
    context = {"url": url, "show": SHOW, "send": SEND, "groups": groups, "choice": choice, "actions": Action.choices}
    if choice.custom_event:
        context["data_field"] = DATA % choice.custom_event
    if form is not None and given.get(DO) in (SHOW, SEND):
        context["result"] = _result(form, choice, sends=given[DO] == SEND)
    return context


def _groups(user: Any, of_webhook: Collection[str]) -> list[tuple[str, list[tuple[str, str, Any]]]]:
    """The models and custom events to choose from. The models of the webhook come first."""
    offered = [one for one in registry.registrations() if permissions.may_view_model(user, one.model)]
    types = ContentType.objects.get_for_models(*(one.model for one in offered))

    def option(one: Registration) -> tuple[str, str, Any]:
        return one.label, capfirst(str(one.model._meta.verbose_name_plural)), types[one.model].pk

    return [
        (_("Models of this webhook"), [option(one) for one in offered if one.label in of_webhook]),
        (_("Other models"), [option(one) for one in offered if one.label not in of_webhook]),
        (_("Custom events"), [(f"{EVENT}{name}", title, "") for name, title in registry.custom_events().items()]),
    ]


@dataclass(frozen=True)
class Choice:
    """What a user has chosen so far. Without a model or a custom event, it is a test message."""

    user: Any
    search: Search
    """Finds objects by other terms than their keys."""
    of: str = ""
    """The label of a model, or ``EVENT`` and the name of a custom event."""
    key: str = ""
    term: str = ""
    """Finds the object, if there is no key."""
    action: str = ""
    entered: str = ""
    """The data of a custom event, as JSON text."""

    @cached_property
    def custom_event(self) -> str:
        """The name of the custom event, or ""."""
        name = self.of.removeprefix(EVENT)
        return name if name != self.of and name in registry.custom_events() else ""

    @cached_property
    def registration(self) -> Registration | None:
        """The model, if the user may view it."""
        found = registry.registration_by_label(self.of)
        return found if found and permissions.may_view_model(self.user, found.model) else None

    @cached_property
    def newest(self) -> Event | None:
        """The newest custom event of this name, if the list of events finds it at once and the user may view its
        payload."""
        named = permissions.visible_events(self.user, Event.objects.filter(action=self.custom_event, error=""))
        with index_plans(Event.objects.db):
            found = read_page(Event.objects.order_by("-pk"), named, "", 1, counts=False)
        newest = Event.objects.filter(pk__in=found.keys).first()
        return newest if newest and permissions.may_view_payloads(self.user, newest) else None

    @property
    def example(self) -> str:
        """The data of a custom event to begin with: of the newest one, if there is one."""
        return self.newest.data if self.newest else '{"id": 1}'

    @cached_property
    def objects(self) -> list[tuple[str, str]]:
        """The keys and names of objects to choose from: the newest, or the results of the search."""
        if (registration := self.registration) is None:
            return []
        rows = permissions.viewable_objects(self.user, registration.model)
        if term := clean(self.term.strip()):
            if keyed := registration.find(rows, term):
                return [(registration.key_of(keyed), registration.name_of(keyed))]
            rows = self.search(registration.model, rows, term)
        return [(registration.key_of(row), registration.name_of(row)) for row in rows.order_by("-pk")[:OFFERED]]

    def sample(self) -> Sample:
        """The chosen object, or the first one that the search found. Raises NoSample."""
        if not self.of:
            return Sample()
        if self.custom_event:
            return Sample(action=self.custom_event, data=self.entered or self.example, like=self.newest)
        if self.registration is None:
            raise NoSample(_("You may not view objects of this model."))
        key = self.key
        if self.term.strip():
            found = [one for one, _name in self.objects]
            key = key if key in found else next(iter(found), "")
        if not key or clean(key) != key:
            raise NoSample(_("Choose an object, or search for one."))
        return Sample(self.registration, key, self.action if self.action in Action.values else Action.UPDATED)


def _result(form: WebhookForm, choice: Choice, sends: bool) -> dict[str, Any]:
    """The verdict, the request or its problems, and the answer if it was sent."""
    user, webhook = choice.user, form.instance
    errors = {name: list(map(str, texts)) for name, texts in form.errors.items() if name not in IGNORED_ERRORS}
    if errors:
        return {"problems": _with_labels(form, errors)}
    try:
        tried = trial.try_out(webhook, form.cleaned_data.get("object_types") or [], choice.sample(), user)
    except NoSample as missing:
        return {"refusal": str(missing)}
    shown: dict[str, Any] = {"trial": tried}
    if tried.request is None:
        problems = {name: [problem] for name, problem in tried.problems.items()}
        if tried.event.error and not permissions.may_view_events(user):  # it may show data of the object
            text = _("To see the error, you need the permission %(permission)s.")
            problems = {"": [text % {"permission": "rq_webhooks.view_event"}]}
        return shown | {"problems": _with_labels(form, problems)}
    shown |= {
        "request": tried.request.stored(),  # without the values of secret headers and signatures
        "body": tried.request.body.decode(errors="replace"),
        "sees_payload": permissions.may_view_payloads(user),
        "why_not_sent": _why_not_sent(user, webhook, form.has_changed()),
    }
    if sends and not shown["why_not_sent"]:
        outcome = trial.send(tried, webhook, user)
        shown |= {"outcome": outcome, "explanation": explain(str(outcome.kind), webhook.payload_url)}
    return shown


def _why_not_sent(user: Any, webhook: Webhook, is_changed: bool) -> str:
    """Why the user may look at the request of a trial and not send it; empty if they may. ``is_changed`` says that the
    webhook has settings that are not saved."""
    if not conf.enabled:
        return _("Webhooks are turned off in the settings, so nothing is sent.")
    if permissions.is_restricted(user) and (webhook._state.adding or is_changed):
        return _("To send it, save the webhook first: you may have permission for some webhooks only.")
    return ""


def _with_labels(form: WebhookForm, problems: dict[str, list[str]]) -> list[tuple[str, str, list[str]]]:
    """Problems with the field of the form and its label; both empty if a problem belongs to none."""
    labels = {name: str(field.label or "") for name, field in form.fields.items()}
    return [(name, labels.get(name, ""), texts) for name, texts in problems.items()]


# The filters alone


def preview(form: WebhookForm, user: Any) -> str:
    """Try the filters of the form on the last events, and say the result in a sentence."""
    form.full_clean()
    if refused := [name for name in FILTERS if name in form.data and name in form.errors]:
        return " ".join(f"{form.fields[name].label}: {' '.join(map(str, form.errors[name]))}" for name in refused)
    return trial.try_filters(form.instance, form.cleaned_data.get("object_types") or [], user)
