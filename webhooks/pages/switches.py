"""The switches of webhooks, which users press for one or for many: enable, disable, pause and resume."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext_lazy

from webhooks import permissions
from webhooks.models import Webhook
from webhooks.models.webhook_states import IS_PAUSED
from webhooks.operations import webhooks
from webhooks.pages.acts import WARNING, Message, changed


@dataclass(frozen=True)
class Switch:
    name: str
    action_label: Any
    """Its label for selected webhooks."""
    change: Callable[[Any, Any], list[Webhook]]
    done: Any
    """What was done, for a count of webhooks."""
    why_left: Any
    button: Any
    """Its short label."""
    hint: Any = ""
    starting: Q | None = None
    """The webhooks that would send then. It leaves out the ones that would send what the user may not view."""

    def press(self, chosen: QuerySet[Webhook], user: Any) -> list[Message]:
        """Change the chosen webhooks that the user may change. Returns what to say about it."""
        refused: list[str] = []
        if self.starting is not None:
            chosen, refused = _without_refused(user, chosen, chosen.filter(self.starting))
        keys = list(permissions.allowed(user, "change", chosen).values_list("pk", flat=True))
        if skipped := chosen.count() - len(keys):
            text = _("You do not have permission to change %(count)s of these webhooks.")
            refused.append(text % {"count": skipped})
        count = len(self.change(Webhook.objects.filter(pk__in=keys), user))
        result = changed(self.done, count, len(keys) - count, self.why_left)
        return [*(Message(text, WARNING) for text in refused), result]


def _without_refused(
    user: Any, chosen: QuerySet[Webhook], starting: QuerySet[Webhook]
) -> tuple[QuerySet[Webhook], list[str]]:
    """The chosen webhooks without the starting ones that would send what the user may not view, and the reasons."""
    refused: dict[str, list[Webhook]] = defaultdict(list)
    for webhook in permissions.allowed(user, "change", starting).prefetch_related("object_types"):
        if reason := webhooks.why_not_started(user, webhook):
            refused[reason].append(webhook)
    texts = []
    for reason, group in refused.items():
        names = ", ".join(f"“{webhook.name}”" for webhook in group)
        texts.append(_("%(names)s: %(reason)s") % {"names": names, "reason": reason})
    return chosen.exclude(pk__in=[webhook.pk for group in refused.values() for webhook in group]), texts


_SENDS = gettext_lazy("Sends what has waited.")

_DECLARED = (
    Switch(
        "enable",
        gettext_lazy("Enable the selected webhooks"),
        partial(webhooks.set_enabled, enabled=True),
        ngettext_lazy("%(number)s webhook enabled.", "%(number)s webhooks enabled.", "count"),
        gettext_lazy("already enabled"),
        gettext_lazy("Enable"),
        _SENDS,
        starting=Q(enabled=False),
    ),
    Switch(
        "disable",
        gettext_lazy("Disable the selected webhooks"),
        partial(webhooks.set_enabled, enabled=False),
        ngettext_lazy("%(number)s webhook disabled.", "%(number)s webhooks disabled.", "count"),
        gettext_lazy("already disabled"),
        gettext_lazy("Disable"),
    ),
    Switch(
        "pause",
        gettext_lazy("Pause the selected webhooks"),
        webhooks.pause,
        ngettext_lazy(
            "%(number)s webhook paused. Changes are still stored, and sent after you resume.",
            "%(number)s webhooks paused. Changes are still stored, and sent after you resume.",
            "count",
        ),
        gettext_lazy("disabled, or paused by a user already"),
        gettext_lazy("Pause"),
        gettext_lazy("Changes are still stored, and sent after you resume."),
    ),
    Switch(
        "resume",
        gettext_lazy("Resume the selected webhooks now"),
        webhooks.resume,
        ngettext_lazy("%(number)s webhook resumed.", "%(number)s webhooks resumed.", "count"),
        gettext_lazy("not paused"),
        gettext_lazy("Resume"),
        _SENDS,
        starting=IS_PAUSED,
    ),
)

SWITCHES = {one.name: one for one in _DECLARED}
"""In the order of lists."""
