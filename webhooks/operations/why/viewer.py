"""The parts of the answer that a user may see."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db.models import QuerySet

from webhooks import permissions
from webhooks.models import Delivery, Event, Skip, Webhook
from webhooks.permissions.redaction import Redaction


class Viewer:
    """A user, or code that sees everything: ``user`` None.

    ``MAY_VIEW`` decides about objects, and so which rows are found at all. A row that is found needs the permission for
    its model as well. Without it, the cause alone is shown.
    """

    def __init__(self, user: Any) -> None:
        self._user = user = user or permissions.Operator("webhooks_why")
        self._sees_all, self._redacted = permissions.sees_everything(user), Redaction(user)
        self.sees_events, self.sees_skips = permissions.may_view_events(user), permissions.may_view_skips(user)
        self.shows_actual = permissions.may_view_payloads(user)
        self._shown: dict[type[Any], set[Any]] = {}

    def visible(self, webhooks: list[Webhook]) -> list[Webhook]:
        """The webhooks in this list that the user may view."""
        if self._sees_all:
            return webhooks
        seen = set(permissions.visible_webhooks(self._user).values_list("pk", flat=True))
        return [webhook for webhook in webhooks if webhook.pk in seen]

    def of_objects(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        """The Events or skips of objects that the user may view."""
        return rows if self._sees_all else permissions.of_viewable_objects(self._user, rows)

    def may_view_object(self, label: str, key: str) -> bool:
        return self._sees_all or permissions.may_view_object(self._user, label, key)

    def look_up(self, rows: Iterable[Event | Skip | Delivery]) -> None:
        """Find out which of these rows the user may view: one query for each model."""
        keys: dict[type[Any], set[Any]] = {}
        for row in rows if not self._sees_all else ():
            keys.setdefault(type(row), set()).add(row.pk)
        for model, pks in keys.items():
            seen = permissions.allowed(self._user, "view", model.objects.filter(pk__in=pks))
            self._shown.setdefault(model, set()).update(seen.values_list("pk", flat=True))

    def sees(self, row: Event | Skip | Delivery) -> bool:
        return self._sees_all or row.pk in self._shown.get(type(row), ())

    def reason(self, delivery: Delivery) -> str:
        """Why the last attempt failed, as far as the user may see it."""
        return self._redacted.error(delivery.webhook_id, delivery.reason, delivery.error_kind)
