"""Webhooks, Events and Deliveries as the REST API reads and writes them.

``ref_name`` is their name in the documents of drf-spectacular and drf-yasg: a host may have a ``Webhook`` too.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import NON_FIELD_ERRORS
from django.core.exceptions import ValidationError as ModelValidationError
from django.http import QueryDict
from rest_framework import serializers
from rest_framework.settings import api_settings

from webhooks import payloads, permissions
from webhooks.api.fields import (
    NamedChoiceField,
    ObjectTypesField,
    SecretField,
    TextListField,
    refuse_unknown,
)
from webhooks.models import Attempt, Delivery, Event, State, Webhook
from webhooks.models.webhook import NORMALIZED_FIELDS, SECRET_FIELDS, SECRET_HEADERS_LENGTH, SECRET_LENGTH, Method
from webhooks.redaction import Redaction
from webhooks.security.encryption import Secret, refuse_encrypted

# Null for users without permission to change the webhook. A null in a request leaves the field as it is.
HIDDEN = ("additional_headers", "body_template")
HIDDEN_OF_ATTEMPT = ("response_headers", "response_body")

MAX_ATTEMPTS = 100  # shown of a delivery, the newest


def _redaction(serializer: serializers.BaseSerializer[Any]) -> Redaction:
    """What the user of the request sees, read once for each response. Without a request: an anonymous user."""
    context: Any = serializer.context
    if "webhooks_redaction" not in context:
        context["webhooks_redaction"] = Redaction(getattr(context.get("request"), "user", None))
    found: Redaction = context["webhooks_redaction"]
    return found


class WebhookSerializer(serializers.ModelSerializer[Webhook]):
    """Without permission to change the webhook, a user sees scheme, host and port of its URL, and null for its
    additional headers and body template: these may contain tokens. The secret and the secret headers are write-only."""

    object_types = ObjectTypesField(required=False)
    custom_events = TextListField(required=False)
    changed_fields = TextListField(required=False)
    excluded_usernames = TextListField(required=False)
    http_method = NamedChoiceField(Method.choices, schema_name="RqWebhookMethod", required=False)
    secret = SecretField(max_length=SECRET_LENGTH, validators=[refuse_encrypted])
    secret_headers = SecretField(max_length=SECRET_HEADERS_LENGTH, validators=[refuse_encrypted], trim_whitespace=False)
    has_secret = serializers.SerializerMethodField()
    has_secret_headers = serializers.SerializerMethodField()
    unreadable = serializers.ReadOnlyField(help_text="Secrets that cannot be decrypted: every attempt fails.")
    forget_previous_secret = serializers.BooleanField(write_only=True, required=False)

    class Meta:
        model = Webhook
        ref_name = "RqWebhook"
        extra_kwargs = {name: {"allow_null": True} for name in HIDDEN}
        fields = (
            "id", "name", "enabled", "object_types", "on_created", "on_updated", "on_deleted",
            "custom_events", "serializer", "conditions", "changed_fields",
            "only_changes", "prechange", "excluded_usernames", "payload_url", "http_method", "content_type",
            "additional_headers", "body_template", "secret", "has_secret",
            "previous_secret_until", "forget_previous_secret", "secret_headers", "has_secret_headers", "unreadable",
            "ssl_verification", "ca_file_path", "timeout", "ordered", "is_paused",
            "disabled_reason", "last_success_at", "last_failure_at", "last_failure",
            "created", "last_updated",
        )  # fmt: skip
        read_only_fields = (
            "previous_secret_until", "is_paused", "disabled_reason", "last_success_at", "last_failure_at",
            "last_failure",
        )  # fmt: skip

    def get_has_secret(self, webhook: Webhook) -> bool:
        return bool(webhook.secret)

    def get_has_secret_headers(self, webhook: Webhook) -> bool:
        return bool(webhook.secret_headers)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.instance!r}>"  # REST framework's own shows the request's data

    def run_validation(self, data: Any = serializers.empty) -> Any:
        if isinstance(data, dict):
            # Error reports show the variables of each call, so wrap secrets first. The copy stays a form if it is one.
            secrets = {name: Secret(data[name]) for name in SECRET_FIELDS if isinstance(data.get(name), str)}
            data = copy.copy(data)
            for name, secret in secrets.items():
                data[name] = secret
        return super().run_validation(data)

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            names = set(data)
            if isinstance(data, QueryDict):  # a form numbers the items of a list, and has Django's token
                names = {name.partition("[")[0] for name in names} - {"csrfmiddlewaretoken"}
            refuse_unknown(names, self.fields, "field")
        values = super().to_internal_value(data)
        return {name: value for name, value in values.items() if name not in HIDDEN or value is not None}

    def get_initial(self) -> Any:
        # The browsable API fills a refused form with this.
        return {name: value for name, value in super().get_initial().items() if name not in SECRET_FIELDS}

    def to_representation(self, instance: Webhook) -> Any:
        shown, redacted = super().to_representation(instance), _redaction(self)
        shown["payload_url"] = redacted.url(instance.pk, instance.payload_url)
        return shown if redacted.sees_all(instance.pk) else shown | dict.fromkeys(HIDDEN)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Check permissions, then the model's own rules, so that the API and the admin accept the same."""
        user, chosen = self.context["request"].user, attrs.get("object_types", ())
        if refused := permissions.refusals(user, self.instance, attrs, chosen, "secret_headers" in attrs):
            raise serializers.ValidationError({name: [reason] for name, reason in refused.items()})
        candidate = copy.copy(self.instance) if self.instance else Webhook()
        for name in attrs.keys() - {"object_types", "forget_previous_secret"}:
            setattr(candidate, name, attrs[name])
        stored = list(self.instance.object_types.all()) if self.instance else []
        candidate.new_object_types = attrs.get("object_types", stored)
        try:
            candidate.full_clean()
        except ModelValidationError as error:
            errors = serializers.as_serializer_error(error)
            if NON_FIELD_ERRORS in errors:
                errors[api_settings.NON_FIELD_ERRORS_KEY] = errors.pop(NON_FIELD_ERRORS)
            raise serializers.ValidationError(errors) from error
        if self.instance and attrs.get("enabled") == self.instance.enabled:
            del attrs["enabled"]  # no change, even if a worker disables the webhook meanwhile
        return attrs | {name: getattr(candidate, name) for name in attrs.keys() & NORMALIZED_FIELDS}

    def create(self, validated_data: dict[str, Any]) -> Webhook:
        validated_data.pop("forget_previous_secret", None)
        return super().create(validated_data)

    def update(self, instance: Webhook, validated_data: dict[str, Any]) -> Webhook:
        forgotten = {"previous_secret"} if validated_data.pop("forget_previous_secret", False) else set()
        object_types = validated_data.pop("object_types", None)
        for name, value in validated_data.items():
            setattr(instance, name, value)
        instance.save_settings(validated_data.keys() | forgotten)
        if object_types is not None:
            instance.object_types.set(object_types)
        return instance


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
            *EventSummarySerializer.Meta.fields, "username", "request_id", "depth", "dispatched_at", "replay_of",
            "error",
        )  # fmt: skip
        read_only_fields = fields


class EventDetailSerializer(EventSerializer):
    """The columns of JSON text as JSON, null where they are empty."""

    data = serializers.SerializerMethodField()  # type: ignore[assignment]
    snapshots = serializers.SerializerMethodField()
    changed = serializers.SerializerMethodField()
    request = serializers.SerializerMethodField()
    serializers = serializers.SerializerMethodField()  # the last one: it hides the module in this class

    class Meta(EventSerializer.Meta):
        ref_name = "RqWebhookEventDetail"
        fields = (*EventSerializer.Meta.fields, "data", "snapshots", "changed", "serializers", "request")
        read_only_fields = fields

    def get_data(self, event: Event) -> Any:
        return _json(event.data)

    def get_snapshots(self, event: Event) -> dict[str, Any] | None:
        return _json(event.snapshots)  # type: ignore[no-any-return]

    def get_changed(self, event: Event) -> list[str] | None:
        return _json(event.changed)  # type: ignore[no-any-return]

    def get_request(self, event: Event) -> dict[str, Any] | None:
        return _json(event.request)  # type: ignore[no-any-return]

    def get_serializers(self, event: Event) -> dict[str, dict[str, Any]] | None:
        """The output of each serializer by its name. The column has JSON text inside JSON."""
        outputs = _json(event.serializers)
        return outputs and {name: {key: _json(text) for key, text in one.items()} for name, one in outputs.items()}


def _json(text: Any) -> Any:
    return (json.loads(text) if text else None) if isinstance(text, str) else text


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
    state = NamedChoiceField(State.choices, schema_name="RqWebhookDeliveryState", read_only=True)
    next_attempt_at = serializers.DateTimeField(read_only=True, allow_null=True)

    class Meta:
        model = Delivery
        ref_name = "RqWebhookDelivery"
        fields: tuple[str, ...] = (
            "id", "event", "webhook", "state", "attempt_count", "reason", "next_attempt_at", "created", "finished_at",
        )  # fmt: skip
        read_only_fields = fields

    def to_representation(self, instance: Delivery) -> Any:
        shown = super().to_representation(instance)
        shown["reason"] = _redaction(self).error(instance.webhook_id, instance.reason)
        return shown if instance.state == State.PENDING else shown | {"next_attempt_at": None}


class NewestAttempts(serializers.ListSerializer[Any]):
    def to_representation(self, data: Any) -> Any:
        return super().to_representation(data.order_by("-pk")[:MAX_ATTEMPTS])


class AttemptSerializer(serializers.ModelSerializer[Attempt]):
    response_headers = serializers.DictField(child=serializers.CharField(), read_only=True, allow_null=True)
    response_body = serializers.CharField(read_only=True, allow_null=True)

    class Meta:
        model = Attempt
        ref_name = "RqWebhookAttempt"
        list_serializer_class = NewestAttempts
        fields = (
            "number", "started_at", "duration_ms", "url", "succeeded", "reason", "status", "response_headers",
            "response_body", "worker",
        )  # fmt: skip
        read_only_fields = fields

    def to_representation(self, instance: Attempt) -> Any:
        redacted, webhook_id = _redaction(self), instance.delivery.webhook_id
        shown = super().to_representation(instance) | {
            "url": redacted.url(webhook_id, instance.url),
            "reason": redacted.error(webhook_id, instance.reason),
        }
        return shown if redacted.sees_all(webhook_id) else shown | dict.fromkeys(HIDDEN_OF_ATTEMPT)


class DeliveryDetailSerializer(DeliverySerializer):
    """``payload`` is sent, or the input of the body template. ``attempts`` has the newest first."""

    payload = serializers.SerializerMethodField()
    attempts = AttemptSerializer(many=True, read_only=True)

    class Meta(DeliverySerializer.Meta):
        ref_name = "RqWebhookDeliveryDetail"
        fields = (*DeliverySerializer.Meta.fields, "payload", "attempts")
        read_only_fields = fields

    def get_payload(self, delivery: Delivery) -> dict[str, Any]:
        payload: dict[str, Any] = json.loads(
            payloads.json_body(payloads.as_sent_to(delivery.event, delivery.webhook_id))
        )
        return payload


class RetriedSerializer(serializers.Serializer[Any]):
    """The result of a bulk retry."""

    retried = serializers.IntegerField(help_text="The number of deliveries that are sent again.")
    is_complete = serializers.BooleanField(help_text="False if there are more: repeat the request for the rest.")

    class Meta:
        ref_name = "RqWebhookRetried"
