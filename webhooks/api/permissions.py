"""Who may do what: Django's model permissions, and the rules of the host's own API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rest_framework.permissions import BasePermission, DjangoModelPermissions
from rest_framework.request import Request
from rest_framework.settings import api_settings

from webhooks import permissions

VIEW = ["%(app_label)s.view_%(model_name)s"]


class ModelPermissions(DjangoModelPermissions):
    """REST framework's own lets everybody who is logged in read: payloads are not for everybody."""

    perms_map = {**DjangoModelPermissions.perms_map, "GET": VIEW, "HEAD": VIEW, "OPTIONS": VIEW}

    def has_permission(self, request: Request, view: Any) -> bool:
        # Not by has_perms(), which a user model need not have.
        needed = self.get_required_permissions(str(request.method), view.queryset.model)
        user: Any = request.user
        return bool(user and user.is_authenticated) and all(permissions.has_perm(user, one) for one in needed)


def permissions_for(operation: str) -> list[Any]:
    """The host's ``DEFAULT_PERMISSION_CLASSES``, as they are set now, and ours: all of them must agree.

    ``operation`` is what a POST does to rows, such as ``retry``; empty where it adds one.
    """
    classes: list[Any] = [*api_settings.DEFAULT_PERMISSION_CLASSES, ModelPermissions]
    permissions = [one() for one in classes]
    if operation:
        for one in _each(permissions):
            one.perms_map = {**one.perms_map, "POST": [*VIEW, f"%(app_label)s.{operation}_%(model_name)s"]}
    return permissions


def _each(permissions: list[Any]) -> Iterator[DjangoModelPermissions]:
    """Those that judge by model permissions. To them a POST adds a row; ``A & B`` has them within."""
    for one in permissions:
        if isinstance(one, DjangoModelPermissions):
            yield one
        elif not isinstance(one, BasePermission):
            yield from _each([inner for name, inner in vars(one).items() if name in ("op1", "op2")])
