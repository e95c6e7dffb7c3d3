"""Webhooks, skips, events and deliveries in the REST API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils.decorators import method_decorator
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_post_parameters
from rest_framework import status
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound, PermissionDenied, ValidationError
from rest_framework.generics import get_object_or_404
from rest_framework.mixins import ListModelMixin
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.viewsets import ModelViewSet, ReadOnlyModelViewSet

from webhooks import permissions
from webhooks.api import serializers
from webhooks.api.base import Conflict, StrictViewSet, refuse_body
from webhooks.api.fields import extend_schema, extend_schema_view
from webhooks.api.filters import DeliveryFilters, EventFilters, SkipFilters, WebhookFilters
from webhooks.api.serializers import PingedSerializer, RetriedSerializer
from webhooks.api.webhook_serializers import WebhookSerializer
from webhooks.db import index_plans
from webhooks.models import Delivery, Event, Run, RunKind, Skip, State, Webhook
from webhooks.models.selection import QUEUE_FILTERS, rows_in_order, select_deliveries, select_queued
from webhooks.models.validation import CONFLICT
from webhooks.operations import history, replays, retries, runs
from webhooks.operations.runs import RefusedFilter
from webhooks.operations.webhooks import OUTSIDE, delete_webhooks, pause, ping, resume
from webhooks.workers import jobs


@extend_schema_view(list=extend_schema(parameters=[WebhookFilters]))
@method_decorator(sensitive_post_parameters("secret", "secret_headers"), name="dispatch")
class WebhookViewSet(StrictViewSet, ModelViewSet[Webhook]):
    """Webhooks: the changes to send, and the URL of the receiver."""

    queryset = Webhook.objects.all()
    serializer_class = WebhookSerializer
    filters_class = WebhookFilters

    def get_queryset(self) -> QuerySet[Webhook]:
        webhooks = Webhook.objects.prefetch_related("object_types")
        change = {"PUT": "change", "PATCH": "change", "DELETE": "delete"}.get(str(self.request.method), self.operation)
        if change:
            return permissions.allowed(self.request.user, change, webhooks)
        return permissions.visible_webhooks(self.request.user, webhooks)

    def perform_create(self, serializer: BaseSerializer[Webhook]) -> None:
        self._save(serializer, "add")

    def perform_update(self, serializer: BaseSerializer[Webhook]) -> None:
        self._save(serializer, "change")

    def _save(self, serializer: BaseSerializer[Webhook], permission: str) -> None:
        """Save in one transaction. A conflict with another user's change is a 404 or a 409."""
        user = self.request.user
        before = history.field_values(serializer.instance) if serializer.instance else None
        # ``forget_previous_secret`` changes ``previous_secret``.
        given = [name.removeprefix("forget_") for name in serializer.validated_data]
        try:
            with transaction.atomic(Event.objects.db):
                webhook = serializer.save()
                if not permissions.may(user, permission, webhook):
                    raise PermissionDenied(OUTSIDE[permission])
                if webhook.enabled:
                    jobs.wake_on_commit()  # deliveries may have waited while it was disabled
                if before is None:
                    history.record(user, [webhook], history.ADDITION, [{"added": {}}])
                elif changes := history.describe_changes(webhook, before, given):
                    history.record(user, [webhook], history.CHANGE, changes)
        except Webhook.DoesNotExist:
            raise NotFound(_("The webhook was deleted meanwhile.")) from None
        except IntegrityError:
            raise Conflict(CONFLICT) from None

    def perform_destroy(self, instance: Webhook) -> None:
        with transaction.atomic(Event.objects.db):
            history.record(self.request.user, [instance], history.DELETION)
            delete_webhooks(Webhook.objects.filter(pk=instance.pk))

    @extend_schema(request=None, responses=PingedSerializer)
    @action(detail=True, methods=["post"], operation="change")
    def ping(self, request: Request, pk: str) -> Response:
        """Send a test event with the saved settings."""
        refuse_body(request)
        webhook = self.get_object()
        if not webhook.enabled:
            raise Conflict(_("The webhook is disabled. Enable it before you send a test."))
        return Response(PingedSerializer({"event": ping(webhook, request.user).pk}).data)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"], operation="change")
    def pause(self, request: Request, pk: str) -> Response:
        """Stop sending until it is resumed. Changes are still stored, and their deliveries wait."""
        return self._switch(pause, _("You can only pause a webhook that is enabled and that no user has paused yet."))

    @extend_schema(request=None)
    @action(detail=True, methods=["post"], operation="change")
    def resume(self, request: Request, pk: str) -> Response:
        """Send to a paused webhook again, at once."""
        return self._switch(resume, _("You can only resume a webhook that is enabled and paused."))

    def _switch(self, act: Callable[[Any, Any], list[Webhook]], refusal: str) -> Response:
        refuse_body(self.request)
        webhook = self.get_object()
        if not act(Webhook.objects.filter(pk=webhook.pk), self.request.user):
            raise Conflict(refusal)
        return Response(self.get_serializer(self.get_object()).data)


@extend_schema_view(list=extend_schema(parameters=[SkipFilters]))
class SkipViewSet(StrictViewSet, ListModelMixin):
    """Changes that a webhook did not want, and why."""

    queryset = Skip.objects.all()
    serializer_class = serializers.SkipSerializer
    filters_class = SkipFilters

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        get_object_or_404(permissions.visible_webhooks(request.user), pk=kwargs["webhook"])

    def get_queryset(self) -> QuerySet[Skip]:
        return permissions.visible_skips(self.request.user).filter(webhook=self.kwargs["webhook"])


@extend_schema_view(list=extend_schema(parameters=[EventFilters]))
class EventViewSet(StrictViewSet, ReadOnlyModelViewSet[Event]):
    """Events: committed changes of objects, and why some failed; Replay."""

    queryset = Event.objects.all()
    filters_class = EventFilters

    def get_queryset(self) -> QuerySet[Event]:
        events = Event.objects.all() if self.detail else Event.objects.for_list()
        return permissions.visible_events(self.request.user, events)

    def get_serializer_class(self) -> Any:
        return serializers.EventDetailSerializer if self.detail else serializers.EventSerializer

    @extend_schema(request=None, responses={201: serializers.EventDetailSerializer})
    @action(detail=True, methods=["post"], operation="replay")
    def replay(self, request: Request, pk: str) -> Response:
        """Capture the object of an event again as it is today. Returns the new event."""
        refuse_body(request)
        event = self.get_object()
        if not permissions.may(request.user, "replay", event):
            raise PermissionDenied
        if not Event.objects.replayable().filter(pk=event.pk).exists():
            refusal = _("Event %(id)s is a test, or a failed event that was replayed.")
            raise Conflict(refusal % {"id": event.pk})
        [result] = replays.replay([event], request.user)
        if result.event is None:
            refusal = _("Event %(id)s was not replayed: %(problem)s.")
            raise Conflict(refusal % {"id": event.pk, "problem": result.problem})
        created = Event.objects.get(pk=result.event.pk)
        return Response(self.get_serializer(created).data, status=status.HTTP_201_CREATED)


@extend_schema_view(list=extend_schema(parameters=[DeliveryFilters]))
class DeliveryViewSet(StrictViewSet, ReadOnlyModelViewSet[Delivery]):
    """Deliveries: one Event to one webhook, with its attempts; Retry and Discard."""

    queryset = Delivery.objects.all()
    filters_class = DeliveryFilters

    def get_queryset(self) -> QuerySet[Delivery]:
        deliveries = Delivery.objects.for_detail() if self.detail else Delivery.objects.for_list()
        return permissions.visible_deliveries(self.request.user, deliveries)

    def paginate_queryset(self, queryset: Any) -> Any:
        """Find the ids of a page first: in the queue, if it has the deliveries, because it is small."""
        filters = DeliveryFilters(self.request.query_params)
        filters.is_valid(raise_exception=True)
        user, chosen = self.request.user, filters.chosen
        self.may_sort = not chosen.keys() <= QUEUE_FILTERS
        rows = None if self.may_sort else select_queued(chosen, permissions.visible_queue(user))
        if rows is None:
            keys = Delivery.without_state.only("pk")
            rows = select_deliveries(chosen, permissions.visible_deliveries(user, keys))  # type: ignore[arg-type, assignment]
        found = super().paginate_queryset(rows)  # type: ignore[arg-type]
        with index_plans(queryset.db):
            return found and rows_in_order(queryset, [row.pk for row in found])

    def get_serializer_class(self) -> Any:
        return serializers.DeliveryDetailSerializer if self.detail else serializers.DeliverySerializer

    @extend_schema(request=None)
    @action(detail=True, methods=["post"], operation="retry")
    def retry(self, request: Request, pk: str) -> Response:
        """Send a failed or discarded delivery again, or a pending one now, before its next attempt is due."""
        refusal = _(
            "Delivery %(id)s is %(state)s. You can only retry a failed or discarded delivery, or one between attempts, "
            "of a webhook that is not deleted."
        )
        return self._perform(retries.retry, refusal)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"], operation="resend")
    def resend(self, request: Request, pk: str) -> Response:
        """Send a finished delivery again, one that succeeded too: under its ``webhook-id``, in the order of its lane.
        The request has the header ``X-Webhook-Redelivery: true``."""
        refusal = _(
            "Delivery %(id)s is %(state)s. You can only resend a finished delivery, of a webhook that is not deleted."
        )
        return self._perform(retries.resend, refusal)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"], operation="discard")
    def discard(self, request: Request, pk: str) -> Response:
        """End a delivery without sending it."""
        refusal = _("Delivery %(id)s is %(state)s. You can only discard a waiting, pending or failed delivery.")
        return self._perform(retries.discard, refusal)

    def _perform(self, perform: Callable[[Any, Any], int], refusal: str) -> Response:
        refuse_body(self.request)
        delivery = self.get_object()
        if not permissions.may(self.request.user, self.operation, delivery):
            raise PermissionDenied
        if not perform(Delivery.objects.filter(pk=delivery.pk), self.request.user):
            raise Conflict(refusal % {"id": delivery.pk, "state": State(delivery.state).label})
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(
        operation_id="webhooks_deliveries_retry_many",
        parameters=[DeliveryFilters],
        request=None,
        responses={200: RetriedSerializer, 202: RetriedSerializer},
    )
    @action(detail=False, methods=["post"], url_path="retry", url_name="retry-many", operation="retry")
    def retry_many(self, request: Request) -> Response:
        """Send again all failed deliveries that the query parameters choose. At least one parameter is required.
        ``state=discarded`` and ``state=pending`` choose those instead. If there are many, a run does it."""
        refuse_body(request)
        filters = DeliveryFilters(request.query_params)
        if not set(request.query_params) & set(filters.fields):
            refusal = _("Give at least one filter as a query parameter: %(names)s.")
            raise ValidationError(refusal % {"names": ", ".join(filters.fields)})
        filters.is_valid(raise_exception=True)
        try:
            done = runs.act(RunKind.RETRY, {"state": [State.FAILED.value]} | filters.chosen, request.user)
        except RefusedFilter as refused:
            raise ValidationError({refused.filter: [str(refused)]}) from None
        if isinstance(done, Run):
            shown = RetriedSerializer({"retried": 0, "run": done.pk}).data
            return Response(shown, status=status.HTTP_202_ACCEPTED)
        return Response(RetriedSerializer({"retried": done, "run": None}).data)
