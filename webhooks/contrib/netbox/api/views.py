"""The views of ``webhooks.api``, with the conventions of NetBox."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.exceptions import PermissionDenied as NotPermitted
from django.db import transaction
from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _
from drf_spectacular.drainage import isolate_view_method
from drf_spectacular.utils import PolymorphicProxySerializer, extend_schema, extend_schema_view
from netbox.api.serializers import ChangeLogMessageSerializer
from netbox.api.viewsets.mixins import BulkDestroyModelMixin, BulkUpdateModelMixin
from rest_framework import serializers
from rest_framework.exceptions import PermissionDenied
from rest_framework.mixins import RetrieveModelMixin
from rest_framework.request import Request
from rest_framework.routers import APIRootView

from webhooks.api import deliveries, events, reports, runs, webhooks
from webhooks.api.base import query_filters
from webhooks.contrib.netbox.api.base import SEARCH, LongListMixin, ReportMixin, ShortListMixin
from webhooks.contrib.netbox.api.serializers import (
    MESSAGE_LENGTH,
    DeliveryDetailSerializer,
    DeliverySerializer,
    EventDetailSerializer,
    EventSerializer,
    RunSerializer,
    SkipSerializer,
    WebhookSerializer,
)
from webhooks.contrib.netbox.older import BulkCreateModelMixin
from webhooks.ground.text import clean
from webhooks.insight import history
from webhooks.insight.paging import LongList, list_skips
from webhooks.models import Skip, Webhook, permissions
from webhooks.operations.kinds import OF_WEBHOOK


class WebhooksRootView(APIRootView):
    """Webhooks: define them, read deliveries and events, send again, and ask why."""

    def get_view_name(self) -> str:
        return "Webhooks"


class WebhookFilters(webhooks.WebhookFilters):
    id = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=2**63 - 1), source="pk__in", required=False,
        help_text=_("May be repeated."),
    )  # fmt: skip
    name: Any = serializers.ListField(
        child=serializers.CharField(), source="name__in", required=False,
        help_text=_("The whole name. May be repeated."),
    )  # fmt: skip

    @classmethod
    def repeatable(cls) -> set[str]:
        return {"id", "name"}


ONE_OR_MANY = PolymorphicProxySerializer(
    component_name="RqWebhookOneOrMany",
    serializers=lambda: [WebhookSerializer(), WebhookSerializer(many=True)],
    resource_type_field_name=None,
    many=False,
)


@extend_schema_view(
    list=extend_schema(parameters=[WebhookFilters]),
    create=extend_schema(request=ONE_OR_MANY, responses={201: ONE_OR_MANY}, parameters=[webhooks.ETAG]),
    update=extend_schema(responses=dict.fromkeys((200, 201), WebhookSerializer)),
    destroy=extend_schema(parameters=[webhooks.IF_MATCH]),
)
class WebhookViewSet(
    ShortListMixin, BulkCreateModelMixin, BulkUpdateModelMixin, BulkDestroyModelMixin, webhooks.WebhookViewSet
):
    """Webhooks: the changes to send, and the URL of the receiver."""

    serializer_class = WebhookSerializer
    filters_class = WebhookFilters
    # No column that some users see in part: the order would say more.
    ordering_fields = ("id", "name", "enabled", "created", "last_updated", "last_success_at", "last_failure_at")
    changelog_message = ""
    """What a user gives for the changelog with a deletion."""

    def get_queryset(self) -> QuerySet[Webhook]:
        if self.action == "create":  # the response shows what was created, also to users who may view nothing
            return permissions.allowed(self.request.user, "add", Webhook.objects.prefetch_related("object_types"))
        return super().get_queryset()

    def create(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        return (self.bulk_create if isinstance(request.data, list) else super().create)(request, *args, **kwargs)

    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        if isinstance(request.data, Mapping):
            given = ChangeLogMessageSerializer(data=request.data)
            given.is_valid(raise_exception=True)
            self.changelog_message = given.validated_data.get("changelog_message", "")
        return super().destroy(request, *args, **kwargs)

    def perform_create(self, serializer: Any) -> None:
        try:
            with transaction.atomic(Webhook.objects.db):
                super().perform_create(serializer)
                self._record_message(serializer.instance, serializer.given_message)
        except PermissionDenied as refusal:
            raise NotPermitted(refusal.detail) from None  # NetBox's bulk operations expect Django's
        if not self.detail and (self.action != "create" or isinstance(self.request.data, list)):
            self.shown = None  # a list has no tag

    perform_update = perform_create

    def perform_destroy(self, instance: Webhook) -> None:
        with transaction.atomic(Webhook.objects.db):
            self._record_message(instance, getattr(instance, "_changelog_message", None) or self.changelog_message)
            super().perform_destroy(instance)

    def _record_message(self, webhook: Webhook, message: Any) -> None:
        """NetBox leaves the message of a deletion as it came: a number, or a text that the database refuses."""
        if text := clean(str(message or ""), MESSAGE_LENGTH):
            history.record(self.request.user, [webhook], history.CHANGE, text)


@extend_schema_view(
    list=extend_schema(parameters=[SEARCH]),
    retry_many=extend_schema(operation_id="plugins_webhooks_deliveries_retry_many"),
)
class DeliveryViewSet(LongListMixin, deliveries.DeliveryViewSet):
    """Deliveries: one Event to one webhook, with its attempts; Retry and Discard."""

    def get_serializer_class(self) -> Any:
        return DeliveryDetailSerializer if self.detail else DeliverySerializer


@extend_schema_view(
    list=extend_schema(parameters=[SEARCH]),
    replay=extend_schema(responses={201: EventDetailSerializer}),
)
class EventViewSet(LongListMixin, events.EventViewSet):
    """Events: committed changes of objects, and why some failed; Replay."""

    def get_serializer_class(self) -> Any:
        return EventDetailSerializer if self.detail else EventSerializer


SkipFilters = query_filters("skips")


@extend_schema_view(list=extend_schema(parameters=[SkipFilters, SEARCH]))
class SkipViewSet(LongListMixin, RetrieveModelMixin, events.SkipViewSet):
    """Changes that webhooks did not want, and why."""

    serializer_class = SkipSerializer
    filters_class = SkipFilters
    searched = Skip

    def get_queryset(self) -> QuerySet[Skip]:
        return permissions.visible_skips(self.request.user).select_related("webhook")

    def long_list(self, filters: dict[str, Any]) -> LongList[Skip]:
        return list_skips(filters, self.request.user, self.get_queryset())


BEGINS: dict[str, Any] = {"responses": {201: RunSerializer, 200: runs.RunPreviewSerializer}}


@extend_schema_view(create=extend_schema(**BEGINS))
class RunViewSet(ShortListMixin, runs.RunViewSet):
    """Runs: retry, resend, discard, replay, backfill and others of many, which workers execute in the background."""

    serializer_class = RunSerializer
    ordering_fields = ("id", "kind", "state", "created", "finished_at")


class StatisticViewSet(ReportMixin, reports.StatisticViewSet):
    """The attempts of one webhook, or of all that the user may view."""


class StatusViewSet(ReportMixin, reports.StatusViewSet):
    """The status: each problem with its remedy, as on the status page."""


class WhyViewSet(ReportMixin, reports.WhyViewSet):
    """Why nothing arrived: a verdict for each webhook that the user may view."""


def describe(view: Any, method: str, operation: str, **described: Any) -> None:
    """Describe a method for the OpenAPI document that ``extend_schema_view`` does not know as one of views."""
    extend_schema(operation_id=f"plugins_webhooks_{operation}", **described)(isolate_view_method(view, method))


for _kind in OF_WEBHOOK:
    describe(RunViewSet, _kind, f"webhooks_{_kind}", **BEGINS)
describe(StatisticViewSet, "summary", "statistics")
describe(StatusViewSet, "current", "status")
describe(WhyViewSet, "why", "why")
