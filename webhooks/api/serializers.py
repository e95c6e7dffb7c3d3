"""Events, skips and Deliveries as the REST API shows them, and the results of a test and of a bulk retry.

``ref_name`` is their name in the documents of drf-spectacular and drf-yasg: a host may have an ``Event``, too.
"""

from __future__ import annotations

import json
from typing import Any

from django.utils.translation import gettext_lazy as _
from rest_framework import serializers

from webhooks import payloads, permissions
from webhooks.api.fields import ErrorKindField, NamedSerializer, RuleField, StateField
from webhooks.models import Attempt, BodyKind, Delivery, Event, Skip, Webhook
from webhooks.models.attempt import sent_bodies
from webhooks.operations.wording import skip_reason
from webhooks.permissions.redaction import Redaction, explain
from webhooks.text import replace_half_surrogates

# Null for users without permission to change the webhook.
HIDDEN_OF_ATTEMPT = ("response_headers", "response_body")

# Null without permission to view payloads.
PAYLOAD_OF_EVENT = ("data", "snapshots", "serializers", "request")

MAX_ATTEMPTS = 100  # shown of a delivery, the newest


def redaction_of(serializer: serializers.BaseSerializer[Any]) -> Redaction:
    """What the user of the request sees, read once for each response. Without a request: an anonymous user."""
    context: Any = serializer.context
    if "webhooks_redaction" not in context:
        context["webhooks_redaction"] = Redaction(getattr(context.get("request"), "user", None))
    found: Redaction = context["webhooks_redaction"]
    return found


def _sees_payload(serializer: serializers.BaseSerializer[Any], event: Event) -> bool:
    """Whether the user of the request may view the payload of this Event, read once for each response."""
    context: Any = serializer.context
    if ("webhooks_payload", event.pk) not in context:
        user = getattr(context.get("request"), "user", None)
        context["webhooks_payload", event.pk] = permissions.may_view_payloads(user, event)
    return bool(context["webhooks_payload", event.pk])


class EventSummarySerializer(serializers.ModelSerializer[Event]):
    class Meta:
        model = Event
        ref_name = "RqWebhookEventSummary"
        fields: tuple[str, ...] = ("id", "timestamp", "action", "object_type", "object_id", "object_repr")
        read_only_fields = fields


class EventSerializer(serializers.ModelSerializer[Event]):
    """``error`` says why the Event failed, mostly as a traceback. A failed Event is not sent."""

    class Meta:
        model = Event
        ref_name = "RqWebhookEvent"
        fields: tuple[str, ...] = (
            *EventSummarySerializer.Meta.fields, "username", "request_id", "depth", "replayed_at", "replay_of",
            "error",
        )  # fmt: skip
        read_only_fields = fields


class EventDetailSerializer(EventSerializer):
    """The columns of JSON text as JSON, null where they are empty. Without permission to view payloads, all but
    ``changed`` are null."""

    data = serializers.SerializerMethodField()  # type: ignore[assignment]
    snapshots = serializers.SerializerMethodField()
    changed = serializers.SerializerMethodField()
    request = serializers.SerializerMethodField()
    serializers = serializers.SerializerMethodField()  # the last one: it hides the module in this class

    class Meta(EventSerializer.Meta):
        ref_name = "RqWebhookEventDetail"
        fields = (*EventSerializer.Meta.fields, "data", "snapshots", "changed", "serializers", "request")
        read_only_fields = fields

    def to_representation(self, instance: Event) -> Any:
        shown = super().to_representation(instance)
        return shown if _sees_payload(self, instance) else shown | dict.fromkeys(PAYLOAD_OF_EVENT)

    def get_data(self, event: Event) -> Any:
        return _json(event.data)

    def get_snapshots(self, event: Event) -> dict[str, Any] | None:
        return _json(event.snapshots)  # type: ignore[no-any-return]

    def get_changed(self, event: Event) -> list[str] | None:
        return _json(event.changed)  # type: ignore[no-any-return]

    def get_request(self, event: Event) -> dict[str, Any] | None:
        return _json(event.request)  # type: ignore[no-any-return]

    def get_serializers(self, event: Event) -> dict[str, dict[str, Any]] | None:
        """The webhooks and the output of each serializer by its name. The column has JSON text inside JSON."""
        outputs = _json(event.serializers)
        for output in (outputs or {}).values():
            output.update({name: _json(text) for name, text in output.items() if name != "webhooks"})
        return outputs  # type: ignore[no-any-return]


def _json(text: str) -> Any:
    """Parse JSON text. A response cannot hold half of a surrogate pair, which a text from outside may have."""
    return json.loads(replace_half_surrogates(text or "null"))


class SkipSerializer(serializers.ModelSerializer[Skip]):
    """``detail`` has the value that the rule wanted, and the value that it found. The
    value that a condition found requires the permission to view payloads."""

    rule = RuleField(read_only=True)
    detail = serializers.SerializerMethodField()
    reason = serializers.SerializerMethodField()

    class Meta:
        model = Skip
        ref_name = "RqWebhookSkip"
        fields: tuple[str, ...] = (
            "id", "timestamp", "action", "object_type", "object_id", "object_repr", "username", "request_id", "rule",
            "detail", "reason",
        )  # fmt: skip
        read_only_fields = fields

    def _shows_actual(self) -> bool:
        return permissions.may_view_payloads(self.context["request"].user)

    def get_detail(self, skip: Skip) -> dict[str, Any]:
        return skip.shown_detail(self._shows_actual())

    def get_reason(self, skip: Skip) -> str:
        return skip_reason(skip, self._shows_actual())


class WebhookSummarySerializer(serializers.ModelSerializer[Webhook]):
    class Meta:
        model = Webhook
        ref_name = "RqWebhookSummary"
        fields = ("id", "name")
        read_only_fields = fields


class DeliverySerializer(serializers.ModelSerializer[Delivery]):
    """``id`` is the ``webhook-id`` that the receiver gets. ``next_attempt_at`` is null unless it is pending."""

    event = EventSummarySerializer(read_only=True)
    webhook = WebhookSummarySerializer(read_only=True)
    state = StateField(read_only=True)
    error_kind = ErrorKindField(read_only=True)
    next_attempt_at = serializers.DateTimeField(read_only=True, allow_null=True)
    lost_leases = serializers.IntegerField(read_only=True)

    class Meta:
        model = Delivery
        ref_name = "RqWebhookDelivery"
        fields: tuple[str, ...] = (
            "id", "event", "webhook", "state", "attempt_count", "lost_leases", "reason", "error_kind",
            "next_attempt_at", "created", "finished_at",
        )  # fmt: skip
        read_only_fields = fields

    def to_representation(self, instance: Delivery) -> Any:
        shown = super().to_representation(instance)
        shown["reason"] = redaction_of(self).error(instance.webhook_id, instance.reason, instance.error_kind)
        return shown


class SentRequestSerializer(serializers.ModelSerializer[Attempt]):
    """A request as it was sent. ``headers`` lack the values of secret headers and signatures. ``headers``, and a body
    from a template, are null for users without permission to change the webhook. ``body`` is also null for users
    without permission to view payloads, and if the Event does not give the same bytes again: compare its SHA-256."""

    headers = serializers.DictField(
        source="request_headers", child=serializers.CharField(), read_only=True, allow_null=True
    )
    body = serializers.SerializerMethodField()

    class Meta:
        model = Attempt
        ref_name = "RqWebhookSentRequest"
        fields = ("method", "url", "headers", "body", "body_sha256")
        read_only_fields = fields

    def get_body(self, attempt: Attempt) -> str | None:
        body = self.context["webhooks_bodies"].get(attempt.body_sha256)
        return None if body is None else body.decode()

    def to_representation(self, instance: Attempt) -> Any:
        if not instance.method:
            return None
        redacted, webhook_id = redaction_of(self), instance.delivery.webhook_id
        shown = super().to_representation(instance) | {"url": redacted.url(webhook_id, instance.url)}
        if redacted.sees_all(webhook_id):
            return shown
        return shown | {"headers": None} | ({"body": None} if instance.body_kind == BodyKind.TEMPLATE else {})


class NewestAttempts(serializers.ListSerializer[Any]):
    def to_representation(self, data: Any) -> Any:
        attempts = list(data.order_by("-pk")[:MAX_ATTEMPTS])
        context: Any = self.context
        delivery = data.instance
        context["webhooks_bodies"] = sent_bodies(delivery, attempts) if _sees_payload(self, delivery.event) else {}
        return super().to_representation(attempts)


class AttemptSerializer(serializers.ModelSerializer[Attempt]):
    """``request`` is null if no request could be made: ``reason`` says why."""

    request = SentRequestSerializer(source="*", read_only=True, allow_null=True)
    error_kind = ErrorKindField(read_only=True)
    response_headers = serializers.DictField(child=serializers.CharField(), read_only=True, allow_null=True)
    response_body = serializers.CharField(read_only=True, allow_null=True)

    class Meta:
        model = Attempt
        ref_name = "RqWebhookAttempt"
        list_serializer_class = NewestAttempts
        fields = (
            "number", "started_at", "duration_ms", "request", "succeeded", "reason", "error_kind", "status",
            "response_headers", "response_body", "worker", "requested_by",
        )  # fmt: skip
        read_only_fields = fields

    def to_representation(self, instance: Attempt) -> Any:
        redacted, webhook_id = redaction_of(self), instance.delivery.webhook_id
        shown = super().to_representation(instance) | {
            "reason": redacted.error(webhook_id, instance.reason, instance.error_kind),
        }
        if not redacted.sees_all(webhook_id):
            return shown | dict.fromkeys(HIDDEN_OF_ATTEMPT)
        return shown if _sees_payload(self, instance.delivery.event) else shown | {"response_body": None}


class DeliveryDetailSerializer(DeliverySerializer):
    """``payload`` is sent, or the input of the body template. It is null without permission to view payloads.
    ``attempts`` has the newest first. ``cause`` and ``remedy`` explain ``error_kind``."""

    cause = serializers.SerializerMethodField()
    remedy = serializers.SerializerMethodField()
    payload = serializers.SerializerMethodField()
    attempts = AttemptSerializer(many=True, read_only=True)

    class Meta(DeliverySerializer.Meta):
        ref_name = "RqWebhookDeliveryDetail"
        fields = (*DeliverySerializer.Meta.fields, "cause", "remedy", "payload", "attempts")
        read_only_fields = fields

    def get_cause(self, delivery: Delivery) -> str:
        return explain(delivery.error_kind, delivery.webhook.payload_url).cause

    def get_remedy(self, delivery: Delivery) -> str:
        return explain(delivery.error_kind, delivery.webhook.payload_url).remedy

    def get_payload(self, delivery: Delivery) -> dict[str, Any] | None:
        if not _sees_payload(self, delivery.event):
            return None
        payload: dict[str, Any] = _json(
            payloads.json_body(payloads.as_sent_to(delivery.event, delivery.webhook_id)).decode()
        )
        return payload


class PingedSerializer(NamedSerializer):
    """The result of a test."""

    event = serializers.IntegerField(help_text=_("The id of the test event. Its delivery has the result."))


class RetriedSerializer(NamedSerializer):
    """The result of a bulk retry."""

    retried = serializers.IntegerField(help_text=_("The number of deliveries that are sent again."))
    run = serializers.IntegerField(allow_null=True, help_text=_("The id of the run that does it, if there are many."))
