"""Query parameters that filter lists, and their pagination.

An invalid value is refused, never ignored: the same parameters choose what a bulk retry sends again. Pages need no
count and no offset, so they stay fast on long tables.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from django.core.exceptions import ValidationError as ModelValidationError
from django.db.models import Q
from django.http import QueryDict
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request

from webhooks.api.fields import ChoiceField, MomentField, MultipleChoiceField
from webhooks.conf import conf
from webhooks.db import index_plans, to_utc
from webhooks.delivery.statistics import MINUTE_DAYS
from webhooks.error_kinds import ErrorKind
from webhooks.models.ids import filter_time
from webhooks.models.queue import State
from webhooks.models.run import RunKind, RunState
from webhooks.models.selection import select_deliveries, select_events
from webhooks.models.skip import Rule
from webhooks.models.statistic import Period
from webhooks.models.webhook import ACTION_FIELDS
from webhooks.models.webhook_states import IS_PAUSED

MAX_KEY = 2**63 - 1
REPEATABLE = {"state"}  # the parameters that may be given several times
KEY: Any = {"min_value": 1, "max_value": MAX_KEY, "required": False}


class QueryFilters(serializers.Serializer[Any]):
    """The filters of one list. ``lookups`` maps a parameter to a field lookup, or a boolean one to a condition."""

    lookups: ClassVar[dict[str, str | Q]] = {}

    def __init__(self, given: QueryDict | dict[str, Any] | None = None) -> None:
        """From query parameters, or from a dictionary of a JSON body."""
        # A dictionary: REST framework would ignore an empty value of a QueryDict, as in a form.
        if isinstance(given, QueryDict):
            given = given.dict() | {name: given.getlist(name) for name in REPEATABLE & given.keys()}
        super().__init__(data=given or {})

    @property
    def chosen(self) -> dict[str, Any]:
        """The values of the valid filters in plain JSON, as a run stores them."""
        return {name: _plain(value) for name, value in self.validated_data.items()}

    def narrow(self, queryset: Any) -> Any:
        """Raises ValidationError, which REST framework answers with a 400."""
        self.is_valid(raise_exception=True)
        for name, value in self.validated_data.items():
            lookup = self.lookups.get(name)
            if isinstance(lookup, Q):
                queryset = queryset.filter(lookup if value else ~lookup)
            elif lookup:
                queryset = queryset.filter(**{lookup: value})
        return queryset


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return filter_time(value)
    return sorted(value) if isinstance(value, set) else value


class WebhookFilters(QueryFilters):
    name = serializers.CharField(required=False, help_text=_("The whole name."))
    q = serializers.CharField(required=False, help_text=_("A part of the name, in capital or small letters."))
    enabled = serializers.BooleanField(required=False, help_text=_("Whether it is enabled."))
    paused = serializers.BooleanField(required=False, help_text=_("Whether it is paused: by a user, or for failures."))
    failing = serializers.BooleanField(required=False, help_text=_("Whether its last attempt failed."))
    object_type = serializers.CharField(required=False, help_text=_("A model that it sends, such as dcim.site."))
    action = ChoiceField(list(ACTION_FIELDS.values()), required=False, help_text=_("An action that it sends."))

    lookups = {
        "name": "name",
        "q": "name__icontains",
        "enabled": Q(enabled=True),
        "paused": IS_PAUSED,
        "failing": Q(failures_in_a_row__gt=0),
    }

    def narrow(self, queryset: Any) -> Any:
        webhooks = super().narrow(queryset)
        if "object_type" in self.validated_data:
            app_label, _dot, model = self.validated_data["object_type"].lower().partition(".")
            webhooks = webhooks.filter(object_types__app_label=app_label, object_types__model=model)
        if "action" in self.validated_data:
            webhooks = webhooks.filter(**{f"on_{self.validated_data['action']}": True})
        return webhooks


class ObjectFilters(QueryFilters):
    object_type = serializers.CharField(required=False, help_text=_("The label of a model, such as dcim.site."))
    object_id = serializers.CharField(required=False, help_text=_("The key of an object. Give object_type as well."))

    def validate_object_type(self, value: str) -> str:
        return value.lower()

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "object_id" in attrs and "object_type" not in attrs:
            raise ValidationError({"object_id": _("Give object_type as well: ids of different models are the same.")})
        return attrs


class SkipFilters(ObjectFilters):
    rule = ChoiceField(Rule.choices, required=False, help_text=_("What said no."))

    lookups = {"object_type": "object_type", "object_id": "object_id", "rule": "rule"}


class WhyFilters(ObjectFilters):
    """One question: an object, an event, a request, or a webhook alone."""

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


class ChangeFilters(ObjectFilters):
    """The filters by the change that happened, which deliveries share with events."""

    action = serializers.CharField(required=False, help_text=_("created, updated, deleted, or the name of an event."))
    request_id = serializers.CharField(required=False, help_text=_("The id of the request that made the change."))
    name = serializers.CharField(
        required=False, help_text=_("A part of the name of the object, in capital or small letters.")
    )
    user = serializers.CharField(required=False, help_text=_("The name of the user who made the change."))
    created_after = MomentField(required=False, help_text=_("The first time that is included."))
    created_before = MomentField(required=False, help_text=_("The first time that is not included any more."))


class EventFilters(ChangeFilters):
    failed = serializers.BooleanField(required=False, help_text=_("Whether it failed and was not replayed."))
    webhook = serializers.IntegerField(
        **KEY, help_text=_("The id of a webhook that matched it, or has a delivery of it.")
    )

    def narrow(self, queryset: Any) -> Any:
        self.is_valid(raise_exception=True)
        return select_events(self.chosen, queryset)


class DeliveryFilters(ChangeFilters):
    state = MultipleChoiceField(choices=State.choices, required=False, help_text=_("May be repeated."))
    error_kind = ChoiceField(list(ErrorKind), required=False, help_text=_("The kind of its last failure."))
    status = serializers.IntegerField(
        min_value=100, max_value=999, required=False, help_text=_("The HTTP status of its last answer.")
    )
    webhook = serializers.IntegerField(**KEY, help_text=_("The id of a webhook."))

    def narrow(self, queryset: Any) -> Any:
        self.is_valid(raise_exception=True)
        return select_deliveries(self.chosen, queryset)


class RunFilters(QueryFilters):
    kind = ChoiceField(RunKind.choices, required=False, help_text=_("What it does."))
    state = MultipleChoiceField(choices=RunState.choices, required=False, help_text=_("May be repeated."))

    lookups = {"kind": "kind", "state": "state__in"}


class StatisticFilters(QueryFilters):
    webhook = serializers.IntegerField(**KEY, help_text=_("The id of a webhook. Default: all together."))
    period = ChoiceField(
        [period.label for period in Period], required=False, help_text=_("Minutes reach back a day. Default: hours.")
    )
    since = MomentField(required=False, help_text=_("Default: 24 hours ago."))

    @property
    def asked_period(self) -> Period:
        return next(one for one in Period if one.label == self.validated_data.get("period", Period.HOUR.label))

    @property
    def asked_since(self) -> datetime:
        """The start of a period, in UTC. No earlier than this period is stored, so the response has a limit."""
        now, period = datetime.now(UTC), self.asked_period
        days = MINUTE_DAYS if period == Period.MINUTE else conf.statistic_days
        since = self.validated_data.get("since")
        first = max(to_utc(since) if since else now - timedelta(days=1), now - timedelta(days=days))
        return datetime.fromtimestamp(int(first.timestamp()) // period * period, UTC)


class NewestFirst(CursorPagination):
    """Pages by descending key, which is the order of time. ``?limit=`` sets the length of a page."""

    ordering = "-pk"
    page_size = 50
    page_size_query_param = "limit"
    page_size_query_description = "Number of results to return per page, 1 to 500."
    max_page_size = 500

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any] | None:
        try:
            with index_plans(queryset.db, may_sort=getattr(view, "may_sort", True)):
                return super().paginate_queryset(queryset, request, view)
        except (ModelValidationError, ValueError) as error:  # an invented cursor, or one of another list
            raise NotFound(self.invalid_cursor_message) from error

    def get_page_size(self, request: Request) -> int:
        limit = request.query_params.get("limit", str(self.page_size))
        if not re.fullmatch("[0-9]{1,3}", limit) or not 1 <= int(limit) <= self.max_page_size:
            refusal = _("Must be a whole number from 1 to %(most)d.") % {"most": self.max_page_size}
            raise ValidationError({"limit": [refusal]})
        return int(limit)
