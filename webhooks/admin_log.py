"""The admin's history: who did what, whichever way. Of a secret it never tells what."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.contrib.auth import get_user_model
from django.contrib.contenttypes.models import ContentType
from django.db import models, router, transaction
from django.utils.text import capfirst

__all__ = [
    "ADDITION",
    "CHANGE",
    "DELETION",
    "differing",
    "note",
    "note_by_itself",
    "note_each",
    "note_of_many",
    "state_of",
]


def note(user: Any, row: models.Model, flag: int, message: str | list[Any] = "") -> None:
    """Write an entry about a row under the name of a user."""
    LogEntry.objects.create(
        user_id=user.pk,
        content_type=ContentType.objects.get_for_model(row),
        object_id=str(row.pk),
        object_repr=str(row)[:200],
        action_flag=flag,
        change_message=json.dumps(message) if isinstance(message, list) else message,
    )


def note_each(user: Any, rows: Sequence[models.Model], flag: int, message: str) -> None:
    """Write the same entry about each of some rows of one model."""
    if rows:
        LogEntry.objects.log_actions(user.pk, rows, flag, message)


def note_of_many(user: Any, model: type[models.Model], which: str, flag: int, message: str) -> None:
    """Write one entry about rows that are too many for one each; ``which`` says how many and of what."""
    LogEntry.objects.create(
        user_id=user.pk,
        content_type=ContentType.objects.get_for_model(model),
        object_repr=which[:200],
        action_flag=flag,
        change_message=message,
    )


def note_by_itself(row: models.Model, flag: int, message: str) -> None:
    """Write an entry about a row where no user acts: an entry must have one, so it goes under the name of the first
    superuser. What it raises, where a host's users are of another kind, leaves an open transaction as it was."""
    with transaction.atomic(router.db_for_write(LogEntry)):
        superuser = get_user_model()._default_manager.filter(is_superuser=True).order_by("pk").first()
        if superuser:
            note(superuser, row, flag, message)


def state_of(row: models.Model) -> dict[str, Any]:
    """The values of a row's fields, to be compared with later ones."""
    fields = {field.name: getattr(row, field.attname) for field in row._meta.concrete_fields}
    chosen = {field.name: sorted(one.pk for one in getattr(row, field.name).all()) for field in row._meta.many_to_many}
    return fields | chosen


def differing(row: models.Model, before: dict[str, Any], among: Iterable[str]) -> list[Any]:
    """What changed since, as the admin's history tells it: the names of the fields alone. Empty if nothing did."""
    now = state_of(row)
    names: Sequence[str] = [name for name in among if name in now and now[name] != before[name]]
    labels = [capfirst(str(row._meta.get_field(name).verbose_name)) for name in names]  # type: ignore[union-attr]
    return [{"changed": {"fields": labels}}] if labels else []
