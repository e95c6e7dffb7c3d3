"""Who may do what: Django's model permissions, for reading too."""

from __future__ import annotations

from typing import Any

from rest_framework.permissions import DjangoModelPermissions
from rest_framework.request import Request

from webhooks import rights

VIEW = ["%(app_label)s.view_%(model_name)s"]


class ModelPermissions(DjangoModelPermissions):
    """REST framework's own lets everybody who is logged in read: payloads are not for everybody."""

    perms_map = {**DjangoModelPermissions.perms_map, "GET": VIEW, "HEAD": VIEW, "OPTIONS": VIEW}

    def has_permission(self, request: Request, view: Any) -> bool:
        # Not by has_perms(), which a user model need not have.
        needed = self.get_required_permissions(str(request.method), view.queryset.model)
        user: Any = request.user
        return bool(user and user.is_authenticated) and all(rights.has_perm(user, one) for one in needed)


class OperationPermissions(ModelPermissions):
    """For a view set whose POSTs do something to rows: that takes the permission named by ``operation`` and the model,
    such as ``webhooks.retry_delivery``, besides that to view."""

    perms_map = {**ModelPermissions.perms_map, "POST": VIEW}

    def has_permission(self, request: Request, view: Any) -> bool:
        may_view = super().has_permission(request, view)
        if not may_view or request.method != "POST" or not view.operation:
            return may_view
        model = view.queryset.model._meta
        return rights.has_perm(request.user, f"{model.app_label}.{view.operation}_{model.model_name}")
