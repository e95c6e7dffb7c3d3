"""Record who changed which webhook, delivery or event.

The record is Django's ``LogEntry`` where the admin is installed, so that it shows on the admin's history pages. Without
the admin, and where the user is no row of ``AUTH_USER_MODEL``, it is one line in the log. It never shows a secret: a
change is described by the names of its fields alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.utils.text import capfirst

from webhooks.logs import get_logger

logger = get_logger(__name__)

ADDITION, CHANGE, DELETION = 1, 2, 3  # the numbers of LogEntry
VERBS = {ADDITION: "added", CHANGE: "changed", DELETION: "deleted"}

Message = str | list[Any]  # text, or the admin's own format


def note(user: Any, row: models.Model, flag: int, message: Message = "") -> None:
    """Record what a user did to a row."""
    note_each(user, [row], flag, message)


def note_each(user: Any, rows: Sequence[models.Model], flag: int, message: Message) -> None:
    """Record the same of each of some rows of one model."""
    history = _history(user)
    if history is None:
        for row in rows:
            _log(user, type(row), str(row), flag, message)
    elif rows:
        history.log_actions(user.pk, rows, flag, message)


def note_of_many(user: Any, model: type[models.Model], which: str, flag: int, message: str) -> None:
    """Record once what a user did to many rows; ``which`` says how many and which."""
    history = _history(user)
    if history is None:
        _log(user, model, which, flag, message)
        return
    history.create(
        user_id=user.pk,
        content_type=ContentType.objects.get_for_model(model),
        object_repr=which[:200],
        action_flag=flag,
        change_message=message,
    )


def _history(user: Any) -> Any:
    """The manager of LogEntry, or None if there is no admin or no row for this user."""
    if not apps.is_installed("django.contrib.admin") or not isinstance(user, get_user_model()):
        return None
    from django.contrib.admin.models import LogEntry

    return LogEntry.objects


def _log(user: Any, model: type[models.Model], name: str, flag: int, message: Message) -> None:
    logger.info("History: %s %s %s “%s” %s", user, VERBS[flag], model._meta.verbose_name, name, message)


def state_of(row: models.Model) -> dict[str, Any]:
    """The values of a row's fields, to compare with later ones."""
    fields = {field.name: getattr(row, field.attname) for field in row._meta.concrete_fields}
    chosen = {field.name: sorted(one.pk for one in getattr(row, field.name).all()) for field in row._meta.many_to_many}
    return fields | chosen


def differing(row: models.Model, before: dict[str, Any], among: Iterable[str]) -> list[Any]:
    """The fields that changed since, by name, in the admin's format. Empty if none did."""
    now = state_of(row)
    names: Sequence[str] = [name for name in among if name in now and now[name] != before[name]]
    labels = [capfirst(str(row._meta.get_field(name).verbose_name)) for name in names]  # type: ignore[union-attr]
    return [{"changed": {"fields": labels}}] if labels else []
