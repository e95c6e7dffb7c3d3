"""Which webhooks want which change."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from webhooks.models import Action, Webhook


@dataclass(frozen=True)
class Subscriptions:
    """The enabled webhooks as one transaction saw them: ids by object type and action."""

    by_change: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def matching(self, object_type: str, action: Action) -> list[int]:
        """The ids of the webhooks that want this action on "dcim.site", in order."""
        return self.by_change.get((object_type, action), [])

    def touch(self, object_type: str) -> bool:
        """Whether any webhook wants anything of "dcim.site"."""
        return any((object_type, action) in self.by_change for action in Action)


def current(using: str) -> Subscriptions:
    """The subscriptions as of now, in one query."""
    rows = Webhook.objects.using(using).enabled().order_by("pk").values_list(
        "pk", "on_created", "on_updated", "on_deleted", "object_types__app_label", "object_types__model"
    )  # fmt: skip
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for pk, on_created, on_updated, on_deleted, app_label, model in rows:
        wanted = {Action.CREATED: on_created, Action.UPDATED: on_updated, Action.DELETED: on_deleted}
        for action in (action for action, is_wanted in wanted.items() if is_wanted):
            found[f"{app_label}.{model}", action].append(pk)
    return Subscriptions(dict(found))
