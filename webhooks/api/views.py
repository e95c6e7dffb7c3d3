"""The view sets of the REST API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils.decorators import method_decorator
from django.views.decorators.debug import sensitive_post_parameters
from rest_framework.decorators import action
from rest_framework.exceptions import APIException, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.settings import api_settings
from rest_framework.viewsets import ModelViewSet, ReadOnlyModelViewSet

from webhooks import admin_log, deletion, jobs, retries, rights
from webhooks.api import serializers
from webhooks.api.filters import DeliveryFilters, EventFilters, QueryParameters
from webhooks.api.pagination import NewestFirst
from webhooks.api.permissions import ModelPermissions, OperationPermissions
from webhooks.capture import outbox
from webhooks.models import Delivery, Event, Webhook
from webhooks.models.webhook import SECRETS_OF_WEBHOOK

# What may be long, or is nobody's business, and lists do not show.
HEAVY = ("data", "variants", "snapshots", "request", "webhook_ids")


class Conflict(APIException):
    status_code = 409
    default_code = "conflict"


@method_decorator(sensitive_post_parameters("secret", "secret_headers"), name="dispatch")
class WebhookViewSet(ModelViewSet[Webhook]):
    """Webhooks: which changes of which models are sent where."""

    queryset = Webhook.objects.prefetch_related("object_types")
    serializer_class = serializers.WebhookSerializer
    permission_classes = (ModelPermissions,)
    filter_backends = ()

    def get_queryset(self) -> QuerySet[Webhook]:
        # Locked: workers write on the same row how the webhook fares, and a save must not undo that.
        is_update = self.action in ("update", "partial_update")
        webhooks = super().get_queryset()
        return webhooks.select_for_update(no_key=True, of=("self",)) if is_update else webhooks

    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        with transaction.atomic(outbox.database()):
            return super().create(request, *args, **kwargs)

    def update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        with transaction.atomic(outbox.database()):
            return super().update(request, *args, **kwargs)

    def perform_create(self, serializer: BaseSerializer[Webhook]) -> None:
        self._save(serializer)
        webhook: Webhook = serializer.instance  # type: ignore[assignment]
        admin_log.note(self.request.user, webhook, admin_log.ADDITION, [{"added": {}}])

    def perform_update(self, serializer: BaseSerializer[Webhook]) -> None:
        webhook: Webhook = serializer.instance  # type: ignore[assignment]
        before = admin_log.state_of(webhook)
        self._save(serializer)
        if changes := admin_log.differing(webhook, before, serializer.validated_data):
            admin_log.note(self.request.user, webhook, admin_log.CHANGE, changes)

    def _save(self, serializer: BaseSerializer[Webhook]) -> None:
        if serializer.save().enabled:
            # What waited while it was disabled can go out.
            transaction.on_commit(jobs.wake_up, using=outbox.database(), robust=True)

    def perform_destroy(self, instance: Webhook) -> None:
        with transaction.atomic(outbox.database()):
            admin_log.note(self.request.user, instance, admin_log.DELETION)
            deletion.delete(Webhook.objects.filter(pk=instance.pk))


class EventViewSet(ReadOnlyModelViewSet[Event]):
    """Events: what changed, and why no payload could be made of some."""

    queryset = Event.objects.all()
    permission_classes = (ModelPermissions,)
    pagination_class = NewestFirst
    filter_backends = (QueryParameters,)
    filters_class = EventFilters
    lookup_value_regex = r"\d{1,18}"

    def get_queryset(self) -> QuerySet[Event]:
        events = rights.visible_events(self.request.user, super().get_queryset())
        return events if self.detail else events.defer(*HEAVY)

    def get_serializer_class(self) -> Any:
        return serializers.EventDetailSerializer if self.detail else serializers.EventSerializer


class DeliveryViewSet(ReadOnlyModelViewSet[Delivery]):
    """Deliveries: what is sent, what came of it, Retry and Discard."""

    queryset = Delivery.objects.select_related("event", "webhook").defer(*SECRETS_OF_WEBHOOK)
    permission_classes = (OperationPermissions,)
    pagination_class = NewestFirst
    filter_backends = (QueryParameters,)
    filters_class = DeliveryFilters
    lookup_value_regex = "[0-9a-fA-F-]{32,36}"
    operation = ""

    def get_queryset(self) -> QuerySet[Delivery]:
        deliveries = rights.visible_deliveries(self.request.user, super().get_queryset())
        return deliveries if self.detail else deliveries.defer("event__error", *(f"event__{name}" for name in HEAVY))

    def get_serializer_class(self) -> Any:
        return serializers.DeliveryDetailSerializer if self.detail else serializers.DeliverySerializer

    @action(detail=True, methods=["post"], operation="retry")
    def retry(self, request: Request, pk: str) -> Response:
        """Send a failed or discarded delivery again, or one that waits for its next attempt now."""
        return self._do(
            retries.retry,
            "only what failed, was discarded or is between attempts can be sent again",
        )

    @action(detail=True, methods=["post"], operation="discard")
    def discard(self, request: Request, pk: str) -> Response:
        """End a delivery without sending it."""
        return self._do(retries.discard, "only waiting, pending and failed deliveries can be discarded")

    def _do(self, perform: Callable[[Any], int], otherwise: str) -> Response:
        delivery = self.get_object()
        if not perform(Delivery.objects.filter(pk=delivery.pk)):
            raise Conflict(f"Delivery {delivery.pk} is {delivery.state}: {otherwise}.")
        return Response(self.get_serializer(self.get_object()).data)

    @action(detail=False, methods=["post"], url_path="retry", url_name="retry-many", operation="retry")
    def retry_many(self, request: Request) -> Response:
        """Send all failed ones again that the query parameters choose, discarded and pending ones only with
        ``state=discarded`` and ``state=pending``. At least one parameter is demanded."""
        chosen = _deliberate(request).narrow(rights.visible_deliveries(request.user))
        if "state" not in request.query_params:
            chosen = chosen.failed()
        # The oldest first: in a lane it goes before the others.
        return Response({"retried": retries.retry(chosen.order_by("pk"))})


def _deliberate(request: Request) -> DeliveryFilters:
    """The filters of a request that changes whatever they choose: nothing in it may be passed over."""
    filters = DeliveryFilters(request)
    known = ", ".join(filters.fields)
    given = set(request.query_params) - {api_settings.URL_FORMAT_OVERRIDE}
    if request.data:
        raise ValidationError(f"Give the filters as query parameters, and no body. They are: {known}.")
    if unknown := sorted(given - set(filters.fields)):
        raise ValidationError(f"There is no filter {', '.join(unknown)}. There are: {known}.")
    if not given:
        raise ValidationError(f"Give at least one filter as a query parameter: {known}.")
    return filters
