"""The filters of the list of webhooks."""

from __future__ import annotations

from typing import Any

import django_filters
from django import forms
from django.contrib.contenttypes.models import ContentType
from django.db.models import Q, QuerySet
from django.utils.translation import gettext_lazy as _
from netbox.filtersets import ChangeLoggedModelFilterSet
from netbox.forms import NetBoxModelFilterSetForm
from utilities.filtersets import register_filterset
from utilities.forms.constants import BOOLEAN_WITH_BLANK_CHOICES
from utilities.forms.fields import ContentTypeMultipleChoiceField
from utilities.forms.rendering import FieldSet

from webhooks.ground.registry import registered_object_types
from webhooks.models import Webhook, permissions
from webhooks.models.webhook import Method
from webhooks.models.webhook_states import IS_PAUSED


@register_filterset
class WebhookFilterSet(ChangeLoggedModelFilterSet):
    """Has no filter of a URL, a header or a template: a user could guess hidden ones letter by letter."""

    q = django_filters.CharFilter(method="search", label=_("Search"))
    object_type_id = django_filters.ModelMultipleChoiceFilter(
        queryset=ContentType.objects.all(), method="filter_object_types", label=_("Model (ID)")
    )
    http_method = django_filters.MultipleChoiceFilter(choices=Method.choices, distinct=False)
    paused = django_filters.BooleanFilter(method="filter_paused", label=_("Paused"))
    failing = django_filters.BooleanFilter(method="filter_failing", label=_("Failing"))

    class Meta:
        model = Webhook
        fields = (
            "id", "name", "enabled", "on_created", "on_updated", "on_deleted", "ordered",
            "ssl_verification", "prechange",
        )  # fmt: skip

    def search(self, queryset: QuerySet[Webhook], name: str, value: str) -> QuerySet[Webhook]:
        condition = Q(name__icontains=value.strip())
        if self.request is not None and permissions.may_search_urls(self.request.user):
            condition |= Q(payload_url__icontains=value.strip())
        return queryset.filter(condition) if value.strip() else queryset

    def filter_object_types(self, queryset: QuerySet[Webhook], name: str, value: Any) -> QuerySet[Webhook]:
        chosen = Webhook.object_types.through.objects.filter(contenttype__in=value)
        return queryset.filter(pk__in=chosen.values("webhook")) if value else queryset

    def filter_paused(self, queryset: QuerySet[Webhook], name: str, value: bool) -> QuerySet[Webhook]:
        return queryset.filter(IS_PAUSED if value else ~IS_PAUSED)

    def filter_failing(self, queryset: QuerySet[Webhook], name: str, value: bool) -> QuerySet[Webhook]:
        return queryset.filter(failures_in_a_row__gt=0) if value else queryset.filter(failures_in_a_row=0)


def _yes_or_no(label: Any) -> forms.NullBooleanField:
    return forms.NullBooleanField(required=False, label=label, widget=forms.Select(choices=BOOLEAN_WITH_BLANK_CHOICES))


class WebhookFilterForm(NetBoxModelFilterSetForm):
    model = Webhook
    fieldsets = (
        FieldSet("q", "filter_id"),
        FieldSet("enabled", "paused", "failing", name=_("State")),
        FieldSet("object_type_id", "on_created", "on_updated", "on_deleted", name=_("Sends")),
        FieldSet("http_method", "ordered", "ssl_verification", name=_("Request")),
    )
    enabled = _yes_or_no(_("Enabled"))
    paused = _yes_or_no(_("Paused"))
    failing = _yes_or_no(_("Failing"))
    object_type_id = ContentTypeMultipleChoiceField(ContentType.objects.none(), required=False, label=_("Models"))
    on_created = _yes_or_no(_("Created"))
    on_updated = _yes_or_no(_("Updated"))
    on_deleted = _yes_or_no(_("Deleted"))
    http_method = forms.MultipleChoiceField(choices=Method.choices, required=False, label=_("HTTP method"))
    ordered = _yes_or_no(_("Ordered"))
    ssl_verification = _yes_or_no(_("TLS verification"))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["object_type_id"].queryset = registered_object_types()
