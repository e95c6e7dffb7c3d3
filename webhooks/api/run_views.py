"""Runs in the REST API: begin, watch, pause, resume and cancel them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext as _
from rest_framework import status
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound, PermissionDenied, ValidationError
from rest_framework.mixins import ListModelMixin, RetrieveModelMixin
from rest_framework.request import Request
from rest_framework.response import Response

from webhooks import permissions
from webhooks.api.base import Conflict, StrictViewSet, refuse_body
from webhooks.api.fields import extend_schema, extend_schema_view
from webhooks.api.filters import RunFilters
from webhooks.api.run_serializers import NewRunSerializer, RunPreviewSerializer, RunSerializer, SinceSerializer
from webhooks.models import Run, RunKind
from webhooks.operations import runs

# The responses of an action that begins a run.
STARTED = {201: RunSerializer, 200: RunPreviewSerializer}


@extend_schema_view(list=extend_schema(parameters=[RunFilters]))
class RunViewSet(StrictViewSet, ListModelMixin, RetrieveModelMixin):
    """Runs: retry, resend, discard, replay or backfill of many, which workers execute in the background."""

    queryset = Run.objects.all()
    serializer_class = RunSerializer
    filters_class = RunFilters
    lookup_value_regex = r"\d{1,18}"

    def get_queryset(self) -> QuerySet[Run]:
        return permissions.allowed(self.request.user, "view", Run.objects.all())

    @extend_schema(request=NewRunSerializer, responses=STARTED)
    def create(self, request: Request) -> Response:
        """Begin a run, or count its rows with ``dry_run``. Workers execute it; the response does not wait for them."""
        given = NewRunSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        return self._start(given.validated_data["kind"], given.validated_data["filters"], given)

    @extend_schema(operation_id="webhooks_webhooks_recover", request=SinceSerializer, responses=STARTED)
    def recover(self, request: Request, webhook: str) -> Response:
        """Send everything of a webhook again, from a time on, that did not succeed: retry its deliveries, and replay
        the events that failed before they had deliveries."""
        return self._start_since(RunKind.RECOVER, webhook)

    @extend_schema(operation_id="webhooks_webhooks_backfill", request=SinceSerializer, responses=STARTED)
    def backfill(self, request: Request, webhook: str) -> Response:
        """Send a webhook the stored events from a time on that match its models, actions and conditions of today, and
        that it did not get. It may be a new webhook."""
        return self._start_since(RunKind.BACKFILL, webhook)

    def _start_since(self, kind: RunKind, pk: str) -> Response:
        given = SinceSerializer(data=self.request.data)
        given.is_valid(raise_exception=True)
        webhook = permissions.visible_webhooks(self.request.user).filter(pk=pk).first()
        if webhook is None:
            raise NotFound
        return self._start(kind, runs.since_filters(webhook, given.validated_data["since"]), given)

    def _start(self, kind: str, filters: dict[str, Any], given: Any) -> Response:
        user = self.request.user
        if missing := [one for one in runs.PERMISSIONS[RunKind(kind)] if not permissions.has_perm(user, one)]:
            refusal = _("A run of %(kind)s requires the permission %(permissions)s.")
            raise PermissionDenied(refusal % {"kind": kind, "permissions": ", ".join(missing)})
        takes_all = given.validated_data.get("all", False)
        try:
            if given.validated_data["dry_run"]:
                found = runs.preview(kind, filters, user, takes_all, seconds=runs.PREVIEW_SECONDS)
                return Response(RunPreviewSerializer(found).data)
            run = runs.start(kind, filters, user, takes_all=takes_all)
        except runs.NoFilter:
            raise ValidationError({"filters": _("Give at least one filter, or set all to true.")}) from None
        return Response(RunSerializer(run).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"], operation="add")
    def pause(self, request: Request, pk: str) -> Response:
        """Let a run rest. Its earlier steps stay as they are."""
        return self._change(runs.pause, _("Run %(id)s is %(state)s. You can only pause a running one."))

    @extend_schema(request=None)
    @action(detail=True, methods=["post"], operation="add")
    def resume(self, request: Request, pk: str) -> Response:
        """Go on with a paused run where it was."""
        return self._change(runs.resume, _("Run %(id)s is %(state)s. You can only resume a paused one."))

    @extend_schema(request=None)
    @action(detail=True, methods=["post"], operation="add")
    def cancel(self, request: Request, pk: str) -> Response:
        """End a run. Its earlier steps stay as they are."""
        refusal = _("Run %(id)s is %(state)s. You can only cancel a running or paused one.")
        return self._change(runs.cancel, refusal)

    def _change(self, change: Callable[[Run, Any], bool], refusal: str) -> Response:
        refuse_body(self.request)
        run = self.get_object()
        if not change(run, self.request.user):
            raise Conflict(refusal % {"id": run.pk, "state": run.get_state_display()})
        return Response(RunSerializer(run).data)
