"""Before the form of a webhook is saved: its request for an object or a custom event, and a trial of its filters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from django.contrib import admin
from django.contrib.admin.exceptions import NotRegistered
from django.contrib.contenttypes.models import ContentType
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext as _

from webhooks import permissions, registry, text
from webhooks.admin.display import part
from webhooks.conf import conf
from webhooks.db import index_plans
from webhooks.forms import WebhookForm
from webhooks.insight.paging import read_page
from webhooks.insight.wording import number
from webhooks.models import Action, Event, Webhook
from webhooks.models.webhook import SECTIONS
from webhooks.network.attempt import Outcome, Request
from webhooks.operations import trial
from webhooks.operations.trial import NoSample, Sample, Trial
from webhooks.permissions.redaction import explain
from webhooks.registry import label_of
from webhooks.registry.registration import Registration
from webhooks.templatetags.webhooks_display import headers_block, indent, json_block

# The names of the controls. The form of the webhook has none of these.
MODEL, OBJECT, FIND, ACTION, DO = "try_model", "try_object", "try_find", "try_action", "try"
DATA = "try_data_%s"  # one for each custom event: a new choice must not get the data of the one before
EVENT = "event:"  # begins a choice of ``MODEL`` that is the name of a custom event
SHOW, SEND = "show", "send"

OFFERED = 10  # objects

# The fields that a trial of the filters alone needs.
FILTERS = ("object_types", *SECTIONS["filters"])

# A trial needs no name, and no models or actions: its object is chosen apart.
IGNORED_ERRORS = {"name", "object_types", "on_created", "on_updated", "on_deleted", "custom_events"}

# A problem: the field of the form, its label and the texts. The field is empty if the problem belongs to none.
Problem = tuple[str, str, list[str]]


def panel(
    request: HttpRequest, url: str, webhook: Webhook | None = None, form: WebhookForm | None = None
) -> SafeString:
    """The controls, and below them the result of the posted ``form``. ``webhook`` is the stored one."""
    posted = request.POST if form else {}
    if form is not None:
        form.full_clean()
        chosen, actions = list(form.cleaned_data.get("object_types") or []), form.instance.actions
    else:
        chosen, actions = list(webhook.object_types.all()) if webhook else [], webhook.actions if webhook else []
    context = {"url": url, "show": SHOW, "send": SEND} | _controls(request, chosen, actions, posted)
    if form is not None and posted.get(DO) in (SHOW, SEND):
        context["result"] = _result(request, form)
    return part(request, "rq_webhooks/admin/webhook/try_it.html", context)


def _controls(
    request: HttpRequest, chosen: Collection[Any], actions: Collection[str], posted: Mapping[str, Any]
) -> dict[str, Any]:
    """The models and objects to choose from, and the chosen ones. The models of the webhook come first."""
    of_webhook = {label_of(one) for one in chosen}
    offered = [one for one in registry.registrations() if permissions.may_view_model(request.user, one.model)]
    own = [one for one in offered if one.label in of_webhook]
    types = ContentType.objects.get_for_models(*(one.model for one in offered))
    label = posted.get(MODEL, own[0].label if own else "")
    current = next((one for one in offered if one.label == label), None)
    custom_event = _custom_event(label)
    usual = Action.UPDATED if Action.UPDATED in actions or not actions else next(iter(actions))
    return {
        "groups": [
            (_("Models of this webhook"), [(one.label, _title(one), types[one.model].pk) for one in own]),
            (_("Other models"), [(one.label, _title(one), types[one.model].pk) for one in offered if one not in own]),
            (_("Custom events"), [(f"{EVENT}{name}", title, "") for name, title in registry.custom_events().items()]),
        ],
        "data_field": DATA % custom_event,
        "data": _data(posted, custom_event, _newest(custom_event, request.user)) if custom_event else "",
        "model": label,
        "custom_event": custom_event,
        "objects": _objects(request, current, posted.get(FIND, "")) if current else [],
        "object": posted.get(OBJECT, ""),
        "find": posted.get(FIND, ""),
        "actions": Action.choices,
        "action": posted.get(ACTION, usual),
    }


def _custom_event(choice: str) -> str:
    """The name of the chosen custom event, or ""."""
    name = choice.removeprefix(EVENT)
    return name if choice != name and name in registry.custom_events() else ""


def _newest(custom_event: str, user: Any) -> Event | None:
    """The newest event of this name, if the list of events finds it at once and the user may view its payload."""
    of_name = permissions.visible_events(user, Event.objects.filter(action=custom_event, error=""))
    with index_plans(Event.objects.db):
        found = read_page(Event.objects.order_by("-pk"), of_name, "", 1, counts=False)
    newest = Event.objects.filter(pk__in=found.keys).first()
    return newest if newest and permissions.may_view_payloads(user, newest) else None


def _data(posted: Mapping[str, Any], custom_event: str, newest: Event | None) -> str:
    """The data of a custom event: as entered, or else as in the newest one, or an example."""
    data = newest.data if newest else '{"id": 1}'
    return str(posted.get(DATA % custom_event) or indent(data))


def _objects(request: HttpRequest, registration: Registration, term: str) -> list[tuple[str, str]]:
    """The keys and names of objects to choose from: the newest, or the results of a search."""
    rows = permissions.viewable_objects(request.user, registration.model)
    if term := text.clean(term.strip()):
        if keyed := registration.find(rows, term):
            return [(registration.key_of(keyed), registration.name_of(keyed))]
        rows = _search(request, registration, rows, term)
    return [(registration.key_of(row), registration.name_of(row)) for row in rows.order_by("-pk")[:OFFERED]]


def _search(request: HttpRequest, registration: Registration, rows: QuerySet[Any], term: str) -> QuerySet[Any]:
    """The results of the search of the model's own admin pages."""
    try:
        own_admin = admin.site.get_model_admin(registration.model)
    except NotRegistered:
        return rows.none()
    if not own_admin.get_search_fields(request):
        return rows.none()
    found, _may_repeat = own_admin.get_search_results(request, rows, term)
    return rows.filter(pk__in=found.values("pk"))  # a host's own search may add objects that the user may not view


def _title(registration: Registration) -> str:
    return capfirst(str(registration.model._meta.verbose_name_plural))


# The result


def _result(request: HttpRequest, form: WebhookForm) -> dict[str, Any]:
    """The verdict, the request or its problems, and the answer if it was sent."""
    user, posted, webhook = request.user, request.POST, form.instance
    errors = {name: list(map(str, texts)) for name, texts in form.errors.items() if name not in IGNORED_ERRORS}
    if errors:
        return {"problems": [(name, _label(form, name), texts) for name, texts in errors.items()]}
    try:
        tried = trial.try_out(webhook, form.cleaned_data.get("object_types") or [], _sample(request), user)
    except NoSample as missing:
        return {"refusal": str(missing)}
    shown = {"event": str(tried.event), "is_wanted": tried.is_wanted, "verdict": tried.verdict}
    if tried.request is None:
        return shown | {"problems": _problems(tried, form, user)}
    sees_payload = permissions.may_view_payloads(user)
    shown |= {
        "request": _request(tried.request, sees_payload),
        "why_not_sent": _why_not_sent(user, form),
    }
    if posted.get(DO) == SEND and not shown["why_not_sent"]:
        shown["answer"] = _answer(trial.send(tried, webhook, user), webhook.payload_url, sees_payload)
    return shown


def _sample(request: HttpRequest) -> Sample:
    """The chosen object, or the first one that was found. Raises NoSample."""
    posted = request.POST
    label = posted.get(MODEL, "")
    if not label:
        return Sample()
    if name := _custom_event(label):
        newest = _newest(name, request.user)
        return Sample(action=name, data=_data(posted, name, newest), like=newest)
    registration = registry.registration_by_label(label)
    if registration is None or not permissions.may_view_model(request.user, registration.model):
        raise NoSample(_("You may not view objects of this model."))
    key = posted.get(OBJECT, "")
    if term := posted.get(FIND, "").strip():
        found = [one for one, _name in _objects(request, registration, term)]
        key = key if key in found else next(iter(found), "")
    if not key or text.clean(key) != key:
        raise NoSample(_("Choose an object, or search for one."))
    action = posted.get(ACTION, "")
    return Sample(registration, key, action if action in Action.values else Action.UPDATED)


def _why_not_sent(user: Any, form: WebhookForm) -> str:
    """Why the user may look at the request and not send it; empty if they may."""
    if not conf.enabled:
        return _("Webhooks are turned off in the settings, so nothing is sent.")
    if permissions.is_restricted(user) and (form.instance.pk is None or form.has_changed()):
        return _("To send it, save the webhook first: you may have permission for some webhooks only.")
    return ""


def _request(request: Request, sees_payload: bool) -> dict[str, Any]:
    """The request as an attempt stores it: without the values of secret headers and signatures."""
    stored, body = request.stored(), request.body.decode(errors="replace")
    return {
        "method": stored.method,
        "url": stored.url,
        "headers": headers_block(stored.headers, _("Headers of the request")),
        "body": json_block(body, _("Body of the request")) if sees_payload else "",
        "size": number(len(request.body)),
    }


def _answer(outcome: Outcome, url: str, sees_payload: bool) -> dict[str, Any]:
    return {
        "outcome": outcome,
        "duration": _("%(ms)s ms") % {"ms": number(outcome.duration_ms)},
        "explanation": explain(str(outcome.kind), url),
        "headers": headers_block(outcome.headers, _("Headers of the answer")) if outcome.headers else "",
        "body": json_block(outcome.body, _("Body of the answer")) if outcome.body and sees_payload else "",
        "hides_body": bool(outcome.body) and not sees_payload,
    }


def _problems(tried: Trial, form: WebhookForm, user: Any) -> list[Problem]:
    """Why there is no request, by field. The error of a serializer may show data of the object."""
    if tried.event.error and not permissions.may_view_events(user):
        text = _("To see the error, you need the permission %(permission)s.") % {"permission": "rq_webhooks.view_event"}
        return [("", "", [text])]
    return [(name, _label(form, name), [problem]) for name, problem in tried.problems.items()]


def _label(form: WebhookForm, name: str) -> str:
    return str(form.fields[name].label or "") if name in form.fields else ""


# The filters alone


def preview(form: WebhookForm, user: Any) -> str:
    """Try the filters of the form on the last events, and say the result in a sentence."""
    form.full_clean()
    if refused := [name for name in FILTERS if name in form.data and name in form.errors]:
        return " ".join(f"{form.fields[name].label}: {' '.join(map(str, form.errors[name]))}" for name in refused)
    chosen, webhook = form.cleaned_data.get("object_types") or [], form.instance
    if not (chosen and webhook.actions) and not webhook.custom_events:
        return _("Choose at least one model and one action first, or one of the custom events.")
    return trial.try_filters(webhook, chosen, user)
