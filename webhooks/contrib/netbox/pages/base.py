"""What the pages have in common."""

from __future__ import annotations

from typing import Any

from utilities.permissions import resolve_permission

from webhooks.models import permissions


class PermittedRows:
    """For NetBox's generic views of models of this app: the rows that ``webhooks.models.permissions`` gives the user.

    NetBox asks the queryset for ``restrict()``, which only models of NetBox have.
    """

    additional_permissions: tuple[str, ...] = ()
    queryset: Any
    request: Any
    get_required_permission: Any
    """Each of NetBox's generic views has it."""

    def has_permission(self) -> bool:
        user, permission = self.request.user, self.get_required_permission()
        if not user.has_perms((permission, *self.additional_permissions)):
            return False
        action = resolve_permission(permission)[1]
        rows = self.queryset
        self.queryset = permissions.visible(user, rows) if action == "view" else permissions.allowed(user, action, rows)
        return True
