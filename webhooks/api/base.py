"""What all views share: permissions, strict query parameters, pagination, redaction and refusals.

An invalid value of a filter is refused, never ignored: the same parameters choose what a bulk retry sends again. Pages
need no count and no offset, so they stay fast on long tables.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from datetime import datetime
from typing import Any, TypeVar

from django.core.exceptions import ValidationError as ModelValidationError
from django.db.models import QuerySet
from django.http import QueryDict
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers
from rest_framework.exceptions import APIException, NotFound, ParseError, ValidationError
from rest_framework.pagination import CursorPagination
from rest_framework.permissions import BasePermission, DjangoModelPermissions
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.settings import api_settings
from rest_framework.utils.encoders import JSONEncoder
from rest_framework.utils.urls import replace_query_param
from rest_framework.viewsets import GenericViewSet

from webhooks.api.fields import ChoiceField, MomentField, MultipleChoiceField, header, refuse_unknown
from webhooks.ground.db.session import index_plans
from webhooks.ground.text.json_text import replace_half_surrogates
from webhooks.insight.paging import Found, LongList
from webhooks.models import Event, Run, permissions
from webhooks.models.filters import Filter, Rows, filter_time, filters_of, incomplete
from webhooks.models.permissions.redaction import Redaction
from webhooks.operations import runs

T = TypeVar("T")

VIEW = ["%(app_label)s.view_%(model_name)s"]
KEY: Any = {"min_value": 1, "max_value": 2**63 - 1, "required": False}  # of a filter by a primary key


class QueryFilters(serializers.Serializer[Any]):
    """The filters of one list. The source of each is a lookup of its rows."""

    def __init__(self, given: QueryDict | dict[str, Any] | None = None) -> None:
        """From query parameters, or from a dictionary of a JSON body."""
        # A dictionary: REST framework would ignore an empty value of a QueryDict, as in a form.
        if isinstance(given, QueryDict):
            given = given.dict() | {name: given.getlist(name) for name in self.repeatable() & given.keys()}
        super().__init__(data=given or {})

    @classmethod
    def repeatable(cls) -> set[str]:
        """The parameters that may be given several times."""
        # DRF's _declared_fields: an instance has them in ``fields``, but the schema asks the class.
        fields: dict[str, Any] = cls._declared_fields
        return {name for name, field in fields.items() if isinstance(field, MultipleChoiceField)}

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if problems := incomplete(attrs):
            raise ValidationError(problems)
        return attrs

    @property
    def chosen(self) -> dict[str, Any]:
        """The values of the valid filters in plain JSON, as a run stores them."""
        return {name: _plain(value) for name, value in self.validated_data.items()}

    def narrow(self, queryset: Any) -> Any:
        """The rows that match all valid filters."""
        return queryset.filter(**self.validated_data)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return filter_time(value)
    return sorted(value) if isinstance(value, set) else value


class LabelField(serializers.CharField):
    def to_internal_value(self, data: Any) -> str:
        return super().to_internal_value(data).lower()


FIELDS: dict[str, Any] = {
    "model": LabelField,
    "webhook": serializers.IntegerField,
    "choice": ChoiceField,
    "choices": MultipleChoiceField,
    "number": serializers.IntegerField,
    "flag": serializers.BooleanField,
    "moment": MomentField,
}


def field_of(filter_: Filter) -> Any:
    """The query parameter for a filter."""
    declared: dict[str, Any] = {"required": False, "help_text": filter_.help}
    match filter_.type:
        case "number" | "webhook":
            declared |= {"min_value": filter_.bounds[0], "max_value": filter_.bounds[1]}
        case "choice" | "choices":
            declared |= {"choices": filter_.choices()}
    return FIELDS.get(filter_.type, serializers.CharField)(**declared)


def query_filters(rows: Rows, *but: str) -> type[QueryFilters]:
    """The query parameters for all filters of these rows, except some."""
    fields = {name: field_of(declared) for name, declared in filters_of(rows).items() if name not in but}
    return type(f"{rows.capitalize()}Filters", (QueryFilters,), fields)


class NewestFirst(CursorPagination):
    """Pages by descending key, which is the order of time. ``?limit=`` sets the length of a page."""

    ordering = "-pk"
    page_size = 50
    page_size_query_param = "limit"
    page_size_query_description = "Number of results to return per page, 1 to 500."
    max_page_size = 500

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any] | None:
        try:
            with index_plans(queryset.db, may_sort=True):
                return super().paginate_queryset(queryset, request, view)
        except (ModelValidationError, ValueError) as error:  # an invented cursor, or one of another list
            raise NotFound(self.invalid_cursor_message) from error

    def get_page_size(self, request: Request) -> int:
        limit = request.query_params.get("limit", str(self.page_size))
        if not re.fullmatch("[0-9]{1,3}", limit) or not 1 <= int(limit) <= self.max_page_size:
            refusal = _("Must be a whole number from 1 to %(most)d.") % {"most": self.max_page_size}
            raise ValidationError({"limit": [refusal]})
        return int(limit)


class LongPages(NewestFirst):
    """Pages that read few rows of a long table, see ``insight.paging``: one may have fewer rows than fit, or none,
    and a next page."""

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any] | None:
        self.url, size, filters = request.build_absolute_uri(), self.get_page_size(request), view.read_filters().chosen
        try:
            page: Found = view.long_list(filters).page(size, request.query_params.get("cursor", ""), counts=False)
        except ValueError as error:
            raise NotFound(self.invalid_cursor_message) from error
        self.older = page.older
        return page.rows

    def get_next_link(self) -> str | None:
        return replace_query_param(self.url, "cursor", self.older) if self.older else None

    def get_previous_link(self) -> None:
        """Its cursors lead to older rows only."""


class ModelPermissions(DjangoModelPermissions):
    """Django's permissions for the model. Unlike REST framework's own class, reading requires one too."""

    perms_map = {**DjangoModelPermissions.perms_map, "GET": VIEW, "HEAD": VIEW, "OPTIONS": VIEW}

    def has_permission(self, request: Request, view: Any) -> bool:
        # A user model may lack has_perms().
        needed = self.get_required_permissions(str(request.method), view.queryset.model)
        user: Any = request.user
        return bool(user and user.is_authenticated) and all(
            permissions.has_perm(user, permission) for permission in needed
        )


def _model_permissions(classes: list[Any]) -> Iterator[DjangoModelPermissions]:
    """The instances of DjangoModelPermissions, also inside of ``A & B``."""
    for permission in classes:
        if isinstance(permission, DjangoModelPermissions):
            yield permission
        elif not isinstance(permission, BasePermission):
            yield from _model_permissions([inner for name, inner in vars(permission).items() if name in ("op1", "op2")])


class Conflict(APIException):
    status_code = 409
    default_code = "conflict"


class PreconditionFailed(APIException):
    status_code = 412
    default_code = "precondition_failed"


class StrictViewSet(GenericViewSet[Any]):
    """Refuses unknown query parameters, and bodies where it reads none.

    Each action takes ``**kwargs``: the path of the host's URLs may have a version or other arguments.
    """

    pagination_class = NewestFirst
    filter_backends = ()
    filters_class: type[QueryFilters]
    operation = ""  # the permission that a POST requires, such as ``retry``; empty if it creates a row

    def get_permissions(self) -> list[Any]:
        """The host's ``DEFAULT_PERMISSION_CLASSES`` and ours: all of them must agree."""
        classes: list[Any] = [*api_settings.DEFAULT_PERMISSION_CLASSES, ModelPermissions]
        instances = [permission_class() for permission_class in classes]
        if self.operation:  # otherwise a POST requires the permission to add a row
            for permission in _model_permissions(instances):
                permission.perms_map = {
                    **permission.perms_map,
                    "POST": [*VIEW, f"%(app_label)s.{self.operation}_%(model_name)s"],
                }
        return instances

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if not self.action:  # the method is not allowed
            return
        filters = self.filters_class if self.action in ("list", "retry_many", "summary", "why") else QueryFilters
        known = [*filters().fields, *self.other_parameters()]
        framework = {api_settings.URL_FORMAT_OVERRIDE, api_settings.VERSION_PARAM}  # REST framework reads these
        refuse_unknown(set(request.query_params) - framework, known, "query parameter")
        for name, values in request.query_params.lists():
            if len(values) > 1 and name not in filters.repeatable():
                raise ValidationError({name: ["Give it once."]})

    def other_parameters(self) -> tuple[str, ...]:
        """The query parameters that are no filters."""
        return ("cursor", "limit") if self.action == "list" else ()

    def handle_exception(self, exc: Exception) -> Any:
        """Refuse JSON that is nested too deeply for its parser. Leave out half of a surrogate pair, which a refusal may
        repeat and no response can hold."""
        response: Any = super().handle_exception(ParseError() if isinstance(exc, RecursionError) else exc)
        if not isinstance(response, Response):  # a function of the host may return any response of Django
            return response
        text = json.dumps(response.data, cls=JSONEncoder)
        if (clean := replace_half_surrogates(text)) != text:
            response.data = json.loads(clean)
        return response

    def read_filters(self) -> Any:
        """The query parameters as filters. Raises ValidationError, which REST framework answers with a 400."""
        filters = self.filters_class(self.request.query_params)
        filters.is_valid(raise_exception=True)
        return filters

    def filter_queryset(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset if self.detail else self.read_filters().narrow(queryset)


class LongListViewSet(StrictViewSet):
    """The rows of a long table, such as events."""

    pagination_class = LongPages

    def long_list(self, filters: dict[str, Any]) -> LongList[Any]:
        """The rows that match these filters."""
        raise NotImplementedError

    def filter_queryset(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset  # ``long_list`` reads the filters


def refuse_body(request: Request) -> None:
    given = request.data
    if given and not (isinstance(given, Mapping) and given.keys() <= {"csrfmiddlewaretoken"}):
        raise ValidationError(_("This takes no body: the URL says all."))


def once(serializer: serializers.BaseSerializer[Any], key: Hashable, read: Callable[[Any], T]) -> T:
    """What ``read`` returns for the user of the request, or for None without a request. It is read once for each
    response."""
    context: Any = serializer.context
    if ("webhooks", key) not in context:
        context["webhooks", key] = read(getattr(context.get("request"), "user", None))
    return context["webhooks", key]  # type: ignore[no-any-return]


def redaction_of(serializer: serializers.BaseSerializer[Any]) -> Redaction:
    """What the user of the request sees, read once for each response. Without a request: an anonymous user."""
    return once(serializer, "redaction", Redaction)


def sees_payload(serializer: serializers.BaseSerializer[Any], event: Event) -> bool:
    """Whether the user of the request may view the payload of this Event, read once for each response."""
    return once(serializer, event.pk, lambda user: permissions.may_view_payloads(user, event))


MAX_KEY_LENGTH = 255

IDEMPOTENCY_KEY = header(
    "Idempotency-Key",
    _("A text of yours. Requests with the same one begin one run, however often they are sent."),
    max_length=MAX_KEY_LENGTH,
)


def request_key_of(request: Request) -> str:
    """The header ``Idempotency-Key`` of a request that may begin a run. Empty without one."""
    key = request.headers.get("Idempotency-Key", "")
    if len(key) > MAX_KEY_LENGTH:
        refusal = _("The header Idempotency-Key may have %(most)s characters.")
        raise ValidationError({"Idempotency-Key": [refusal % {"most": MAX_KEY_LENGTH}]})
    return key


def repeated_run(existing: runs.RunExists, kind: str, filters: Mapping[str, Any]) -> Run:
    """The run that a request with the same ``Idempotency-Key`` has begun. Raises Conflict if this one asks for another
    run, or if another request has begun the same run."""
    if not existing.is_repeated:
        raise Conflict(str(existing))
    if not runs.is_same(existing.run, kind, filters):
        refusal = _("The Idempotency-Key of this request has begun run %(id)s, which does something else.")
        raise Conflict(refusal % {"id": existing.run.pk})
    return existing.run
