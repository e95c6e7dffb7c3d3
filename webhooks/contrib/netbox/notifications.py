"""Alarms as notifications of NetBox, for the groups in the setting NOTIFY_GROUPS. E-mails are sent as always.

A worker notices within 30 seconds that an alarm began or is over. A webhook that is paused, fails or was disabled is an
alarm, too. NetBox keeps one notification for each user and object: the last one of a webhook, and the last one of each
kind of alarm without a webhook.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.core.checks import CheckMessage, Tags, Warning, register
from django.db import DatabaseError
from django.utils import timezone
from django.utils.translation import gettext as _
from extras.models import Notification, NotificationGroup
from netbox.events import EVENT_TYPE_KIND_DANGER, EVENT_TYPE_KIND_SUCCESS, EVENT_TYPE_KIND_WARNING, EventType

from webhooks.ground.conf import Setting, Settings, names
from webhooks.ground.errors import get_logger
from webhooks.hooks import Hooks, NoticedProblem
from webhooks.insight.alarms import Level, Problem
from webhooks.models import Sweep, Webhook

logger = get_logger(__name__)

HOOK = f"{__name__}.Notifications"

LENGTH = 200
"""Characters of the text of a notification, as in NetBox's column."""


class NetBoxSettings(Settings):
    """The settings of the app in NetBox: its own, and one more."""

    notify_groups = Setting[Sequence[str]]((), names)
    """The names of NetBox's notification groups that get the alarms."""


netbox_conf = NetBoxSettings()

# In the language of the site, as NetBox's own.
OVER = EventType("webhooks_over", _("Webhooks: over"), kind=EVENT_TYPE_KIND_SUCCESS)
BEGAN = {
    Level.ERROR: EventType("webhooks_error", _("Webhooks: error"), kind=EVENT_TYPE_KIND_DANGER),
    Level.WARNING: EventType("webhooks_warning", _("Webhooks: warning"), kind=EVENT_TYPE_KIND_WARNING),
}


def register_event_types() -> None:
    for event_type in (*BEGAN.values(), OVER):
        event_type.register()


def list_hook(config: dict[str, Any]) -> None:
    """List ``Notifications`` among the hooks in the settings, if these name a group."""
    if netbox_conf.notify_groups:
        config["HOOKS"] = [*config.get("HOOKS", ()), HOOK]


class Notifications(Hooks):
    def problem_began(self, problem: NoticedProblem) -> None:
        _notify(problem, BEGAN[Level(problem.level)], problem.text)

    def problem_ended(self, problem: NoticedProblem) -> None:
        _notify(problem, OVER, _("Over: %(text)s") % {"text": problem.text})


def _notify(problem: NoticedProblem, event_type: EventType, text: str) -> None:
    model, key = _object_of(problem)
    wanted = netbox_conf.notify_groups
    groups = list(NotificationGroup.objects.filter(name__in=wanted))
    if missing := sorted({*wanted} - {group.name for group in groups}):
        logger.warning("NOTIFY_GROUPS names groups that NetBox does not have: %s", ", ".join(missing))
    about: dict[str, Any] = {"object_type": ContentType.objects.get_for_model(model), "object_id": key}
    shown = {
        "object_repr": text if len(text) <= LENGTH else f"{text[: LENGTH - 1]}…",
        "event_type": event_type.name,
        "created": timezone.now(),
        "read": None,  # the user may have read the one that it takes the place of
    }
    # Not by the group's ``notify()``: it would show the name of the object instead of the text.
    Notification.objects.bulk_create(
        [Notification(user=user, **about, **shown) for user in {user for group in groups for user in group.members}],
        update_conflicts=True,
        unique_fields=[*about, "user"],
        update_fields=[*shown],
    )


def _object_of(problem: NoticedProblem) -> tuple[type[Any], int]:
    """The object of a notification. An alarm without a webhook is about the workers together, and has a number."""
    if problem.webhook_id is not None:
        return Webhook, problem.webhook_id
    # No row has such a key, so the notification leads nowhere: NetBox then shows the list of all notifications.
    return Sweep, 1000 + list(Problem).index(Problem(problem.problem))


@register("webhooks", Tags.database, deploy=True)
def check_groups(app_configs: Any, databases: Collection[str] | None = None, **kwargs: Any) -> Iterator[CheckMessage]:
    """Ask the database, if its alias was given with ``--database``."""
    groups = NotificationGroup.objects.all()
    if groups.db not in (databases or ()) or not netbox_conf.notify_groups:
        return
    try:
        known = set(groups.values_list("name", flat=True))
    except DatabaseError:
        return  # other checks report it
    if missing := sorted({*netbox_conf.notify_groups} - known):
        yield Warning(
            f"NOTIFY_GROUPS names notification groups that do not exist: {', '.join(missing)}.",
            hint="Create them in NetBox under Operations, Notification Groups, or correct PLUGINS_CONFIG.",
            id="webhooks.netbox.W001",
        )
