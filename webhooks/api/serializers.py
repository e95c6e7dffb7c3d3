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
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers
from rest_framework.settings import api_settings

from webhooks import payloads, permissions
from webhooks.api.fields import (
    ERROR_KINDS,
    CauseField,
    ErrorKindField,
    LevelField,
    MethodField,
    ObjectTypesField,
    ProblemField,
    RuleField,
    SecretField,
    StateField,
    TargetField,
    TextListField,
    refuse_unknown,
)
from webhooks.models import Attempt, BodyKind, Delivery, Event, Skip, State, Webhook
from webhooks.models.attempt import sent_bodies
from webhooks.models.event import USERNAME_LENGTH
from webhooks.models.skip import Rule
from webhooks.models.webhook import NORMALIZED_FIELDS, SECRET_FIELDS, SECRET_HEADERS_LENGTH, SECRET_LENGTH, Method
from webhooks.operations.alarms import Level, Problem
from webhooks.operations.skip_reasons import skip_reason
from webhooks.operations.why import Cause, Target
from webhooks.redaction import Redaction, explain
from webhooks.security.encryption import Secret, refuse_encrypted
from webhooks.text import replace_half_surrogates

# Null for users without permission to change the webhook. A null in a request leaves the field as it is.
HIDDEN = ("additional_headers", "body_template")
HIDDEN_OF_ATTEMPT = ("response_headers", "response_body")

# Null without permission to view payloads.
PAYLOAD_OF_EVENT = ("data", "snapshots", "serializers", "request")

MAX_ATTEMPTS = 100  # shown of a delivery, the newest


def _redaction(serializer: serializers.BaseSerializer[Any]) -> Redaction:
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


class WebhookSerializer(serializers.ModelSerializer[Webhook]):
    """Without permission to change the webhook, a user sees scheme, host and port of its URL, and null for its
    additional headers and body template: these may contain tokens. The secret and the secret headers are write-only."""

    object_types = ObjectTypesField(required=False)
    custom_events = TextListField(required=False)
    changed_fields = TextListField(required=False)
    excluded_usernames = TextListField(required=False)
    http_method = MethodField(Method.choices, required=False)
    secret = SecretField(max_length=SECRET_LENGTH, validators=[refuse_encrypted])
    secret_headers = SecretField(max_length=SECRET_HEADERS_LENGTH, validators=[refuse_encrypted], trim_whitespace=False)
    has_secret = serializers.SerializerMethodField()
    has_secret_headers = serializers.SerializerMethodField()
    error_kind = ErrorKindField(ERROR_KINDS, read_only=True)
    unreadable = serializers.ReadOnlyField(help_text=_("Secrets that cannot be decrypted: nothing is sent."))
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
            "paused_at", "paused_by",
            "disabled_reason", "last_success_at", "last_failure_at", "last_failure", "error_kind",
            "created", "last_updated",
        )  # fmt: skip
        read_only_fields = (
            "previous_secret_until", "is_paused", "paused_at", "paused_by", "disabled_reason", "last_success_at",
            "last_failure_at", "last_failure", "error_kind",
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
        if not validated_data.get("enabled", True):
            validated_data["disabled_by"] = str(self.context["request"].user)[:USERNAME_LENGTH]
        return super().create(validated_data)

    def update(self, instance: Webhook, validated_data: dict[str, Any]) -> Webhook:
        forgotten = {"previous_secret"} if validated_data.pop("forget_previous_secret", False) else set()
        object_types = validated_data.pop("object_types", None)
        for name, value in validated_data.items():
            setattr(instance, name, value)
        instance.save_settings(validated_data.keys() | forgotten, self.context["request"].user)
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

    rule = RuleField(Rule.choices, read_only=True)
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
    state = StateField(State.choices, read_only=True)
    error_kind = ErrorKindField(ERROR_KINDS, read_only=True)
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
        shown["reason"] = _redaction(self).error(instance.webhook_id, instance.reason, instance.error_kind)
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
        redacted, webhook_id = _redaction(self), instance.delivery.webhook_id
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
    error_kind = ErrorKindField(ERROR_KINDS, read_only=True)
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
        redacted, webhook_id = _redaction(self), instance.delivery.webhook_id
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


class PingedSerializer(serializers.Serializer[Any]):
    """The result of a test."""

    event = serializers.IntegerField(help_text=_("The id of the test event. Its delivery has the result."))

    class Meta:
        ref_name = "RqWebhookPinged"


class RetriedSerializer(serializers.Serializer[Any]):
    """The result of a bulk retry."""

    retried = serializers.IntegerField(help_text=_("The number of deliveries that are sent again."))
    run = serializers.IntegerField(allow_null=True, help_text=_("The id of the run that does it, if there are many."))

    class Meta:
        ref_name = "RqWebhookRetried"


class TimesSerializer(serializers.Serializer[Any]):
    """A histogram in milliseconds. ``buckets`` has counts by upper bound, and ``more``."""

    count = serializers.IntegerField()
    total_ms = serializers.IntegerField()
    median_ms = serializers.FloatField(allow_null=True)
    p95_ms = serializers.FloatField(allow_null=True)
    buckets = serializers.DictField(child=serializers.IntegerField())

    class Meta:
        ref_name = "RqWebhookTimes"


class FiguresSerializer(serializers.Serializer[Any]):
    """Attempts in a length of time."""

    attempted = serializers.IntegerField()
    succeeded = serializers.IntegerField(help_text=_("Attempts that succeeded. As many deliveries succeeded."))
    failed = serializers.IntegerField()
    failed_by_kind = serializers.DictField(child=serializers.IntegerField())
    given_up = serializers.IntegerField(help_text=_("Deliveries that failed with their last attempt."))
    skipped = serializers.IntegerField(help_text=_("Changes that webhooks did not want."))
    success_percent = serializers.FloatField(allow_null=True)
    duration = TimesSerializer(help_text=_("The durations of attempts."))
    delay = TimesSerializer(help_text=_("From events to their first attempts."))

    class Meta:
        ref_name = "RqWebhookFigures"


class PeriodSerializer(FiguresSerializer):
    start = serializers.DateTimeField()

    class Meta:
        ref_name = "RqWebhookPeriod"


class StatisticsSerializer(serializers.Serializer[Any]):
    """``series`` has the minutes or hours with attempts in order. Each time in it is a start, in UTC."""

    since = serializers.DateTimeField()
    total = FiguresSerializer()
    series = PeriodSerializer(many=True)

    class Meta:
        ref_name = "RqWebhookStatistics"


class ConsequenceSerializer(serializers.Serializer[Any]):
    """A problem that follows from another."""

    level = LevelField(list(Level))
    problem = ProblemField(list(Problem))
    text = serializers.CharField()
    remedy = serializers.CharField(allow_blank=True)
    command = serializers.CharField(allow_blank=True, help_text="What to type.")
    webhook = serializers.IntegerField(allow_null=True, help_text="The id of its webhook, if it has one.")
    since = serializers.DateTimeField(allow_null=True)
    waiting = serializers.IntegerField(
        help_text="Deliveries and changes that wait because of it. Stops at 1,000 for a webhook, and else at 10,000."
    )
    next_probe_at = serializers.DateTimeField(allow_null=True)

    class Meta:
        ref_name = "RqWebhookConsequence"


class AlarmSerializer(ConsequenceSerializer):
    """The cause of one or more problems, and the way out."""

    around = serializers.ListField(
        child=serializers.CharField(), help_text="What else happened around the time that it began."
    )
    consequences = ConsequenceSerializer(many=True)

    class Meta:
        ref_name = "RqWebhookAlarm"


class StatusSerializer(serializers.Serializer[Any]):
    """``level`` is the worst level of the alarms, and good without an error or a warning. Counts stop at 10,000."""

    level = LevelField(list(Level))
    as_of = serializers.DateTimeField()
    alarms = AlarmSerializer(many=True)
    deliveries = serializers.DictField(child=serializers.IntegerField(), help_text=_("The number in each state."))
    undispatched_events = serializers.IntegerField()
    failed_events = serializers.IntegerField()
    workers = serializers.IntegerField(help_text=_("Live workers that serve the queue."))
    dead_rows = serializers.IntegerField(
        allow_null=True, help_text=_("Rows of our tables that PostgreSQL has not removed yet, as it estimates.")
    )

    class Meta:
        ref_name = "RqWebhookStatus"


class ChangeSerializer(serializers.Serializer[Any]):
    """The change that a verdict is about. ``username`` and ``request_id`` require the permission to view events."""

    action = serializers.CharField()
    object_type = serializers.CharField()
    object_id = serializers.CharField()
    object_repr = serializers.CharField()
    timestamp = serializers.DateTimeField()
    username = serializers.CharField()
    request_id = serializers.CharField()

    class Meta:
        ref_name = "RqWebhookChange"


class EarlierVerdictSerializer(serializers.Serializer[Any]):
    """``text`` says why, and ``remedy`` what to do. ``target`` and ``target_id`` are where to do it."""

    webhook = WebhookSummarySerializer()
    cause = CauseField(Cause.choices)
    text = serializers.CharField()
    remedy = serializers.CharField()
    target = TargetField(Target.choices, allow_null=True)
    target_id = serializers.CharField()
    change = ChangeSerializer(allow_null=True, help_text=_("Null if nothing is stored of the change."))
    event = serializers.IntegerField(allow_null=True)
    delivery = serializers.UUIDField(allow_null=True)
    state = StateField(State.choices, allow_null=True)
    behind = serializers.UUIDField(allow_null=True, help_text=_("The delivery that this one waits for."))
    until = serializers.DateTimeField(allow_null=True, help_text=_("The next attempt, or the latest end of the wait."))
    rule = RuleField(Rule.choices, allow_null=True)
    detail = serializers.DictField(help_text=_("What the rule wanted and what it found."))
    changed = serializers.ListField(
        child=serializers.CharField(), help_text=_("The fields that differ from the last event.")
    )
    error = serializers.CharField()

    class Meta:
        ref_name = "RqWebhookEarlierVerdict"


class VerdictSerializer(EarlierVerdictSerializer):
    """Why one webhook sent nothing, or that it did."""

    earlier = EarlierVerdictSerializer(allow_null=True, help_text=_("About the last change that is stored."))

    class Meta:
        ref_name = "RqWebhookVerdict"


class WhySerializer(serializers.Serializer[Any]):
    verdicts = VerdictSerializer(many=True)

    class Meta:
        ref_name = "RqWebhookWhy"
