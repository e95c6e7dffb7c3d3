"""The base of all views: permissions, strict query parameters, and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext as _
from rest_framework.exceptions import APIException, ValidationError
from rest_framework.permissions import BasePermission, DjangoModelPermissions
from rest_framework.request import Request
from rest_framework.settings import api_settings
from rest_framework.viewsets import GenericViewSet

from webhooks import permissions
from webhooks.api.fields import refuse_unknown
from webhooks.api.filters import REPEATABLE, NewestFirst, QueryFilters

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


class StrictViewSet(GenericViewSet[Any]):
    """Refuses unknown query parameters, and bodies where it reads none."""

    pagination_class = NewestFirst
    filter_backends = ()
    filters_class: type[QueryFilters]
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
        filters = self.filters_class().fields if self.action in ("list", "retry_many", "summary", "why") else ()
        known = [*filters, *(("cursor", "limit") if self.action == "list" else ())]
        framework = {api_settings.URL_FORMAT_OVERRIDE, api_settings.VERSION_PARAM}  # REST framework reads these
        refuse_unknown(set(request.query_params) - framework, known, "query parameter")
        for name, values in request.query_params.lists():
            if len(values) > 1 and name not in REPEATABLE:
                raise ValidationError({name: ["Give it once."]})

    def filter_queryset(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset if self.detail else self.filters_class(self.request.query_params).narrow(queryset)


def refuse_body(request: Request) -> None:
    if set(request.data) - {"csrfmiddlewaretoken"}:
        raise ValidationError(_("This takes no body: the URL says all."))
