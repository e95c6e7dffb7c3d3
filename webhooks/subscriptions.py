"""Which webhooks want which change."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property

from webhooks.models import Action
from webhooks.sql import wanted


@dataclass(frozen=True)
class Subscriptions:
    """The enabled webhooks as one transaction saw them: ids by object type and action."""

    by_change: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def matching(self, object_type: str, action: Action) -> list[int]:
        """The ids of the webhooks that want this action on "dcim.site", in order."""
        return self.by_change.get((object_type, action), [])

    def touch(self, object_type: str) -> bool:
        """Whether any webhook wants anything of "dcim.site"."""
        return object_type in self._object_types

    @cached_property
    def _object_types(self) -> set[str]:
        return {object_type for object_type, _ in self.by_change}


def current(using: str) -> Subscriptions:
    """The subscriptions as of now, in one query.

    Nothing of it is kept for the next transaction: there is no way of editing a webhook, in this process or another,
    that could be missed.
    """
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in wanted.read(using):
        wants = {Action.CREATED: row.created, Action.UPDATED: row.updated, Action.DELETED: row.deleted}
        for action in (action for action, is_wanted in wants.items() if is_wanted):
            found[f"{row.app_label}.{row.model}", action] += row.webhook_ids
    return Subscriptions({change: sorted(ids) for change, ids in found.items()})
