"""The page of one webhook: its state and settings, its tabs, and its deletion."""

from __future__ import annotations

import json
from functools import partial
from itertools import groupby
from typing import Any

from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from extras.models import Bookmark, JournalEntry
from netbox.object_actions import CloneObject, DeleteObject, EditObject, ObjectAction
from netbox.views import generic
from utilities.views import register_model_view

from webhooks.contrib.netbox.older import CountOnly
from webhooks.contrib.netbox.pages.base import PermittedRows
from webhooks.contrib.netbox.pages.display import VisibleCharacters
from webhooks.contrib.netbox.pages.links import address, page_url
from webhooks.contrib.netbox.pages.webhook_form import DUPLICATE
from webhooks.contrib.netbox.pages.webhooks import listed
from webhooks.ground.db.session import index_plans
from webhooks.ground.registry import label_of
from webhooks.insight import history
from webhooks.models import Delivery, Webhook, permissions
from webhooks.models.permissions.redaction import WHO_SEES_ALL, Redaction
from webhooks.models.webhook import SECTIONS, TOKEN_FIELDS
from webhooks.models.webhook_secrets import CREDENTIAL_FIELDS
from webhooks.operations.webhooks import delete_webhooks
from webhooks.pages.forms.sections import FORM
from webhooks.pages.webhook import WebhookPage

FEW_MODELS = 10  # of a webhook: the page shows them without folding


class Duplicate(CloneObject):
    """Opens the form for a new webhook with these settings. NetBox's own puts them into the address."""

    permissions_required = {"add", "change"}

    @classmethod
    def get_url(cls, obj: Webhook) -> str:
        return f"{page_url('webhook_add')}?{DUPLICATE}={obj.pk}"


@register_model_view(Webhook)
class WebhookView(VisibleCharacters, PermittedRows, generic.ObjectView):
    queryset = Webhook.objects.all()
    template_name = "rq_webhooks/netbox/webhook.html"
    actions = (Duplicate, EditObject, DeleteObject)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Webhook]:
        return listed(request.user)

    def get_object(self, **kwargs: Any) -> Webhook:
        with index_plans(Webhook.objects.db):
            webhook = self.queryset.filter(**kwargs).first()
        if webhook is None:  # not within the block: it would spoil the transaction around it
            raise Http404
        return webhook

    def get_permitted_actions(self, user: Any, model: Any = None) -> list[type[ObjectAction]]:
        """NetBox asks for the permission for any webhook. The constraints of the user may leave out this one."""

        def may(action: type[ObjectAction]) -> bool:
            return all(permissions.may(user, name, model) for name in action.permissions_required - {"add"})

        return [action for action in super().get_permitted_actions(user, model) if may(action)]

    def get_extra_context(self, request: HttpRequest, instance: Any) -> dict[str, Any]:
        shown = WebhookPage(instance, request.user)
        return {
            "shown": shown,
            "address_of": address,
            "sections": settings_of(instance, Redaction(request.user)),
        }


Row = tuple[str, str, Any]
"""The name, the label and the value of a setting."""


def settings_of(webhook: Webhook, redaction: Redaction) -> list[tuple[str, list[Row]]]:
    """The settings in the sections of the form, as far as a user may see them."""
    shows_all = redaction.may_change(webhook.pk)

    def value(name: str) -> Any:
        if name in TOKEN_FIELDS and not shows_all:
            return WHO_SEES_ALL if getattr(webhook, name) else ""
        return _shown(webhook, name, redaction)

    return [
        (
            str(section.title) or capfirst(str(Webhook._meta.verbose_name)),
            [(name, capfirst(str(_field(name).verbose_name)), value(name)) for name in SECTIONS[section.name]],
        )
        for section in FORM
    ]


def _field(name: str) -> Any:
    return Webhook._meta.get_field(name)


def _shown(webhook: Webhook, name: str, redaction: Redaction) -> Any:
    stored = getattr(webhook, name)
    if name in CREDENTIAL_FIELDS:
        if stored.problem:
            return _("A value is stored, but nothing is sent: %(problem)s.") % {"problem": stored.problem}
        return _("stored, and never shown") if stored else ""
    match name:
        case "payload_url":
            return redaction.url(webhook.pk, stored)
        case "object_types":
            return models_by_app(sorted(map(label_of, stored.all())))
        case "conditions":
            return json.dumps(stored, ensure_ascii=False) if stored else ""
    return stored


def models_by_app(labels: list[str]) -> list[tuple[str, list[str]]]:
    """The labels below their apps. Below no title, if they are few."""
    if len(labels) <= FEW_MODELS:
        return [("", labels)] if labels else []
    grouped = groupby(labels, lambda label: label.partition(".")[0])
    return [(app, list(group)) for app, group in grouped]


@register_model_view(Webhook, "delete")
class WebhookDeleteView(PermittedRows, generic.ObjectDeleteView):
    queryset = Webhook.objects.all()

    def get_object(self, **kwargs: Any) -> Webhook:
        webhook = super().get_object(**kwargs)
        webhook.delete = partial(delete_as, self.request.user, [webhook])  # NetBox's view calls it
        return webhook

    def get_return_url(self, request: HttpRequest, obj: Any = None) -> str:
        # The webhook's own page is gone after the deletion.
        return str(super().get_return_url(request, None if request.method == "POST" else obj))

    def _get_dependent_objects(self, obj: Webhook) -> dict[type[Model], Any]:
        """Counts: NetBox's own loads all deliveries. The user sees how many of them they may view."""
        user = self.request.user
        counts = {
            Delivery: permissions.visible_deliveries(user, Delivery.objects.filter(webhook=obj.pk)).count(),
            JournalEntry: obj.journal_entries.count(),
            Bookmark: obj.bookmarks.count(),
        }
        return {model: CountOnly(count) for model, count in counts.items() if count}


def delete_as(user: Any, webhooks: list[Webhook]) -> None:
    """Delete webhooks with all their deliveries, and record that in the history."""
    history.record(user, webhooks, history.DELETION)
    delete_webhooks(Webhook.objects.filter(pk__in=[webhook.pk for webhook in webhooks]))


# Tabs


class OfVisibleWebhook:
    """For NetBox's tabs: without ``restrict()`` they show those of every object."""

    def get(self, request: HttpRequest, model: type[Model], **kwargs: Any) -> HttpResponse:
        get_object_or_404(permissions.visible_webhooks(request.user), **kwargs)
        return super().get(request, model, **kwargs)


@register_model_view(Webhook, "journal", kwargs={"model": Webhook})
class WebhookJournalView(OfVisibleWebhook, generic.ObjectJournalView):
    pass


@register_model_view(Webhook, "changelog", kwargs={"model": Webhook})
class WebhookChangeLogView(OfVisibleWebhook, generic.ObjectChangeLogView):
    pass
