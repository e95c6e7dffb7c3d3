"""Runs as the REST API reads and begins them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from django.utils.translation import gettext_lazy as _
from rest_framework import serializers
from rest_framework.exceptions import ValidationError

from webhooks.api.fields import NamedSerializer, RunKindField, RunStateField, refuse_unknown
from webhooks.api.filters import DeliveryFilters, EventFilters, QueryFilters
from webhooks.models import Run, RunKind

MAX_HOURS = 24 * 3660

# They have other URLs, because they need a webhook and a time.
SINCE = (RunKind.RECOVER, RunKind.BACKFILL)


class RunSerializer(serializers.ModelSerializer[Run]):
    """``total`` is null until a worker has counted the rows. ``percent`` is the share of them that the run is past."""

    kind = RunKindField(read_only=True)
    filters = serializers.DictField(read_only=True)
    state = RunStateField(read_only=True)
    percent = serializers.IntegerField(read_only=True, allow_null=True)

    class Meta:
        model = Run
        ref_name = "RqWebhookRun"
        fields = (
            "id", "kind", "filters", "requested_by", "state", "total", "done", "failed", "skipped", "percent",
            "problem", "created", "finished_at",
        )  # fmt: skip
        read_only_fields = fields


class StartSerializer(NamedSerializer):
    """Fields that are unknown are refused."""

    dry_run = serializers.BooleanField(default=False, help_text=_("Count the rows and change nothing."))

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            refuse_unknown(set(data) - {"csrfmiddlewaretoken"}, list(self.fields), "field")
        return super().to_internal_value(data)


class NewRunSerializer(StartSerializer):
    """``filters`` are the query parameters of the list of deliveries, for a replay of the list of events.
    ``state`` is a list."""

    kind = RunKindField([(kind.value, kind.label) for kind in RunKind if kind not in SINCE])
    filters = serializers.DictField(default=dict, help_text='For example {"webhook": 4, "state": ["failed"]}.')
    all = serializers.BooleanField(default=False, help_text=_("Take all rows. Without filters only."))

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        filters_class: type[QueryFilters] = EventFilters if attrs["kind"] == RunKind.REPLAY else DeliveryFilters
        filters = filters_class(attrs["filters"])
        try:
            refuse_unknown(list(attrs["filters"]), list(filters.fields), "filter")
            filters.is_valid(raise_exception=True)
        except ValidationError as error:
            raise ValidationError({"filters": error.detail}) from None
        if attrs["all"] and filters.chosen:
            raise ValidationError({"all": _("Give either filters or all.")})
        return attrs | {"filters": filters.chosen}


class SinceSerializer(StartSerializer):
    """Give ``since`` or ``hours``."""

    since = serializers.DateTimeField(required=False, help_text=_("The first time that is included."))
    hours = serializers.IntegerField(
        required=False, min_value=1, max_value=MAX_HOURS, help_text=_("Or how many hours to go back.")
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("since" in attrs) == ("hours" in attrs):
            raise ValidationError(_("Give either since or hours."))
        since = attrs.get("since") or datetime.now(UTC) - timedelta(hours=attrs["hours"])
        return attrs | {"since": since}


class NamedRowSerializer(NamedSerializer):
    """A delivery or an event. The name is empty if the user may not view it."""

    id = serializers.CharField()
    name = serializers.CharField()


class RunPreviewSerializer(NamedSerializer):
    """The answer to a dry run: the number of rows, how many of them are deliveries and events, and the oldest ones. If
    counting takes too long, ``is_complete`` is false: there are at least so many."""

    count = serializers.IntegerField()
    is_complete = serializers.BooleanField()
    deliveries = serializers.IntegerField()
    events = serializers.IntegerField()
    sample = NamedRowSerializer(many=True)
