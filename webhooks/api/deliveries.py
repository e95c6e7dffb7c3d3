"""Deliveries and their attempts in the REST API: read, retry, resend and discard them."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import PermissionDenied as NotPermitted
from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.exceptions import PermissionDenied, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ReadOnlyModelViewSet

from webhooks.api.base import (
    IDEMPOTENCY_KEY,
    Conflict,
    LongListViewSet,
    query_filters,
    redaction_of,
    refuse_body,
    repeated_run,
    request_key_of,
    sees_payload,
)
from webhooks.api.events import EventSummarySerializer, parse_json, refuse_actor_filters
from webhooks.api.fields import (
    ErrorKindField,
    MomentField,
    NamedSerializer,
    ReadOnlySerializer,
    StateField,
    extend_schema,
    extend_schema_view,
)
from webhooks.api.webhooks import WebhookSummarySerializer
from webhooks.ground import payloads
from webhooks.insight.bodies import sent_bodies
from webhooks.insight.paging import LongList, list_deliveries
from webhooks.models import Attempt, BodyKind, Delivery, Run, State, permissions
from webhooks.models.permissions.redaction import explain
from webhooks.operations import runs
from webhooks.operations.kinds import OF_DELIVERIES
from webhooks.operations.retries import DeliveryKind
from webhooks.operations.run_filters import RefusedFilter

MAX_ATTEMPTS = 100  # shown of a delivery, the newest


class DeliverySerializer(ReadOnlySerializer[Delivery]):
    """``id`` is the ``webhook-id`` that the receiver gets. ``next_attempt_at`` is null unless it is pending."""

    event = EventSummarySerializer(read_only=True)
    webhook = WebhookSummarySerializer(read_only=True)
    state = StateField(read_only=True)
    error_kind = ErrorKindField(read_only=True)
    next_attempt_at = MomentField(read_only=True, allow_null=True)
    attempt_count = serializers.IntegerField(read_only=True)
    lost_leases = serializers.IntegerField(read_only=True)
    finished_at = MomentField(read_only=True, allow_null=True)
    superseded = serializers.BooleanField(
        read_only=True, help_text=_("It failed, and its webhook got a later state of the object.")
    )

    class Meta:
        model = Delivery
        fields: tuple[str, ...] = (
            "id", "event", "webhook", "state", "superseded", "attempt_count", "lost_leases", "reason", "error_kind",
            "next_attempt_at", "created", "finished_at",
        )  # fmt: skip

    def to_representation(self, instance: Delivery) -> Any:
        shown = super().to_representation(instance)
        shown["reason"] = redaction_of(self).error(instance.webhook_id, instance.reason, instance.error_kind)
        return shown


class SentRequestSerializer(ReadOnlySerializer[Attempt]):
    """A request as it was sent. ``headers`` lack the values of secret headers and signatures. ``headers``, and a body
    from a template, are null for users without permission to change the webhook. ``body`` is also null for users
    without permission to view payloads, and if the Event does not give the same bytes again: compare its SHA-256."""

    headers = serializers.DictField(
        source="request_headers", child=serializers.CharField(), read_only=True, allow_null=True
    )
    body = serializers.SerializerMethodField()

    class Meta:
        model = Attempt
        fields = ("method", "url", "headers", "body", "body_sha256")

    def get_body(self, attempt: Attempt) -> str | None:
        body = self.context["webhooks_bodies"].get(attempt.body_sha256)
        return None if body is None else body.decode()

    def to_representation(self, instance: Attempt) -> Any:
        if not instance.method:
            return None
        redacted, webhook_id = redaction_of(self), instance.delivery.webhook_id
        shown = super().to_representation(instance) | {"url": redacted.url(webhook_id, instance.url)}
        if redacted.may_change(webhook_id):
            return shown
        return shown | {"headers": None} | ({"body": None} if instance.body_kind == BodyKind.TEMPLATE else {})


class NewestAttempts(serializers.ListSerializer[Any]):
    def to_representation(self, data: Any) -> Any:
        attempts = list(data.order_by("-number")[:MAX_ATTEMPTS])
        context: Any = self.context
        delivery = data.instance
        context["webhooks_bodies"] = sent_bodies(delivery, attempts) if sees_payload(self, delivery.event) else {}
        return super().to_representation(attempts)


class AttemptSerializer(ReadOnlySerializer[Attempt]):
    """``request`` is null if no request could be made: ``reason`` says why."""

    request = SentRequestSerializer(source="*", read_only=True, allow_null=True)
    error_kind = ErrorKindField(read_only=True)
    response_headers = serializers.DictField(child=serializers.CharField(), read_only=True, allow_null=True)
    response_body = serializers.CharField(read_only=True, allow_null=True)

    class Meta:
        model = Attempt
        list_serializer_class = NewestAttempts
        fields = (
            "number", "started_at", "duration_ms", "request", "succeeded", "reason", "error_kind", "status",
            "response_headers", "response_body", "worker", "requested_by",
        )  # fmt: skip

    def to_representation(self, instance: Attempt) -> Any:
        redacted, webhook_id = redaction_of(self), instance.delivery.webhook_id
        shown = super().to_representation(instance) | {
            "reason": redacted.error(webhook_id, instance.reason, instance.error_kind)
        }
        if not redacted.may_change(webhook_id):
            return shown | {"response_headers": None, "response_body": None}
        return shown if sees_payload(self, instance.delivery.event) else shown | {"response_body": None}


class DeliveryDetailSerializer(DeliverySerializer):
    """``payload`` is sent, or the input of the body template. It is null without permission to view payloads.
    ``attempts`` has the newest first. ``cause`` and ``remedy`` explain ``error_kind``."""

    cause = serializers.SerializerMethodField()
    remedy = serializers.SerializerMethodField()
    payload = serializers.SerializerMethodField()
    attempts = AttemptSerializer(many=True, read_only=True)

    class Meta(DeliverySerializer.Meta):
        fields = (*DeliverySerializer.Meta.fields, "cause", "remedy", "payload", "attempts")

    def get_cause(self, delivery: Delivery) -> str:
        return explain(delivery.error_kind, delivery.webhook.payload_url).cause

    def get_remedy(self, delivery: Delivery) -> str:
        return explain(delivery.error_kind, delivery.webhook.payload_url).remedy

    def get_payload(self, delivery: Delivery) -> dict[str, Any] | None:
        if not sees_payload(self, delivery.event):
            return None
        event = payloads.as_sent_to(delivery.event, delivery.webhook_id)
        return parse_json(payloads.json_body(event).decode())  # type: ignore[no-any-return]


class RetriedSerializer(NamedSerializer):
    """The result of a bulk retry."""

    retried = serializers.IntegerField(help_text=_("The number of deliveries that are sent again."))
    run = serializers.IntegerField(allow_null=True, help_text=_("The id of the run that does it, if there are many."))
    superseded = serializers.IntegerField(
        help_text=_("Superseded deliveries, which it leaves out. It counts up to 100 of them.")
    )


DeliveryFilters = query_filters("deliveries")


def operation_of(kind: DeliveryKind) -> Any:
    """The operation on one delivery that a kind of run does to many."""

    def perform(self: DeliveryViewSet, request: Request, pk: str, **kwargs: Any) -> Response:
        refuse_body(request)
        delivery = self.get_object()
        if not permissions.may(request.user, kind.operation, delivery):
            raise PermissionDenied
        if not kind.perform(Delivery.objects.filter(pk=delivery.pk), request.user):
            raise Conflict(kind.refusal % {"id": delivery.pk, "state": State(delivery.state).label})
        return Response(self.get_serializer(self.get_object()).data)

    perform.__name__ = kind.name
    view = action(detail=True, methods=["post"], operation=kind.operation)(perform)
    return extend_schema(request=None, description=kind.meaning_of_one)(view)


# Retry, resend and discard, and what other kind changes deliveries.
Operations = type("Operations", (), {name: operation_of(kind) for name, kind in OF_DELIVERIES.items()})


@extend_schema_view(list=extend_schema(parameters=[DeliveryFilters]))
class DeliveryViewSet(LongListViewSet, ReadOnlyModelViewSet[Delivery], Operations):  # type: ignore[misc,valid-type]
    """Deliveries: one Event to one webhook, with its attempts; Retry and Discard."""

    queryset = Delivery.objects.all()
    filters_class = DeliveryFilters

    def get_queryset(self) -> QuerySet[Delivery]:
        deliveries = Delivery.objects.for_detail() if self.detail else Delivery.objects.for_list()
        return permissions.visible_deliveries(self.request.user, deliveries)

    def long_list(self, filters: dict[str, Any]) -> LongList[Delivery]:
        refuse_actor_filters(self.request.user, filters)
        return list_deliveries(filters, self.request.user, self.get_queryset())

    def get_serializer_class(self) -> Any:
        return DeliveryDetailSerializer if self.detail else DeliverySerializer

    @extend_schema(
        operation_id="webhooks_deliveries_retry_many",
        parameters=[DeliveryFilters, IDEMPOTENCY_KEY],
        request=None,
        responses={200: RetriedSerializer, 202: RetriedSerializer},
    )
    @action(detail=False, methods=["post"], url_path="retry", url_name="retry-many", operation="retry")
    def retry_many(self, request: Request, **kwargs: Any) -> Response:
        """Send again the failed deliveries that the query parameters choose, and pending ones now, before their next
        attempt is due. ``state=discarded`` chooses discarded ones. At least one parameter is required. If there are
        many, a run does it, which requires the permission to add runs."""
        refuse_body(request)
        filters = self.read_filters()
        if not filters.chosen:
            refusal = _("Give at least one filter as a query parameter: %(names)s.")
            raise ValidationError(refusal % {"names": ", ".join(filters.fields)})
        superseded = 0
        try:
            superseded = runs.count_superseded("retry", filters.chosen, request.user)
            done = runs.act("retry", filters.chosen, request.user, request_key_of(request))
        except RefusedFilter as refused:
            raise ValidationError({refused.filter: [str(refused)]}) from None
        except NotPermitted as refused:
            raise PermissionDenied(str(refused)) from None
        except runs.RunExists as existing:
            done = repeated_run(existing, "retry", filters.chosen)
        retried, run = (0, done.pk) if isinstance(done, Run) else (done, None)
        shown = RetriedSerializer({"retried": retried, "run": run, "superseded": superseded}).data
        return Response(shown, status=status.HTTP_202_ACCEPTED if run else status.HTTP_200_OK)
