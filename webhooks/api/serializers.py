"""How webhooks, events and deliveries look in the REST API.

``ref_name`` is what drf-spectacular and drf-yasg call them: a host may have a ``Webhook`` of its own."""

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
    JSONTextDictField,
    JSONTextField,
    JSONTextListField,
    NamedChoiceField,
    ObjectTypesField,
    SecretField,
    TextsField,
    VariantsField,
)
from webhooks.api.unknown import refuse_unknown
from webhooks.models import Attempt, Delivery, Event, State, Webhook
from webhooks.models.webhook import NORMALIZED_FIELDS, SECRET_FIELDS, SECRET_HEADERS_LENGTH, SECRET_LENGTH, Method
from webhooks.redaction import Redaction
from webhooks.security.encryption import Secret, refuse_encrypted

# Null for those who may not change webhooks. If a client sends null, the field stays as it is.
HIDDEN = ("additional_headers", "body_template")

# Null for the same users.
ANSWER = ("response_headers", "response_body")

# So many attempts of a delivery are shown, the newest.
MOST_ATTEMPTS = 100


class WebhookSerializer(serializers.ModelSerializer[Webhook]):
    """Users who may not change the webhook read its URL as far as host and port, and null for its additional headers
    and the template of its body: there may be tokens in them. The secret and secret headers are write-only."""

    object_types = ObjectTypesField(required=False)
    custom_events = TextsField(required=False)
    changed_fields = TextsField(required=False)
    excluded_usernames = TextsField(required=False)
    http_method = NamedChoiceField(Method.choices, schema_name="RqWebhookMethod", required=False)
    secret = SecretField(max_length=SECRET_LENGTH, validators=[refuse_encrypted])
    secret_headers = SecretField(max_length=SECRET_HEADERS_LENGTH, validators=[refuse_encrypted], trim_whitespace=False)
    has_secret = serializers.SerializerMethodField()
    has_secret_headers = serializers.SerializerMethodField()
    unreadable = serializers.ReadOnlyField(help_text="What cannot be decrypted, and makes every attempt fail.")
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
        return f"<{type(self).__name__} of {self.instance!r}>"  # REST framework's own has what was sent

    def run_validation(self, data: Any = serializers.empty) -> Any:
        if isinstance(data, dict):
            # A report of an error shows what the frames of the call have in them.
            hidden = {name: Secret(data[name]) for name in data if _is_secret(name, data[name])}
            # What a form sent stays such, for lists and boxes of that are read in another way; files are not copied.
            data = copy.copy(data)
            for name, secret in hidden.items():
                data[name] = secret
        return super().run_validation(data)

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            refuse_unknown(_names(data), self.fields, "field")
        values = super().to_internal_value(data)
        return {name: value for name, value in values.items() if name not in HIDDEN or value is not None}

    def get_initial(self) -> Any:
        # What the browsable API fills a form with that was refused.
        return {name: value for name, value in super().get_initial().items() if not _is_secret(name, value)}

    def to_representation(self, instance: Webhook) -> Any:
        shown = super().to_representation(instance)
        redacted = _redaction(self)
        shown["payload_url"] = redacted.url(instance.pk, instance.payload_url)
        return shown if redacted.sees_all(instance.pk) else shown | dict.fromkeys(HIDDEN)

    def _refuse(self, attrs: dict[str, Any]) -> None:
        """Raise ValidationError for what the user of the request may not have sent, not so, or not elsewhere."""
        user, webhook = self.context["request"].user, self.instance
        before = set(webhook.object_types.all()) if webhook else set()
        if refusal := permissions.refusal_to_send(user, set(attrs.get("object_types", ())) - before):
            raise serializers.ValidationError({"object_types": [refusal]})
        if webhook is None:
            return
        changed = permissions.guarded_changes(webhook, attrs)
        if changed and (refusal := permissions.refusal_to_change(user, webhook, changed)):
            raise serializers.ValidationError({changed[0]: [refusal]})
        is_moved = any(name in permissions.WHERE_TO for name in changed)
        if is_moved and (refusal := permissions.refusal_to_take_along(webhook, "secret_headers" in attrs)):
            raise serializers.ValidationError({"secret_headers": [refusal]})

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Judge it by the model's own rules, so that the API and the admin accept the same."""
        self._refuse(attrs)
        candidate = copy.copy(self.instance) if self.instance else Webhook()
        for name in attrs.keys() - {"object_types", "forget_previous_secret"}:
            setattr(candidate, name, attrs[name])
        stored = list(self.instance.object_types.all()) if self.instance else []
        candidate.new_object_types = attrs.get("object_types", stored)
        try:
            candidate.full_clean()
        except ModelValidationError as error:
            raise serializers.ValidationError(_named(serializers.as_serializer_error(error))) from error
        if self.instance and attrs.get("enabled") == self.instance.enabled:
            del attrs["enabled"]  # which switches nothing, even if a worker disables it meanwhile
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


def _names(data: Mapping[str, Any]) -> set[str]:
    """The names of the fields that were sent. A form counts the items of a list, and has Django's token."""
    if not isinstance(data, QueryDict):
        return set(data)
    return {name.partition("[")[0] for name in data} - {"csrfmiddlewaretoken"}


def _redaction(serializer: serializers.BaseSerializer[Any]) -> Redaction:
    """What the user of the request sees, read once for each response. Without a request: an anonymous user."""
    context: Any = serializer.context
    if "webhooks_redaction" not in context:
        context["webhooks_redaction"] = Redaction(getattr(context.get("request"), "user", None))
    found: Redaction = context["webhooks_redaction"]
    return found


def _is_secret(name: str, value: Any) -> bool:
    return name in SECRET_FIELDS and isinstance(value, str)


def _named(errors: dict[str, Any]) -> dict[str, Any]:
    return {api_settings.NON_FIELD_ERRORS_KEY if key == NON_FIELD_ERRORS else key: errors[key] for key in errors}


class EventSummarySerializer(serializers.ModelSerializer[Event]):
    class Meta:
        model = Event
        ref_name = "RqWebhookEventSummary"
        fields: tuple[str, ...] = ("id", "timestamp", "action", "object_type", "object_id", "object_repr")
        read_only_fields = fields


class EventSerializer(serializers.ModelSerializer[Event]):
    """``error`` says why it failed, mostly as a traceback; nothing is sent of such an event."""

    class Meta:
        model = Event
        ref_name = "RqWebhookEvent"
        fields: tuple[str, ...] = (
            *EventSummarySerializer.Meta.fields,
            "username",
            "request_id",
            "depth",
            "dispatched_at",
            "replay_of",
            "error",
        )
        read_only_fields = fields


class EventDetailSerializer(EventSerializer):
    data = JSONTextField()  # type: ignore[assignment]
    snapshots = JSONTextDictField()
    changed = JSONTextListField(child=serializers.CharField())
    variants = VariantsField()
    request = JSONTextDictField()

    class Meta(EventSerializer.Meta):
        ref_name = "RqWebhookEventDetail"
        fields = (*EventSerializer.Meta.fields, "data", "snapshots", "changed", "variants", "request")
        read_only_fields = fields


class WebhookSummarySerializer(serializers.ModelSerializer[Webhook]):
    class Meta:
        model = Webhook
        ref_name = "RqWebhookSummary"
        fields = ("id", "name")
        read_only_fields = fields


class DeliverySerializer(serializers.ModelSerializer[Delivery]):
    """``id`` is the ``webhook-id`` that the receiver gets; ``next_attempt_at`` is set while it is pending."""

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
        return super().to_representation(data.order_by("-pk")[:MOST_ATTEMPTS])


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
        return shown if redacted.sees_all(webhook_id) else shown | dict.fromkeys(ANSWER)


class DeliveryDetailSerializer(DeliverySerializer):
    """``payload`` is what is sent, and ``attempts`` what came back, the newest first."""

    payload = serializers.SerializerMethodField()
    attempts = AttemptSerializer(many=True, read_only=True)

    class Meta(DeliverySerializer.Meta):
        ref_name = "RqWebhookDeliveryDetail"
        fields = (*DeliverySerializer.Meta.fields, "payload", "attempts")
        read_only_fields = fields

    def get_payload(self, delivery: Delivery) -> dict[str, Any]:
        payload: dict[str, Any] = json.loads(payloads.json_body(payloads.sent_to(delivery.event, delivery.webhook_id)))
        return payload


class RetriedSerializer(serializers.Serializer[Any]):
    """What came of a bulk retry."""

    retried = serializers.IntegerField(help_text="How many deliveries are sent again.")
    is_complete = serializers.BooleanField(help_text="Whether these are all. If not, ask again for the rest.")

    class Meta:
        ref_name = "RqWebhookRetried"
