"""The views of the REST API, and the permissions that they require."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils.decorators import method_decorator
from django.views.decorators.debug import sensitive_post_parameters
from rest_framework.decorators import action
from rest_framework.exceptions import APIException, NotFound, ParseError, PermissionDenied, ValidationError
from rest_framework.parsers import JSONParser
from rest_framework.permissions import BasePermission, DjangoModelPermissions
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer, MultipleChoiceField
from rest_framework.settings import api_settings
from rest_framework.versioning import QueryParameterVersioning
from rest_framework.views import APIView
from rest_framework.viewsets import GenericViewSet, ModelViewSet, ReadOnlyModelViewSet

from webhooks import permissions
from webhooks.api import serializers
from webhooks.api.fields import refuse_unknown
from webhooks.api.filters import DeliveryFilters, EventFilters, FilterBackend, Filters, NewestFirst, WebhookFilters
from webhooks.capture import recording
from webhooks.models import Delivery, Event, Webhook
from webhooks.models.validation import CONFLICT
from webhooks.operations import history, retries
from webhooks.operations.retries import Result
from webhooks.operations.webhooks import delete_webhooks

try:
    from drf_spectacular.utils import extend_schema
except ImportError:  # optional

    def extend_schema(**kwargs: Any) -> Callable[[Any], Any]:  # type: ignore[misc]
        return lambda view: view


VIEW = ["%(app_label)s.view_%(model_name)s"]


class ModelPermissions(DjangoModelPermissions):
    """Django's permissions for the model. Unlike REST framework's own class, reading requires one too."""

    perms_map = {**DjangoModelPermissions.perms_map, "GET": VIEW, "HEAD": VIEW, "OPTIONS": VIEW}

    def has_permission(self, request: Request, view: Any) -> bool:
        # A user model may lack has_perms().
        needed = self.get_required_permissions(str(request.method), view.queryset.model)
        user: Any = request.user
        return bool(user and user.is_authenticated) and all(permissions.has_perm(user, one) for one in needed)


def _model_permissions(found: list[Any]) -> Iterator[DjangoModelPermissions]:
    """The instances of DjangoModelPermissions, also inside of ``A & B``."""
    for one in found:
        if isinstance(one, DjangoModelPermissions):
            yield one
        elif not isinstance(one, BasePermission):
            yield from _model_permissions([inner for name, inner in vars(one).items() if name in ("op1", "op2")])


class Conflict(APIException):
    status_code = 409
    default_code = "conflict"


class ShallowJSONParser(JSONParser):
    """Refuses JSON with more levels than Python can parse."""

    def parse(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().parse(*args, **kwargs)
        except RecursionError:
            raise ParseError("JSON parse error - it is nested too deep.") from None


class StrictViewSet(GenericViewSet[Any]):
    """Refuses unknown query parameters, and bodies where it reads none."""

    parser_classes = [ShallowJSONParser if parser is JSONParser else parser for parser in APIView.parser_classes]
    pagination_class = NewestFirst
    filter_backends = (FilterBackend,)
    filters_class: type[Filters]
    operation = ""  # the permission that a POST requires, such as ``retry``; empty if it creates a row

    def get_permissions(self) -> list[Any]:
        """The host's ``DEFAULT_PERMISSION_CLASSES`` and ours: all of them must agree."""
        classes: list[Any] = [*api_settings.DEFAULT_PERMISSION_CLASSES, ModelPermissions]
        found = [one() for one in classes]
        if self.operation:  # otherwise a POST requires the permission to add a row
            for one in _model_permissions(found):
                one.perms_map = {**one.perms_map, "POST": [*VIEW, f"%(app_label)s.{self.operation}_%(model_name)s"]}
        return found

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if not self.action:  # the method is not allowed
            return
        filters = self.filters_class().fields if self.action in ("list", "retry_many") else {}
        framework = {api_settings.URL_FORMAT_OVERRIDE}  # REST framework reads these parameters itself
        if isinstance(request.versioning_scheme, QueryParameterVersioning):
            framework.add(api_settings.VERSION_PARAM)
        known = [*filters, *(NewestFirst.parameters if self.action == "list" else ())]
        refuse_unknown(set(request.query_params) - framework, known, "query parameter")
        for name in request.query_params:
            if len(request.query_params.getlist(name)) > 1 and not isinstance(filters.get(name), MultipleChoiceField):
                raise ValidationError({name: ["Give it once."]})


def _refuse_body(request: Request) -> None:
    if set(request.data) - {"csrfmiddlewaretoken"}:
        raise ValidationError("This takes no body: the URL says all.")


@contextmanager
def _saving() -> Iterator[None]:
    """One transaction. A conflict with another user's change is a 404 or a 409."""
    try:
        with transaction.atomic(recording.database()):
            yield
    except Webhook.DoesNotExist:
        raise NotFound("The webhook was deleted meanwhile.") from None
    except IntegrityError:
        raise Conflict(CONFLICT) from None


@method_decorator(sensitive_post_parameters("secret", "secret_headers"), name="dispatch")
class WebhookViewSet(StrictViewSet, ModelViewSet[Webhook]):
    """Webhooks: the changes to send, and the URL of the receiver."""

    queryset = Webhook.objects.all()
    serializer_class = serializers.WebhookSerializer
    filters_class = WebhookFilters
    lookup_value_regex = r"\d{1,18}"

    def get_queryset(self) -> QuerySet[Webhook]:
        webhooks = Webhook.objects.prefetch_related("object_types")
        change = {"PUT": "change", "PATCH": "change", "DELETE": "delete"}.get(str(self.request.method))
        if change:
            return permissions.allowed(self.request.user, change, webhooks)
        return permissions.visible_webhooks(self.request.user, webhooks)

    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        with _saving():
            return super().create(request, *args, **kwargs)

    def update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        with _saving():
            return super().update(request, *args, **kwargs)

    def perform_create(self, serializer: BaseSerializer[Webhook]) -> None:
        webhook = self._save(serializer, "add")
        history.record(self.request.user, [webhook], history.ADDITION, [{"added": {}}])

    def perform_update(self, serializer: BaseSerializer[Webhook]) -> None:
        webhook: Webhook = serializer.instance  # type: ignore[assignment]
        before = history.field_values(webhook)
        self._save(serializer, "change")
        # ``forget_previous_secret`` changes ``previous_secret``.
        given = [name.removeprefix("forget_") for name in serializer.validated_data]
        if changes := history.describe_changes(webhook, before, given):
            history.record(self.request.user, [webhook], history.CHANGE, changes)

    def _save(self, serializer: BaseSerializer[Webhook], action: str) -> Webhook:
        webhook = serializer.save()
        if not permissions.may(self.request.user, action, webhook):
            raise PermissionDenied(f"You may not {action} a webhook with these values.")
        if webhook.enabled:
            recording.wake_on_commit()  # deliveries may have waited while it was disabled
        return webhook

    def perform_destroy(self, instance: Webhook) -> None:
        with transaction.atomic(recording.database()):
            history.record(self.request.user, [instance], history.DELETION)
            delete_webhooks(Webhook.objects.filter(pk=instance.pk))


class EventViewSet(StrictViewSet, ReadOnlyModelViewSet[Event]):
    """Events: committed changes of objects, and why some failed."""

    queryset = Event.objects.all()
    filters_class = EventFilters
    lookup_value_regex = r"\d{1,18}"

    def get_queryset(self) -> QuerySet[Event]:
        events = Event.objects.all() if self.detail else Event.objects.for_list()
        return permissions.visible_events(self.request.user, events)

    def get_serializer_class(self) -> Any:
        return serializers.EventDetailSerializer if self.detail else serializers.EventSerializer


class DeliveryViewSet(StrictViewSet, ReadOnlyModelViewSet[Delivery]):
    """Deliveries: one Event to one webhook, with its attempts; Retry and Discard."""

    queryset = Delivery.objects.all()
    filters_class = DeliveryFilters
    lookup_value_regex = "[0-9a-fA-F-]{32,36}"

    @classmethod
    def as_view(cls, actions: Any = None, **initkwargs: Any) -> Any:
        view = super().as_view(actions, **initkwargs)
        # A bulk retry commits a few rows at a time, because workers wait for the rows: no transaction for the request.
        return transaction.non_atomic_requests(view) if "retry_many" in (actions or {}).values() else view

    def get_queryset(self) -> QuerySet[Delivery]:
        deliveries = Delivery.objects.for_detail() if self.detail else Delivery.objects.for_list()
        return permissions.visible_deliveries(self.request.user, deliveries)

    def get_serializer_class(self) -> Any:
        return serializers.DeliveryDetailSerializer if self.detail else serializers.DeliverySerializer

    @extend_schema(request=None)
    @action(detail=True, methods=["post"], operation="retry")
    def retry(self, request: Request, pk: str) -> Response:
        """Send a failed or discarded delivery again, or a pending one now, before its next attempt is due."""
        refusal = "retry a failed or discarded delivery, or one between attempts, of a webhook that is not deleted"
        return self._perform(retries.retry, refusal)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"], operation="discard")
    def discard(self, request: Request, pk: str) -> Response:
        """End a delivery without sending it."""
        return self._perform(retries.discard, "discard a waiting, pending or failed delivery")

    def _perform(self, perform: Callable[[Any, Any], Result], refusal: str) -> Response:
        _refuse_body(self.request)
        delivery = self.get_object()
        if not permissions.may(self.request.user, self.operation, delivery):
            raise PermissionDenied
        if not perform(Delivery.objects.filter(pk=delivery.pk), self.request.user).changed:
            raise Conflict(f"Delivery {delivery.pk} is {delivery.state}. You can only {refusal}.")
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(
        operation_id="webhooks_deliveries_retry_many",
        filters=True,
        request=None,
        responses=serializers.RetriedSerializer,
    )
    @action(detail=False, methods=["post"], url_path="retry", url_name="retry-many", operation="retry")
    def retry_many(self, request: Request) -> Response:
        """Send again all failed deliveries that the query parameters choose. At least one parameter is required.
        ``state=discarded`` and ``state=pending`` choose those instead."""
        _refuse_body(request)
        filters = DeliveryFilters(request.query_params)
        if not set(request.query_params) & set(filters.fields):
            raise ValidationError(f"Give at least one filter as a query parameter: {', '.join(filters.fields)}.")
        visible = permissions.visible_deliveries(request.user)
        chosen = filters.narrow(permissions.allowed(request.user, "retry", visible))
        if "state" not in request.query_params:
            chosen = chosen.failed()
        done = retries.retry(chosen.retriable(), request.user, retries.REQUEST_SECONDS)
        result = {"retried": done.changed, "is_complete": done.is_complete}
        return Response(serializers.RetriedSerializer(result).data)
