"""What the pages have in common."""

from __future__ import annotations

from typing import Any

from django.db.models import Model
from utilities.permissions import resolve_permission

from webhooks import permissions
from webhooks.models import Delivery, Event, Skip, Webhook

VISIBLE: dict[type[Model], Any] = {
    Webhook: permissions.visible_webhooks,
    Event: permissions.visible_events,
    Delivery: permissions.visible_deliveries,
    Skip: permissions.visible_skips,
}
"""Which rows a user may view, where that depends on more than the permission for the row."""


class PermittedRows:
    """For NetBox's generic views of models of this app: the rows that ``webhooks.permissions`` gives the user.

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
        visible = VISIBLE.get(self.queryset.model) if action == "view" else None
        self.queryset = visible(user, self.queryset) if visible else permissions.allowed(user, action, self.queryset)
        return True
