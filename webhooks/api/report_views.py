"""Statistics, the status, and why nothing arrived, in the REST API."""

from __future__ import annotations

from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from webhooks import permissions
from webhooks.api.base import StrictViewSet
from webhooks.api.fields import extend_schema
from webhooks.api.filters import StatisticFilters, WhyFilters
from webhooks.api.report_serializers import StatisticsSerializer, StatusSerializer, WhySerializer
from webhooks.models import Delivery, Webhook
from webhooks.operations import statistics
from webhooks.operations.status import read_status
from webhooks.operations.why import UnknownObject, why


class StatisticViewSet(StrictViewSet):
    """The attempts of one webhook, or of all that the user may view."""

    queryset = Webhook.objects.all()
    filters_class = StatisticFilters

    @extend_schema(
        operation_id="webhooks_statistics",
        parameters=[StatisticFilters],
        responses=StatisticsSerializer,
    )
    def summary(self, request: Request) -> Response:
        """Counts of attempts, and histograms of their times: in total, and by minute or hour."""
        filters = StatisticFilters(request.query_params)
        filters.is_valid(raise_exception=True)
        webhooks = permissions.visible_webhooks(request.user)
        if "webhook" in filters.validated_data:
            webhooks = webhooks.filter(pk=filters.validated_data["webhook"])
        ids = list(webhooks.values_list("pk", flat=True))
        since = filters.asked_since
        total, series = statistics.series(ids, filters.asked_period, since)
        shown = {"since": since, "total": total, "series": series}
        return Response(StatisticsSerializer(shown).data)


class StatusViewSet(StrictViewSet):
    """The status: each problem with its remedy, as on the status page."""

    queryset = Delivery.objects.all()

    @extend_schema(operation_id="webhooks_status", responses=StatusSerializer)
    def current(self, request: Request) -> Response:
        """Alarms, and the numbers of deliveries and events, as far as the user may view them."""
        return Response(StatusSerializer(read_status(request.user).figures()).data)


class WhyViewSet(StrictViewSet):
    """Why nothing arrived: a verdict for each webhook that the user may view."""

    queryset = Webhook.objects.all()
    filters_class = WhyFilters

    @extend_schema(operation_id="webhooks_why", parameters=[WhyFilters], responses=WhySerializer)
    def why(self, request: Request) -> Response:
        """Why each webhook sent nothing, or that it did: about the last change of an object, about an event, about the
        changes of a request, or about the last changes of the models of one webhook."""
        filters = WhyFilters(request.query_params)
        filters.is_valid(raise_exception=True)
        try:
            verdicts = why(**filters.question, user=request.user)
        except UnknownObject as error:
            raise NotFound(str(error)) from None
        return Response(WhySerializer({"verdicts": verdicts}).data)
