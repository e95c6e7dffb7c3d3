"""The view sets of the REST API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils.decorators import method_decorator
from django.views.decorators.debug import sensitive_post_parameters
from rest_framework.decorators import action
from rest_framework.exceptions import APIException, NotFound, ParseError, PermissionDenied, ValidationError
from rest_framework.parsers import JSONParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer, MultipleChoiceField
from rest_framework.settings import api_settings
from rest_framework.versioning import QueryParameterVersioning
from rest_framework.views import APIView
from rest_framework.viewsets import GenericViewSet, ModelViewSet, ReadOnlyModelViewSet

from webhooks import permissions
from webhooks.api import serializers
from webhooks.api.filters import DeliveryFilters, EventFilters, Filters, QueryParameters, WebhookFilters
from webhooks.api.pagination import NewestFirst
from webhooks.api.permissions import permissions_for
from webhooks.api.schema import described
from webhooks.api.unknown import refuse_unknown
from webhooks.capture import recording
from webhooks.models import Delivery, Event, Webhook
from webhooks.models.validation import CONFLICT
from webhooks.operations import admin_log, deletion, retries
from webhooks.operations.retries import Done


class Conflict(APIException):
    status_code = 409
    default_code = "conflict"


class ShallowJSONParser(JSONParser):
    """Refuses JSON that is nested deeper than Python can read."""

    def parse(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().parse(*args, **kwargs)
        except RecursionError:
            raise ParseError("JSON parse error - it is nested too deep.") from None


# Those of the host, of which only REST framework's own is replaced.
PARSERS = [ShallowJSONParser if parser is JSONParser else parser for parser in APIView.parser_classes]


# The permission that a method takes for the rows that it changes.
CHANGES = {"PUT": "change", "PATCH": "change", "DELETE": "delete"}


class StrictViewSet(GenericViewSet[Any]):
    """Refuses query parameters that it does not know, and bodies that it does not read."""

    parser_classes = PARSERS
    pagination_class = NewestFirst
    filter_backends = (QueryParameters,)
    filters_class: type[Filters]
    operation = ""  # what a POST does to rows, by the name of its permission

    def get_permissions(self) -> list[Any]:
        return permissions_for(self.operation)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if self.action:  # of a method that is not allowed there is none
            self._refuse_parameters(request)

    def _refuse_parameters(self, request: Request) -> None:
        given, filters = set(request.query_params), self._filters()
        known = [*filters, *(NewestFirst.parameters if self.action == "list" else ())]
        refuse_unknown(given - _for_rest_framework(request), known, "query parameter")
        several = {name for name, field in filters.items() if isinstance(field, MultipleChoiceField)}
        if repeated := sorted(name for name in given - several if len(request.query_params.getlist(name)) > 1):
            raise ValidationError({name: ["Give it once."] for name in repeated})

    def _filters(self) -> Mapping[str, Any]:
        return self.filters_class().fields if self.action in ("list", "retry_many") else {}


def _for_rest_framework(request: Request) -> set[str]:
    """Parameters that REST framework reads itself, as the host has set it."""
    is_versioned = isinstance(request.versioning_scheme, QueryParameterVersioning)
    return {api_settings.URL_FORMAT_OVERRIDE, *([api_settings.VERSION_PARAM] if is_versioned else [])}


def _refuse_body(request: Request) -> None:
    if set(request.data) - {"csrfmiddlewaretoken"}:
        raise ValidationError("This takes no body: what it does is all in its address.")


@method_decorator(sensitive_post_parameters("secret", "secret_headers"), name="dispatch")
class WebhookViewSet(StrictViewSet, ModelViewSet[Webhook]):
    """Webhooks: which changes of which models are sent where."""

    queryset = Webhook.objects.all()
    serializer_class = serializers.WebhookSerializer
    filters_class = WebhookFilters
    lookup_value_regex = r"\d{1,18}"

    def get_queryset(self) -> QuerySet[Webhook]:
        webhooks = Webhook.objects.prefetch_related("object_types")
        action = CHANGES.get(str(self.request.method))
        if action:
            return permissions.allowed(self.request.user, action, webhooks)
        return permissions.visible_webhooks(self.request.user, webhooks)

    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        try:
            with transaction.atomic(recording.database()):
                return super().create(request, *args, **kwargs)
        except IntegrityError:
            raise Conflict(CONFLICT) from None

    def update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        try:
            with transaction.atomic(recording.database()):
                return super().update(request, *args, **kwargs)
        except Webhook.DoesNotExist:
            raise NotFound("The webhook was deleted meanwhile.") from None
        except IntegrityError:
            raise Conflict(CONFLICT) from None

    def perform_create(self, serializer: BaseSerializer[Webhook]) -> None:
        self._save(serializer, "add")
        webhook: Webhook = serializer.instance  # type: ignore[assignment]
        admin_log.note(self.request.user, webhook, admin_log.ADDITION, [{"added": {}}])

    def perform_update(self, serializer: BaseSerializer[Webhook]) -> None:
        webhook: Webhook = serializer.instance  # type: ignore[assignment]
        before = admin_log.state_of(webhook)
        self._save(serializer, "change")
        # Whoever has the previous secret forgotten changes that.
        given = [name.removeprefix("forget_") for name in serializer.validated_data]
        if changes := admin_log.differing(webhook, before, given):
            admin_log.note(self.request.user, webhook, admin_log.CHANGE, changes)

    def _save(self, serializer: BaseSerializer[Webhook], action: str) -> None:
        webhook = serializer.save()
        if not permissions.may(self.request.user, action, webhook):
            raise PermissionDenied(f"You may not {action} a webhook that is as this one would be.")
        if webhook.enabled:
            # What waited while it was disabled can go out.
            recording.wake_on_commit()

    def perform_destroy(self, instance: Webhook) -> None:
        with transaction.atomic(recording.database()):
            admin_log.note(self.request.user, instance, admin_log.DELETION)
            deletion.delete(Webhook.objects.filter(pk=instance.pk))


class EventViewSet(StrictViewSet, ReadOnlyModelViewSet[Event]):
    """Events: what changed, and why some failed."""

    queryset = Event.objects.all()
    filters_class = EventFilters
    lookup_value_regex = r"\d{1,18}"

    def get_queryset(self) -> QuerySet[Event]:
        events = Event.objects.all() if self.detail else Event.objects.for_list()
        return permissions.visible_events(self.request.user, events)

    def get_serializer_class(self) -> Any:
        return serializers.EventDetailSerializer if self.detail else serializers.EventSerializer


class DeliveryViewSet(StrictViewSet, ReadOnlyModelViewSet[Delivery]):
    """Deliveries: what is sent, what came of it, Retry and Discard."""

    queryset = Delivery.objects.all()
    filters_class = DeliveryFilters
    lookup_value_regex = "[0-9a-fA-F-]{32,36}"

    @classmethod
    def as_view(cls, actions: Any = None, **initkwargs: Any) -> Any:
        view = super().as_view(actions, **initkwargs)
        # A few at a time are retried in one transaction, which must not be that of the request: workers wait for the
        # rows. The other views stay as they are: REST framework rolls back where it answers with an error.
        return transaction.non_atomic_requests(view) if "retry_many" in (actions or {}).values() else view

    def get_queryset(self) -> QuerySet[Delivery]:
        deliveries = Delivery.objects.for_detail() if self.detail else Delivery.objects.for_list()
        return permissions.visible_deliveries(self.request.user, deliveries)

    def get_serializer_class(self) -> Any:
        return serializers.DeliveryDetailSerializer if self.detail else serializers.DeliverySerializer

    @described(request=None)
    @action(detail=True, methods=["post"], operation="retry")
    def retry(self, request: Request, pk: str) -> Response:
        """Send a failed or discarded delivery again, or one that waits for its next attempt now."""
        return self._do(
            retries.retry,
            "only what failed, was discarded or is between attempts can be sent again, "
            "and nothing of a deleted webhook",
        )

    @described(request=None)
    @action(detail=True, methods=["post"], operation="discard")
    def discard(self, request: Request, pk: str) -> Response:
        """End a delivery without sending it."""
        return self._do(retries.discard, "only waiting, pending and failed deliveries can be discarded")

    def _do(self, perform: Callable[[Any, Any], Done], otherwise: str) -> Response:
        _refuse_body(self.request)
        delivery = self.get_object()
        if not permissions.may(self.request.user, self.operation, delivery):
            raise PermissionDenied
        if not perform(Delivery.objects.filter(pk=delivery.pk), self.request.user).changed:
            raise Conflict(f"Delivery {delivery.pk} is {delivery.state}: {otherwise}.")
        return Response(self.get_serializer(self.get_object()).data)

    @described(
        operation_id="webhooks_deliveries_retry_many",
        filters=True,
        request=None,
        responses=serializers.RetriedSerializer,
    )
    @action(detail=False, methods=["post"], url_path="retry", url_name="retry-many", operation="retry")
    def retry_many(self, request: Request) -> Response:
        """Send all failed ones again that the query parameters choose, discarded and pending ones only with
        ``state=discarded`` and ``state=pending``. At least one parameter is demanded."""
        _refuse_body(request)
        filters = DeliveryFilters(request.query_params)
        if not set(request.query_params) & set(filters.fields):
            raise ValidationError(f"Give at least one filter as a query parameter: {', '.join(filters.fields)}.")
        chosen = filters.narrow(
            permissions.allowed(request.user, "retry", permissions.visible_deliveries(request.user))
        )
        if "state" not in request.query_params:
            chosen = chosen.failed()
        done = retries.retry(chosen.retriable(), request.user, retries.REQUEST_SECONDS)
        answer = {"retried": done.changed, "is_complete": not done.is_cut_short}
        return Response(serializers.RetriedSerializer(answer).data)
