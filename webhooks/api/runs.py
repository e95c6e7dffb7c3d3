"""Runs in the REST API: begin, watch, pause, resume and cancel them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils.decorators import method_decorator
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.exceptions import PermissionDenied, ValidationError
from rest_framework.generics import get_object_or_404
from rest_framework.mixins import ListModelMixin, RetrieveModelMixin
from rest_framework.request import Request
from rest_framework.response import Response

from webhooks.api.base import (
    IDEMPOTENCY_KEY,
    Conflict,
    QueryFilters,
    StrictViewSet,
    field_of,
    refuse_body,
    repeated_run,
    request_key_of,
)
from webhooks.api.deliveries import DeliveryFilters
from webhooks.api.events import EventFilters
from webhooks.api.fields import (
    ChoiceField,
    MomentField,
    MultipleChoiceField,
    NamedSerializer,
    ReadOnlySerializer,
    RunKindField,
    RunStateField,
    extend_schema,
    extend_schema_view,
    refuse_unknown,
)
from webhooks.delivery.runs.kinds import SINCE_FILTERS, RunKind
from webhooks.models import Run, RunState, permissions
from webhooks.models.filters import FILTERS, OPTIONS
from webhooks.operations import runs
from webhooks.operations.kinds import OF_WEBHOOK, RUN_KINDS
from webhooks.operations.run_filters import RefusedFilter

MAX_HOURS = 24 * 3660  # ten years


class RunSerializer(ReadOnlySerializer[Run]):
    """``total`` is null until a worker has counted the rows. ``percent`` is the share of them that the run is past."""

    kind = RunKindField(read_only=True)
    filters = serializers.DictField(read_only=True)
    state = RunStateField(read_only=True)
    percent = serializers.IntegerField(read_only=True, allow_null=True)

    class Meta:
        model = Run
        fields = (
            "id", "kind", "filters", "requested_by", "state", "total", "done", "failed", "skipped", "superseded",
            "percent", "problem", "created", "finished_at",
        )  # fmt: skip

    def to_representation(self, instance: Run) -> Any:
        shown = super().to_representation(instance)
        return shown | {"problem": runs.shown_problem(instance, self.context["request"].user)}


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

    # The others have separate URLs, because they need a webhook and a time.
    kind = RunKindField([(kind.name, kind.label) for kind in RUN_KINDS.values() if not kind.is_of_webhook])
    filters = serializers.DictField(default=dict, help_text='For example {"webhook": 4, "state": ["failed"]}.')
    all = serializers.BooleanField(default=False, help_text=_("Take all rows. Without filters only."))

    def get_fields(self) -> dict[str, Any]:
        options = {name: serializers.BooleanField(default=False, help_text=FILTERS[name].help) for name in OPTIONS}
        return super().get_fields() | options

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        are_events = RUN_KINDS[attrs["kind"]].listed == "event"
        filters_class: type[QueryFilters] = EventFilters if are_events else DeliveryFilters
        filters = filters_class(attrs["filters"])
        try:
            refuse_unknown(list(attrs["filters"]), list(filters.fields), "filter")
            filters.is_valid(raise_exception=True)
        except ValidationError as error:
            raise ValidationError({"filters": error.detail}) from None
        if attrs["all"] and filters.chosen:
            raise ValidationError({"all": _("Give either filters or all.")})
        options = {name: True for name in OPTIONS if attrs[name]}
        return attrs | {"filters": filters.chosen | options}


class SinceSerializer(StartSerializer):
    """Give ``since`` or ``hours``."""

    since = MomentField(required=False, help_text=_("The first time that is included."))
    hours = serializers.IntegerField(
        required=False, min_value=1, max_value=MAX_HOURS, help_text=_("Or how many hours to go back.")
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("since" in attrs) == ("hours" in attrs):
            raise ValidationError(_("Give either since or hours."))
        since = attrs.get("since") or datetime.now(UTC) - timedelta(hours=attrs["hours"])
        return attrs | {"since": since}


def since_serializer(kind: RunKind) -> type[SinceSerializer]:
    """The body of a request that begins a run of one webhook: the time, and what else the kind takes."""
    chosen = {name: field_of(FILTERS[name]) for name in kind.filters if name not in SINCE_FILTERS}
    if not chosen:
        return SinceSerializer
    name = "".join(map(str.capitalize, kind.name.split("_")))
    return type(f"{name}Serializer", (SinceSerializer,), chosen)


class RunFilters(QueryFilters):
    kind = ChoiceField(RunKindField.every, required=False, help_text=_("What it does."))
    state = MultipleChoiceField(
        choices=RunState.choices, source="state__in", required=False, help_text=_("May be repeated.")
    )


class NamedRowSerializer(NamedSerializer):
    """A delivery or an event. The name is empty if the user may not view it."""

    id = serializers.CharField()
    name = serializers.CharField()


class RunPreviewSerializer(NamedSerializer):
    """The answer to a dry run: the number of rows, how many of them are deliveries and events, and the oldest ones. The
    objects of skipped changes count as events. If counting takes too long, or events could not be judged,
    ``is_complete`` is false: there are at least so many."""

    count = serializers.IntegerField()
    is_complete = serializers.BooleanField()
    deliveries = serializers.IntegerField()
    events = serializers.IntegerField()
    left_out = serializers.IntegerField(help_text=_("Earlier events of the same objects, which a replay leaves out."))
    superseded = serializers.IntegerField(help_text=_("Superseded deliveries, which a retry or resend leaves out."))
    unreadable = serializers.IntegerField(
        help_text=_("Objects of skipped changes that cannot be read, because they are deleted.")
    )
    unjudged = serializers.IntegerField(help_text=_("Events with conditions that could not be judged."))
    note = serializers.CharField(
        help_text=_("What is left out, what waits, and why events could not be judged or nothing matches.")
    )
    sample = NamedRowSerializer(many=True)


# The description of an action that begins a run.
BEGINS: dict[str, Any] = {"responses": {201: RunSerializer, 200: RunPreviewSerializer}, "parameters": [IDEMPOTENCY_KEY]}


def beginning_of(kind: RunKind) -> Any:
    """The action that begins a run of one webhook."""
    serializer_class = since_serializer(kind)

    @extend_schema(
        operation_id=f"webhooks_webhooks_{kind.name}", description=kind.meaning, request=serializer_class, **BEGINS
    )
    def begin(self: RunViewSet, request: Request, webhook: str, **kwargs: Any) -> Response:
        given = serializer_class(data=request.data)
        given.is_valid(raise_exception=True)
        chosen_webhook: Any = get_object_or_404(permissions.visible_webhooks(request.user), pk=webhook)
        chosen = {name: value for name, value in given.validated_data.items() if value and name in kind.filters}
        return self._start(kind.name, runs.since_filters(chosen_webhook, given.validated_data["since"]) | chosen, given)

    return begin


# Recover, backfill, and what other kind begins a run of one webhook. ``urls`` has their addresses.
RunsOfWebhook = type("RunsOfWebhook", (), {name: beginning_of(RUN_KINDS[name]) for name in OF_WEBHOOK})


# A dry run may read for seconds: with ATOMIC_REQUESTS, SQLite would lock all writers out meanwhile.
@method_decorator(transaction.non_atomic_requests, name="dispatch")
@extend_schema_view(list=extend_schema(parameters=[RunFilters]))
class RunViewSet(StrictViewSet, ListModelMixin, RetrieveModelMixin, RunsOfWebhook):  # type: ignore[misc,valid-type]
    """Runs: retry, resend, discard, replay, backfill and others of many, which workers execute in the background."""

    queryset = Run.objects.all()
    serializer_class = RunSerializer
    filters_class = RunFilters

    def get_queryset(self) -> QuerySet[Run]:
        return permissions.allowed(self.request.user, "view", Run.objects.all())

    @extend_schema(request=NewRunSerializer, **BEGINS)
    def create(self, request: Request, **kwargs: Any) -> Response:
        """Begin a run, or count its rows with ``dry_run``. Workers execute it; the response does not wait for them."""
        given = NewRunSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        return self._start(given.validated_data["kind"], given.validated_data["filters"], given)

    def _start(self, kind: str, filters: dict[str, Any], given: Any) -> Response:
        user = self.request.user
        if missing := RUN_KINDS[kind].missing_permissions(user):
            refusal = _("A run of %(kind)s requires the permission %(permissions)s.")
            raise PermissionDenied(refusal % {"kind": kind, "permissions": ", ".join(missing)})
        takes_all = given.validated_data.get("all", False)
        try:
            if given.validated_data["dry_run"]:
                preview = runs.preview(kind, filters, user, takes_all, seconds=runs.PREVIEW_SECONDS)
                return Response(RunPreviewSerializer(preview).data)
            run = runs.start(kind, filters, user, takes_all=takes_all, request_key=request_key_of(self.request))
        except RefusedFilter as refused:
            problem = [str(refused)]
            raise ValidationError({"filters": {refused.filter: problem} if refused.filter else problem}) from None
        except runs.RunExists as existing:
            run = repeated_run(existing, kind, filters)
        return Response(self.get_serializer(run).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"], operation="add")
    def pause(self, request: Request, pk: str, **kwargs: Any) -> Response:
        """Let a run rest. Its earlier steps stay as they are."""
        return self._change(runs.pause, _("Run %(id)s is %(state)s. You can only pause a running one."))

    @extend_schema(request=None)
    @action(detail=True, methods=["post"], operation="add")
    def resume(self, request: Request, pk: str, **kwargs: Any) -> Response:
        """Go on with a paused run where it was."""
        return self._change(runs.resume, _("Run %(id)s is %(state)s. You can only resume a paused one."))

    @extend_schema(request=None)
    @action(detail=True, methods=["post"], operation="add")
    def cancel(self, request: Request, pk: str, **kwargs: Any) -> Response:
        """End a run. Its earlier steps stay as they are."""
        refusal = _("Run %(id)s is %(state)s. You can only cancel a running or paused one.")
        return self._change(runs.cancel, refusal)

    def _change(self, change: Callable[[Run, Any], bool], refusal: Any) -> Response:
        refuse_body(self.request)
        run = self.get_object()
        if not permissions.may(self.request.user, "add", run):
            raise PermissionDenied
        if not change(run, self.request.user):
            raise Conflict(refusal % {"id": run.pk, "state": run.get_state_display()})
        return Response(self.get_serializer(run).data)
