"""What users do to several webhooks: edit, delete and import them. ``webhook_switches`` enables and pauses them."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from netbox.views import generic
from utilities.exceptions import AbortRequest
from utilities.forms import BulkDeleteForm, BulkEditForm, CSVModelForm
from utilities.forms.constants import BOOLEAN_WITH_BLANK_CHOICES
from utilities.forms.fields import ContentTypeMultipleChoiceField
from utilities.forms.rendering import FieldSet
from utilities.views import register_model_view

from webhooks.contrib.netbox.pages.base import PermittedRows
from webhooks.contrib.netbox.pages.webhook import delete_as
from webhooks.contrib.netbox.pages.webhook_filters import WebhookFilterSet
from webhooks.contrib.netbox.pages.webhooks import WebhookTable, listed
from webhooks.ground.registry import registered_object_types
from webhooks.models import Webhook
from webhooks.models.webhook import SETTINGS
from webhooks.models.webhook_secrets import CREDENTIAL_FIELDS
from webhooks.operations.webhooks import ChangedMeanwhile, OutsidePermission, check_webhook, save_webhook
from webhooks.pages.forms.sections import FORM


def save_or_abort(webhook: Webhook, values: dict[str, Any], object_types: Any, user: Any, **options: Any) -> Webhook:
    """Save it, or let NetBox's page say why not."""
    try:
        return save_webhook(webhook, values, object_types, user, **options)
    except ValidationError as error:
        raise AbortRequest(f"{webhook}: {' '.join(error.messages)}") from error
    except (ChangedMeanwhile, OutsidePermission) as refusal:
        raise AbortRequest(f"{webhook}: {refusal}") from refusal
    except Webhook.DoesNotExist:
        raise AbortRequest(_("Nothing was saved: the webhook has been deleted.")) from None


# Edit


def _shared_field(name: str) -> Any:
    """A field that leaves the setting as it is if it is empty. None if each webhook has its own value."""
    column: Any = Webhook._meta.get_field(name)
    about = {"required": False, "label": capfirst(column.verbose_name), "help_text": column.help_text}
    if isinstance(column, models.BooleanField):
        return forms.NullBooleanField(widget=forms.Select(choices=BOOLEAN_WITH_BLANK_CHOICES), **about)
    if column.choices:
        return forms.ChoiceField(choices=[("", "---------"), *column.choices], **about)
    return column.formfield(**about) if isinstance(column, models.IntegerField) or name == "ca_file_path" else None


class WebhookBulkEditForm(BulkEditForm):
    """The settings that several webhooks may share. An empty field changes nothing."""

    model = Webhook
    nullable_fields = ("timeout", "ca_file_path")
    pk = forms.ModelMultipleChoiceField(Webhook.objects.all(), widget=forms.MultipleHiddenInput)
    add_object_types = ContentTypeMultipleChoiceField(
        ContentType.objects.none(), required=False, label=gettext_lazy("Add models")
    )
    remove_object_types = ContentTypeMultipleChoiceField(
        ContentType.objects.none(), required=False, label=gettext_lazy("Remove models")
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields |= {name: field for name in SETTINGS if (field := _shared_field(name))}
        in_sections = [(section, [name for name in section.fields if name in self.fields]) for section in FORM]
        in_sections[0][1].extend(("add_object_types", "remove_object_types"))
        self.fieldsets = [FieldSet(*names, name=section.title or None) for section, names in in_sections if names]
        self.fields["add_object_types"].queryset = registered_object_types()
        self.fields["remove_object_types"].queryset = ContentType.objects.filter(
            pk__in=Webhook.object_types.through.objects.values("contenttype")
        ).order_by("app_label", "model")

    def values(self, nullified: list[str]) -> dict[str, Any]:
        """The settings that the form changes."""
        names = [name for name in SETTINGS if name in self.fields]
        given = {name: self.cleaned_data[name] for name in names if self.cleaned_data[name] not in (None, "")}
        empty = {name: None if name == "timeout" else "" for name in self.nullable_fields if name in nullified}
        return given | empty

    def models_of(self, webhook: Webhook) -> list[ContentType] | None:
        """All models of the webhook afterwards. None keeps them."""
        added, removed = (set(self.cleaned_data[name]) for name in ("add_object_types", "remove_object_types"))
        return [*(set(webhook.object_types.all()) | added) - removed] if added or removed else None


@register_model_view(Webhook, "bulk_edit", path="edit", detail=False)
class WebhookBulkEditView(PermittedRows, generic.BulkEditView):
    queryset = Webhook.objects.all()
    filterset = WebhookFilterSet
    table = WebhookTable
    form = WebhookBulkEditForm

    def get_queryset(self, request: HttpRequest) -> QuerySet[Webhook]:
        return listed(request.user)

    def _update_objects(self, form: WebhookBulkEditForm, request: HttpRequest) -> list[Webhook]:
        values = form.values(request.POST.getlist("_nullify"))
        chosen = self.queryset.filter(pk__in=form.cleaned_data["pk"])
        return [save_or_abort(webhook, dict(values), form.models_of(webhook), request.user) for webhook in chosen]


# Delete


@register_model_view(Webhook, "bulk_delete", path="delete", detail=False)
class WebhookBulkDeleteView(PermittedRows, generic.BulkDeleteView):
    queryset = Webhook.objects.all()
    filterset = WebhookFilterSet
    table = WebhookTable

    def get_queryset(self, request: HttpRequest) -> QuerySet[Webhook]:
        return listed(request.user)

    def post(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        """NetBox's own deletes without a word in the history. A deletion is quick, so it needs no background job."""
        form = BulkDeleteForm(Webhook, request.POST)
        if "_confirm" not in request.POST or not form.is_valid():
            return super().post(request, **kwargs)
        with transaction.atomic(Webhook.objects.db):
            chosen = list(
                Webhook.objects.filter(pk__in=self.queryset.filter(pk__in=form.cleaned_data["pk"]).values("pk"))
            )
            delete_as(request.user, chosen)
        text = ngettext("%(count)s webhook deleted.", "%(count)s webhooks deleted.", len(chosen))
        messages.success(request, text % {"count": len(chosen)})
        return redirect(self.get_return_url(request))


# Import


class ModelLabelsField(forms.ModelMultipleChoiceField):
    """Models by their labels: a list, or text with commas between them."""

    queryset: Any

    def __init__(self, **options: Any) -> None:
        super().__init__(ContentType.objects.none(), **options)

    def clean(self, value: Any) -> QuerySet[ContentType]:
        labels = value if isinstance(value, list) else [label.strip() for label in str(value or "").split(",")]
        wanted = {str(label).lower() for label in labels if label}
        pks = {f"{object_type.app_label}.{object_type.model}": object_type.pk for object_type in self.queryset}
        if unknown := sorted(wanted - pks.keys()):
            text = _("These models are not registered: %(models)s.")
            raise ValidationError(text % {"models": ", ".join(unknown)})
        return self.queryset.filter(pk__in=[pks[label] for label in wanted])


class NamesField(forms.JSONField):
    """A list of names: a list, or text with commas between them."""

    def to_python(self, value: Any) -> Any:
        return (
            value
            if isinstance(value, list)
            else [label.strip() for label in str(value or "").split(",") if label.strip()]
        )


class WebhookImportForm(CSVModelForm):
    """One webhook of an import. It has no secrets: enter them afterwards."""

    object_types = ModelLabelsField(
        required=False, label=gettext_lazy("Models"), help_text=gettext_lazy("Such as dcim.site,dcim.device.")
    )

    class Meta:
        model = Webhook
        fields = [name for name in SETTINGS if name not in CREDENTIAL_FIELDS]
        field_classes = {one.name: NamesField for one in Webhook._meta.fields if one.get_default() == []}

    user: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        del self.fields["id"]
        for name, field in self.fields.items():
            column: Any = Webhook._meta.get_field(name)
            field.required = not (column.blank or column.has_default())
        self.fields["object_types"].queryset = registered_object_types()

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        filled = {name for name in SETTINGS if self.data.get(name) not in (None, "")}
        given = {name: value for name, value in cleaned.items() if name in filled}
        models = given.pop("object_types", [])
        try:
            values = check_webhook(Webhook(), given, models, self.user)
        except ValidationError as error:
            raise ValidationError(
                [f"{name}: {' '.join(texts)}" for name, texts in error.message_dict.items()]
            ) from error
        return values | {"object_types": models}

    def _post_clean(self) -> None:
        """``clean`` has done it."""

    def save(self, commit: bool = True) -> Webhook:
        values = dict(self.cleaned_data)
        return save_or_abort(self.instance, values, values.pop("object_types"), self.user, is_checked=True)


@register_model_view(Webhook, "bulk_import", path="import", detail=False)
class WebhookBulkImportView(PermittedRows, generic.BulkImportView):
    queryset = Webhook.objects.all()

    @property
    def model_form(self) -> type[WebhookImportForm]:
        return type("OwnImportForm", (WebhookImportForm,), {"user": self.request.user})

    def create_and_update_objects(self, form: Any, request: HttpRequest) -> list[Webhook]:
        if any(record.get("id") for record in form.cleaned_data["data"]):
            raise ValidationError(_("An import adds webhooks. Leave out the ids, and edit webhooks in their list."))
        return super().create_and_update_objects(form, request)
