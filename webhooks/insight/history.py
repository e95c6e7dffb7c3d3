"""The history: who changed which webhook, delivery or event.

Entries are rows of Django's ``LogEntry``, which the admin shows. Without the admin, or for a user who is not a row of
``AUTH_USER_MODEL``, an entry is one line in the log. No entry has a secret: a change lists the names of fields only.
Entries are in English: they are stored, and read in many languages.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.utils import translation
from django.utils.text import capfirst

from webhooks.errors import get_logger
from webhooks.models import Webhook
from webhooks.permissions import find_user
from webhooks.text import username_of

logger = get_logger(__name__)

ADDITION, CHANGE, DELETION = 1, 2, 3  # the numbers of LogEntry
VERBS = {ADDITION: "added", CHANGE: "changed", DELETION: "deleted"}

Message = str | list[Any]  # text, or the admin's JSON format


def record(user: Any, rows: Sequence[models.Model], flag: int, message: Message = "") -> None:
    """Add one entry for each of these rows, which are of one model."""
    log_entries = _log_entries(user)
    with translation.override("en"):
        if log_entries and rows:
            log_entries.log_actions(user.pk, rows, flag, message)
        elif not log_entries:
            for row in rows:
                _log(user, type(row), str(row), flag, message)


def record_summary(user: Any, model: type[models.Model], summary: str, flag: int, message: str) -> None:
    """Add one entry for many rows. ``summary`` says how many, and which."""
    if log_entries := _log_entries(user):
        content_type, name = ContentType.objects.get_for_model(model), summary[:200]
        log_entries.create(
            user_id=user.pk, content_type=content_type, object_repr=name, action_flag=flag, change_message=message
        )
    else:
        _log(user, model, summary, flag, message)


def newest_of_webhooks(webhooks: Collection[int]) -> Iterable[Any]:
    """The 50 newest rows of LogEntry about these webhooks. Empty without the admin."""
    if not webhooks or not apps.is_installed("django.contrib.admin"):
        return []
    from django.contrib.admin.models import LogEntry

    content_type = ContentType.objects.get_for_model(Webhook)
    found = LogEntry.objects.filter(content_type=content_type, object_id__in=map(str, webhooks))
    return found.select_related("user").order_by("-action_time")[:50]


def user_named(username: str) -> Any:
    """The user of this name. Without one, the name itself: the entry then is one line in the log."""
    return find_user(username) or username


def _log_entries(user: Any) -> Any:
    """The manager of LogEntry, or None if there is no admin or no row of this user."""
    if not apps.is_installed("django.contrib.admin") or not isinstance(user, get_user_model()):
        return None
    from django.contrib.admin.models import LogEntry

    return LogEntry.objects


def _log(user: Any, model: type[models.Model], name: str, flag: int, message: Message) -> None:
    logger.info(
        "History: %s %s %s “%s” %s", username_of(user), VERBS[flag], model._meta.verbose_name_raw, name, message
    )


def field_values(row: models.Model) -> dict[str, Any]:
    """The values of a row's fields, many-to-many fields included."""
    values = {field.name: getattr(row, field.attname) for field in row._meta.concrete_fields}
    related = {field.name: sorted(one.pk for one in getattr(row, field.name).all()) for field in row._meta.many_to_many}
    return values | related


def describe_changes(row: models.Model, before: dict[str, Any], names: Iterable[str]) -> list[Any]:
    """A message in the admin's format that lists which of these fields changed since. Empty if none did."""
    now = field_values(row)
    changed: Sequence[str] = [name for name in names if name in now and now[name] != before[name]]
    with translation.override("en"):  # as Django stores them
        labels = [capfirst(str(row._meta.get_field(name).verbose_name)) for name in changed]  # type: ignore[union-attr]
    return [{"changed": {"fields": labels}}] if labels else []
