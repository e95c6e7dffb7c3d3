"""Webhooks, deliveries and events in NetBox's GraphQL API, to read.

Each query is a GET of the REST API in the same process. So permissions, constraints, filters, and the values that are
hidden are those of REST. The types are made from its serializers.
"""

import copy
import json
from functools import cache
from typing import Any
from urllib.parse import urlencode

import strawberry
from django.http import HttpRequest, QueryDict
from netbox.graphql.pagination import OffsetPaginationInput
from netbox.graphql.scalars import BigInt
from rest_framework import serializers
from rest_framework.utils.encoders import JSONEncoder
from strawberry.scalars import JSON
from strawberry.types import Info

from webhooks.api.base import QueryFilters
from webhooks.api.deliveries import DeliveryFilters
from webhooks.api.events import EventFilters
from webhooks.api.fields import IsSetField
from webhooks.contrib.netbox.api import serializers as rows
from webhooks.contrib.netbox.api import views

TEXTS = (
    serializers.CharField, serializers.ChoiceField, serializers.DateTimeField, serializers.UUIDField,
    serializers.HyperlinkedIdentityField,
)  # fmt: skip


def scalar_of(field: Any) -> Any:
    match field:
        case serializers.ListField() | serializers.MultipleChoiceField():
            return list[scalar_of(getattr(field, "child", None) or serializers.CharField())]
        case serializers.BooleanField() | IsSetField():
            return bool
        case serializers.IntegerField():
            return BigInt
    return str if isinstance(field, TEXTS) or field.field_name == "display" else JSON


@cache
def type_of(serializer_class: Any) -> Any:
    """The type of the objects that this serializer shows."""
    shown = {name: field for name, field in serializer_class().fields.items() if not field.write_only}
    annotations = {name: annotation_of(field) | None for name, field in shown.items()}
    body = {"__annotations__": annotations, **dict.fromkeys(annotations)}
    return strawberry.type(type(serializer_class.Meta.ref_name, (), body))


def annotation_of(field: Any) -> Any:
    match field:
        case serializers.ListSerializer():
            child: Any = type(field.child)
            return list[type_of(child)]
        case serializers.Serializer():
            return type_of(type(field))
    return scalar_of(field)


def instance_of(serializer: Any, shown: Any) -> Any:
    """What a serializer shows as an object of its type."""
    match serializer:
        case serializers.ListSerializer():
            return [instance_of(serializer.child, row) for row in shown]
        case serializers.Serializer() if shown is not None:
            values = {name: instance_of(serializer.fields[name], value) for name, value in shown.items()}
            return type_of(type(serializer))(**values)
    return shown


def input_of(name: str, filters: type[QueryFilters]) -> Any:
    """The filters of a list."""
    annotations = {name: scalar_of(field) | None for name, field in filters().fields.items()}
    body = {"__annotations__": annotations, **dict.fromkeys(annotations, strawberry.UNSET)}
    return strawberry.input(type(name, (), body))


def given(values: Any) -> dict[str, Any]:
    """The parameters that a query gives."""
    return {name: value for name, value in vars(values).items() if value not in (None, strawberry.UNSET)}


def read(request: HttpRequest, viewset: Any, parameters: dict[str, Any], pk: str | None = None) -> Any:
    """Send a GET request to a view of the REST API as the same user. None if they may not view that."""
    asked: Any = copy.copy(request)
    query = urlencode(parameters, doseq=True)
    asked.method, asked.GET = "GET", QueryDict(query)
    asked.META = {**request.META, "HTTP_ACCEPT": "application/json", "QUERY_STRING": query}
    view = viewset.as_view({"get": "list" if pk is None else "retrieve"}, detail=pk is not None)
    answer = view(asked) if pk is None else view(asked, pk=pk)
    if answer.status_code in (403, 404):
        return None
    shown = json.loads(json.dumps(answer.data, cls=JSONEncoder))
    if answer.status_code != 200:
        raise ValueError(json.dumps(shown))
    return shown


def one_of(viewset: Any, serializer_class: Any) -> Any:
    def resolve(info: Info, id: strawberry.ID) -> Any:
        return instance_of(serializer_class(), read(info.context.request, viewset, {}, str(id)))

    resolve.__annotations__["return"] = type_of(serializer_class) | None
    return strawberry.field(resolver=resolve)


def list_of(viewset: Any, serializer_class: Any, filters_type: Any) -> Any:
    def resolve(info: Info, filters: Any = None, pagination: OffsetPaginationInput | None = None) -> Any:
        pages = given(pagination) if pagination else {}
        parameters = (given(filters) if filters else {}) | {
            name: pages[name] for name in pages if pages[name] or name != "offset"
        }
        page = read(info.context.request, viewset, parameters)
        return [instance_of(serializer_class(), row) for row in page["results"]] if page else []

    resolve.__annotations__ |= {"filters": filters_type | None, "return": list[type_of(serializer_class)]}
    return strawberry.field(resolver=resolve)


RqWebhookFilter = input_of("RqWebhookFilter", views.WebhookFilters)
RqDeliveryFilter = input_of("RqWebhookDeliveryFilter", DeliveryFilters)
RqEventFilter = input_of("RqWebhookEventFilter", EventFilters)


@strawberry.type(name="Query")
class WebhooksQuery:
    rq_webhook = one_of(views.WebhookViewSet, rows.WebhookSerializer)
    rq_webhook_list = list_of(views.WebhookViewSet, rows.WebhookSerializer, RqWebhookFilter)
    rq_webhook_delivery = one_of(views.DeliveryViewSet, rows.DeliveryDetailSerializer)
    rq_webhook_delivery_list = list_of(views.DeliveryViewSet, rows.DeliverySerializer, RqDeliveryFilter)
    rq_webhook_event = one_of(views.EventViewSet, rows.EventDetailSerializer)
    rq_webhook_event_list = list_of(views.EventViewSet, rows.EventSerializer, RqEventFilter)


schema = [WebhooksQuery]
