"""The core's serializers with the fields that NetBox gives each object.

NetBox looks for them by the name of the model, for example to show the object of a journal entry.
"""

from __future__ import annotations

from typing import Any

from django.urls import NoReverseMatch
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import extend_schema_field
from netbox.api.serializers import BaseModelSerializer
from netbox.api.serializers.fields import NetBoxURLHyperlinkedIdentityField
from rest_framework import serializers
from utilities.api import get_related_object_by_attrs

from webhooks.api import deliveries, events, runs, webhooks
from webhooks.models import Attempt, Event, Webhook, permissions

OBJECT_FIELDS = ("id", "url", "display_url", "display")
BRIEF_FIELDS = ("id", "url", "display")

MESSAGE_LENGTH = 200  # in NetBox's changelog


def with_object_fields(*names: str) -> tuple[str, ...]:
    return (*OBJECT_FIELDS, *(name for name in names if name not in OBJECT_FIELDS))


@extend_schema_field({"type": "string", "format": "uri", "nullable": True})
class DisplayUrlField(NetBoxURLHyperlinkedIdentityField):
    """The page of an object, null without one."""

    def get_url(self, *args: Any) -> str | None:
        try:
            return super().get_url(*args)
        except NoReverseMatch:
            return None


class ObjectSerializer(BaseModelSerializer):
    display_url = DisplayUrlField()

    def to_internal_value(self, data: Any) -> Any:
        """A nested one stands for a row that the user may view. NetBox looks for it among all rows, by any of their
        attributes: it restricts only querysets with ``restrict()``."""
        if not self.nested:
            return super().to_internal_value(data)
        user = getattr(self.context.get("request"), "user", None)
        return get_related_object_by_attrs(permissions.visible(user, self.Meta.model.objects.all()), data)

    def to_representation(self, instance: Any) -> Any:
        """The chosen fields only: the core's serializers set some of theirs whether they are chosen or not."""
        shown = super().to_representation(instance)
        return {name: shown[name] for name in self.fields if name in shown}


class WebhookBriefSerializer(ObjectSerializer, webhooks.WebhookSummarySerializer):
    class Meta:
        model = Webhook
        fields = (*BRIEF_FIELDS, "name")


class EventBriefSerializer(ObjectSerializer, events.EventSummarySerializer):
    class Meta:
        model = Event
        fields = (*BRIEF_FIELDS, "timestamp", "action", "object_type", "object_id", "object_repr")


class WebhookSerializer(ObjectSerializer, webhooks.WebhookSerializer):
    changelog_message = serializers.CharField(
        write_only=True, required=False, allow_blank=True, max_length=MESSAGE_LENGTH,
        help_text=_("Recorded with the change."),
    )  # fmt: skip
    given_message: str = ""
    """The message for the changelog, after validation."""

    class Meta(webhooks.WebhookSerializer.Meta):
        fields = (*with_object_fields(*webhooks.WebhookSerializer.Meta.fields), "changelog_message")
        brief_fields = WebhookBriefSerializer.Meta.fields

    def to_internal_value(self, data: Any) -> Any:
        values = super().to_internal_value(data)
        if not self.nested:
            self.given_message = values.pop("changelog_message", "")
        return values

    def validate(self, attrs: Any) -> Any:
        return attrs if self.nested else super().validate(attrs)


class EventSerializer(ObjectSerializer, events.EventSerializer):
    class Meta(events.EventSerializer.Meta):
        fields = with_object_fields(*events.EventSerializer.Meta.fields)
        brief_fields = EventBriefSerializer.Meta.fields


class EventDetailSerializer(ObjectSerializer, events.EventDetailSerializer):
    class Meta(events.EventDetailSerializer.Meta):
        fields = with_object_fields(*events.EventDetailSerializer.Meta.fields)
        brief_fields = EventBriefSerializer.Meta.fields


class DeliverySerializer(ObjectSerializer, deliveries.DeliverySerializer):
    event = EventBriefSerializer(read_only=True)
    webhook = WebhookBriefSerializer(read_only=True)

    class Meta(deliveries.DeliverySerializer.Meta):
        fields = with_object_fields(*deliveries.DeliverySerializer.Meta.fields)
        brief_fields = (*BRIEF_FIELDS, "state")


class SentRequestSerializer(deliveries.SentRequestSerializer):
    """As the core's, but ``payload_url`` has the address: clients of NetBox take each ``url`` for one of its own."""

    payload_url = serializers.CharField(source="url", read_only=True)

    class Meta(deliveries.SentRequestSerializer.Meta):
        fields = ("method", "payload_url", "headers", "body", "body_sha256")

    def to_representation(self, instance: Attempt) -> Any:
        shown = super().to_representation(instance)
        if shown:
            shown["payload_url"] = shown.pop("url")
        return shown


class AttemptSerializer(deliveries.AttemptSerializer):
    request = SentRequestSerializer(source="*", read_only=True, allow_null=True)

    class Meta(deliveries.AttemptSerializer.Meta):
        pass


class DeliveryDetailSerializer(DeliverySerializer, deliveries.DeliveryDetailSerializer):
    attempts = AttemptSerializer(many=True, read_only=True)

    class Meta(deliveries.DeliveryDetailSerializer.Meta):
        fields = with_object_fields(*deliveries.DeliveryDetailSerializer.Meta.fields)
        brief_fields = DeliverySerializer.Meta.brief_fields


class SkipSerializer(ObjectSerializer, events.SkipSerializer):
    webhook = WebhookBriefSerializer(read_only=True)

    class Meta(events.SkipSerializer.Meta):
        fields = with_object_fields("id", "webhook", *events.SkipSerializer.Meta.fields)
        brief_fields = (*BRIEF_FIELDS, "rule")


class RunSerializer(ObjectSerializer, runs.RunSerializer):
    class Meta(runs.RunSerializer.Meta):
        fields: Any = with_object_fields(*runs.RunSerializer.Meta.fields)
        brief_fields = (*BRIEF_FIELDS, "kind", "state")
