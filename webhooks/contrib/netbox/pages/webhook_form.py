"""Add, edit and duplicate a webhook: the core's form in NetBox's look, with “Try it”."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.contrib import messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404
from django.template.loader import render_to_string
from django.utils.decorators import method_decorator
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.debug import sensitive_post_parameters
from netbox.registry import registry
from netbox.views import generic
from netbox.views.generic.base import BaseObjectView
from utilities.exceptions import AbortRequest
from utilities.forms.rendering import FieldSet, InlineFields
from utilities.permissions import get_permission_for_model
from utilities.views import register_model_view

from webhooks.contrib.netbox.pages.base import PermittedRows
from webhooks.contrib.netbox.pages.links import page_url
from webhooks.ground.text import as_key, escape_invisible
from webhooks.models import Webhook, permissions
from webhooks.models.webhook import ACTION_FIELDS
from webhooks.models.webhook_secrets import CREDENTIAL_FIELDS
from webhooks.operations.webhooks import ChangedMeanwhile, OutsidePermission
from webhooks.pages import try_it
from webhooks.pages.forms import WebhookForm, initial_values
from webhooks.pages.forms.sections import FORM

# The parameter of the form for a new webhook: the key of the one to copy.
DUPLICATE = "duplicate"

# An error report that Django mails must not contain the secrets.
hide_secrets = method_decorator(sensitive_post_parameters(*CREDENTIAL_FIELDS), name="dispatch")


class NetBoxWebhookForm(WebhookForm):
    """The form in the markup of NetBox. Its template shows ``hidden_initials`` as well."""

    class Media:
        css: ClassVar = {"all": ["rq_webhooks/netbox-webhook.css"]}
        js = ("rq_webhooks/try_it.js", "rq_webhooks/netbox-form.js")

    def __init__(self, data: Any = None, files: Any = None, **kwargs: Any) -> None:
        super().__init__(data, files, **kwargs)  # named: Django's error reports would show ``*args``
        for name in ACTION_FIELDS:
            field = self.fields[name]
            field.widget = forms.CheckboxInput({"aria-label": field.label})
        in_line = dict.fromkeys(ACTION_FIELDS, InlineFields(*ACTION_FIELDS, label=gettext_lazy("Actions")))
        self.fieldsets = [
            FieldSet(*dict.fromkeys(in_line.get(name, name) for name in section.fields), name=section.title or None)
            for section in FORM
        ]

    @property
    def hidden_initials(self) -> list[SafeString]:
        """The inputs with values as they were when the form was opened: NetBox's markup leaves them out."""
        return [field.as_hidden(only_initial=True) for field in self if field.field.show_hidden_initial]

    def save(self, commit: bool = True) -> Webhook:
        try:
            return super().save(commit)
        except Webhook.DoesNotExist:
            raise AbortRequest(_("Nothing was saved: the webhook has been deleted.")) from None
        except (ChangedMeanwhile, OutsidePermission) as refusal:
            raise AbortRequest(_("Nothing was saved. %(reason)s") % {"reason": refusal}) from refusal


def original_of(request: HttpRequest) -> Webhook | None:
    """The webhook to copy. Its headers and templates need permission to change it."""
    key = as_key(request.GET.get(DUPLICATE, ""))
    return permissions.allowed(request.user, "change", Webhook.objects.filter(pk=key)).first()


@register_model_view(Webhook, "add", detail=False)
@register_model_view(Webhook, "edit")
@hide_secrets
class WebhookEditView(PermittedRows, generic.ObjectEditView):
    queryset = Webhook.objects.all()
    template_name = "rq_webhooks/netbox/webhook_edit.html"
    made: NetBoxWebhookForm

    def form(self, data: Any = None, files: Any = None, *, initial: Any = None, **options: Any) -> NetBoxWebhookForm:
        """NetBox's view makes its form by this."""
        first = {name: value for name, value in (initial or {}).items() if name != DUPLICATE}
        if original := original_of(self.request):
            first = initial_values(original) | first
        preview_url = page_url("webhook_condition_preview")
        self.made = NetBoxWebhookForm(
            data, files, initial=first, user=self.request.user, preview_url=preview_url, **options
        )
        return self.made

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response: HttpResponse = super().post(request, *args, **kwargs)
        if response.status_code == 302 and (note := self.made.enabled_note()):
            messages.warning(request, note)
        return response

    def get_extra_context(self, request: HttpRequest, instance: Webhook) -> dict[str, Any]:
        stored = Webhook.objects.filter(pk=instance.pk).first() if instance.pk else None
        return {
            "original_of_copy": None if stored else original_of(request),
            "try_it": _panel(request, stored),
        }


# Try it


def _search(model: type[Any], rows: QuerySet[Any], term: str) -> QuerySet[Any]:
    """As the quick search of NetBox's list of the model."""
    filterset = registry["filtersets"].get(model._meta.label_lower)
    return filterset({"q": term}, rows).qs if filterset else rows.none()


def _panel(request: HttpRequest, webhook: Webhook | None, form: WebhookForm | None = None) -> SafeString:
    url = page_url("webhook_try", webhook.pk) if webhook else page_url("webhook_try_new")
    posted = request.POST if form else None
    context = try_it.panel(request.user, url, _search, webhook, form, posted)
    shown = escape_invisible(render_to_string(try_it.TEMPLATE, context, request))
    return mark_safe(shown)  # noqa: S308 # nosec B308 B703 # the template has escaped it


class TryingView(PermittedRows, BaseObjectView):
    """Gets the posted form, and saves nothing."""

    queryset = Webhook.objects.all()
    action = "add"

    def get_required_permission(self) -> str:
        return str(get_permission_for_model(Webhook, self.action))

    def form_to_try(self, webhook: Webhook | None = None) -> NetBoxWebhookForm:
        request = self.request
        return NetBoxWebhookForm(request.POST, request.FILES, instance=webhook, user=request.user, is_trial=True)


# A test waits for the receiver. A transaction would hold locks meanwhile.
@register_model_view(Webhook, "try_new", path="try", detail=False)
@method_decorator(transaction.non_atomic_requests, name="dispatch")
@hide_secrets
class TryNewView(TryingView):
    def post(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(_panel(request, None, self.form_to_try()))


@register_model_view(Webhook, "try")
@method_decorator(transaction.non_atomic_requests, name="dispatch")
@hide_secrets
class TryView(TryingView):
    action = "change"

    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        webhook = get_object_or_404(self.queryset, pk=pk)
        return HttpResponse(_panel(request, webhook, self.form_to_try(webhook)))


@register_model_view(Webhook, "condition_preview", path="condition-preview", detail=False)
@hide_secrets
class ConditionPreviewView(TryingView):
    """Tries the filters of the form on stored events."""

    def has_permission(self) -> bool:
        user = self.request.user
        return any(permissions.has_perm(user, f"rq_webhooks.{action}_webhook") for action in ("add", "change"))

    def post(self, request: HttpRequest) -> JsonResponse:
        return JsonResponse({"text": try_it.preview(self.form_to_try(), request.user)})
