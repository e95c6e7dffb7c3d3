"""Statistics, the status, and why nothing arrived, in the REST API."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django.utils.translation import gettext_lazy as _
from rest_framework import serializers
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from webhooks.api.base import KEY, QueryFilters, StrictViewSet, field_of
from webhooks.api.fields import (
    CauseField,
    ChoiceField,
    LevelField,
    MomentField,
    NamedSerializer,
    ProblemField,
    RuleField,
    StateField,
    TargetField,
    extend_schema,
)
from webhooks.api.webhooks import WebhookSummarySerializer
from webhooks.delivery.rollup import MINUTE_DAYS
from webhooks.ground.conf import conf
from webhooks.ground.db import to_utc
from webhooks.insight import statistics
from webhooks.insight.status import read_status
from webhooks.insight.why import UnknownObject, why
from webhooks.models import Delivery, Webhook, permissions
from webhooks.models.filters import FILTERS
from webhooks.models.statistic import Period


class TimesSerializer(NamedSerializer):
    """A histogram in milliseconds. ``buckets`` has counts by upper bound, and ``more``."""

    count = serializers.IntegerField()
    total_ms = serializers.IntegerField()
    median_ms = serializers.FloatField(allow_null=True)
    p95_ms = serializers.FloatField(allow_null=True)
    buckets = serializers.DictField(child=serializers.IntegerField())


class FiguresSerializer(NamedSerializer):
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


class PeriodSerializer(FiguresSerializer):
    start = MomentField()


class StatisticsSerializer(NamedSerializer):
    """``series`` has the minutes or hours with attempts in order. Each time in it is a start, in UTC."""

    since = MomentField()
    total = FiguresSerializer()
    series = PeriodSerializer(many=True)


class ConsequenceSerializer(NamedSerializer):
    """A problem that follows from another."""

    level = LevelField()
    problem = ProblemField()
    text = serializers.CharField()
    remedy = serializers.CharField(allow_blank=True)
    command = serializers.CharField(allow_blank=True, help_text="What to type.")
    webhook = serializers.IntegerField(allow_null=True, help_text="The id of its webhook, if it has one.")
    since = MomentField(allow_null=True)
    waiting = serializers.IntegerField(
        help_text="Deliveries and changes that wait because of it. Stops at 500 for a webhook, and else at 10,000."
    )
    next_probe_at = MomentField(allow_null=True)


class AlarmSerializer(ConsequenceSerializer):
    """The cause of one or more problems, and the way out."""

    around = serializers.ListField(
        child=serializers.CharField(), help_text="What else happened around the time that it began."
    )
    consequences = ConsequenceSerializer(many=True)


class StatusSerializer(NamedSerializer):
    """``level`` is the worst level of the alarms, and good without an error or a warning. Counts stop at 10,000."""

    level = LevelField()
    as_of = MomentField()
    alarms = AlarmSerializer(many=True)
    deliveries = serializers.DictField(child=serializers.IntegerField(), help_text=_("The number in each state."))
    undispatched_events = serializers.IntegerField()
    failed_events = serializers.IntegerField()
    workers = serializers.IntegerField(help_text=_("Live workers that serve the queue."))


class ChangeSerializer(NamedSerializer):
    """The change that a verdict is about. ``username`` and ``request_id`` require the permission to view its event or a
    skip of it."""

    action = serializers.CharField()
    object_type = serializers.CharField()
    object_id = serializers.CharField()
    object_repr = serializers.CharField()
    timestamp = MomentField()
    username = serializers.CharField()
    request_id = serializers.CharField()


class EarlierVerdictSerializer(NamedSerializer):
    """``text`` says why, and ``remedy`` what to do. ``target`` and ``target_id`` are where to do it."""

    webhook = WebhookSummarySerializer()
    cause = CauseField()
    text = serializers.CharField()
    remedy = serializers.CharField()
    target = TargetField(allow_null=True)
    target_id = serializers.CharField()
    change = ChangeSerializer(allow_null=True, help_text=_("Null if nothing is stored of the change."))
    event = serializers.IntegerField(allow_null=True)
    delivery = serializers.UUIDField(allow_null=True)
    state = StateField(allow_null=True)
    behind = serializers.UUIDField(allow_null=True, help_text=_("The delivery that this one waits for."))
    until = MomentField(allow_null=True, help_text=_("The next attempt, or the latest end of the wait."))
    rule = RuleField(allow_null=True)
    detail = serializers.DictField(help_text=_("What the rule wanted and what it found."))
    changed = serializers.ListField(
        child=serializers.CharField(), help_text=_("The fields that differ from the last event.")
    )
    error = serializers.CharField()


class VerdictSerializer(EarlierVerdictSerializer):
    """Why one webhook sent nothing, or that it did."""

    earlier = EarlierVerdictSerializer(allow_null=True, help_text=_("About the last change that is stored."))


class WhySerializer(NamedSerializer):
    verdicts = VerdictSerializer(many=True)


class StatisticFilters(QueryFilters):
    webhook = serializers.IntegerField(**KEY, help_text=_("The id of a webhook. Default: all together."))
    period = ChoiceField(
        [period.label for period in Period], required=False, help_text=_("Minutes reach back a day. Default: hours.")
    )
    since = MomentField(required=False, help_text=_("Default: 24 hours ago."))

    @property
    def asked_period(self) -> Period:
        return next(period for period in Period if period.label == self.validated_data.get("period", Period.HOUR.label))

    @property
    def asked_since(self) -> datetime:
        """The start of a period, in UTC. No earlier than this period is stored, so the response has a limit."""
        now, period = datetime.now(UTC), self.asked_period
        days = MINUTE_DAYS if period == Period.MINUTE else conf.statistic_days
        since = self.validated_data.get("since")
        first = max(to_utc(since) if since else now - timedelta(days=1), now - timedelta(days=days))
        return datetime.fromtimestamp(int(first.timestamp()) // period * period, UTC)


class WhyFilters(QueryFilters):
    """One question: an object, an event, a request, or a webhook alone."""

    object_type = field_of(FILTERS["object_type"])
    object_id = field_of(FILTERS["object_id"])
    event = serializers.IntegerField(**KEY, help_text=_("The id of an event."))
    request_id = serializers.CharField(required=False, help_text=_("The id of an HTTP request, or of an actor()."))
    webhook = serializers.IntegerField(
        **KEY, help_text=_("The id of a webhook. Default: all. Alone, it asks about the last changes of its models.")
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "object_type" in attrs and "object_id" not in attrs:
            raise ValidationError({"object_type": _("Give object_id as well.")})
        given = {"object_id", "event", "request_id"} & attrs.keys()
        if len(given) > 1 or (not given and "webhook" not in attrs):
            raise ValidationError(
                _("Ask for one of these: object_type with object_id, event, request_id, or webhook alone.")
            )
        return super().validate(attrs)

    @property
    def question(self) -> dict[str, Any]:
        """The arguments of ``why``."""
        asked = dict(self.validated_data)
        if "object_id" in asked:
            asked["obj"] = (asked.pop("object_type"), asked.pop("object_id"))
        return asked


class StatisticViewSet(StrictViewSet):
    """The attempts of one webhook, or of all that the user may view."""

    queryset = Webhook.objects.all()
    filters_class = StatisticFilters

    @extend_schema(operation_id="webhooks_statistics", parameters=[StatisticFilters], responses=StatisticsSerializer)
    def summary(self, request: Request, **kwargs: Any) -> Response:
        """Counts of attempts, and histograms of their times: in total, and by minute or hour."""
        filters = self.read_filters()
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
    def current(self, request: Request, **kwargs: Any) -> Response:
        """Alarms, and the numbers of deliveries and events, as far as the user may view them."""
        return Response(StatusSerializer(read_status(request.user).figures()).data)


class WhyViewSet(StrictViewSet):
    """Why nothing arrived: a verdict for each webhook that the user may view."""

    queryset = Webhook.objects.all()
    filters_class = WhyFilters

    @extend_schema(operation_id="webhooks_why", parameters=[WhyFilters], responses=WhySerializer)
    def why(self, request: Request, **kwargs: Any) -> Response:
        """Why each webhook sent nothing, or that it did: about the last change of an object, about an event, about the
        changes of a request, or about the last changes of the models of one webhook."""
        question = self.read_filters().question
        try:
            verdicts = why(**question, user=request.user)
        except UnknownObject as error:
            raise NotFound(str(error)) from None
        return Response(WhySerializer({"verdicts": verdicts}).data)
