"""Primary keys as the database has them. An instance has its own as somebody wrote it: a UUID in capitals, a decimal
without its zeros, a time of another zone."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.db import models
from django.utils import timezone


def stored(field: models.Field[Any, Any], given: Any) -> Any:
    """The value of a primary key as it is read from the database; times in UTC, whatever zone the connection is in.
    Raises ValidationError for what can be none."""
    if isinstance(field, models.CompositePrimaryKey):
        return tuple(map(stored, field.fields, field.to_python(given)))  # type: ignore[arg-type]
    field = own(field)
    key = field.to_python(given)
    if isinstance(key, Decimal):
        return _with_its_places(field, key)
    return _in_utc(key) if isinstance(key, datetime) else key


def may_exceed(field: models.Field[Any, Any], characters: int) -> bool:
    """Whether the text of a primary key may have more characters than these."""
    if isinstance(field, models.CompositePrimaryKey):
        return any(may_exceed(part, characters // len(field.fields)) for part in field.fields)  # type: ignore[arg-type]
    field = own(field)
    if isinstance(field, models.CharField):
        return field.max_length is None or field.max_length > characters
    return isinstance(field, models.TextField)


def is_shared(field: models.Field[Any, Any], other: models.Field[Any, Any]) -> bool:
    """Whether two primary keys are one: rows that inherit others mostly have theirs, but may have keys of their own."""
    return own(field) is own(other)


def own(field: models.Field[Any, Any]) -> models.Field[Any, Any]:
    """The field that a key is of: that of a row that another inherits, or refers to by its key."""
    while field.remote_field:
        field = field.target_field  # type: ignore[attr-defined]
    return field


def _with_its_places(field: Any, key: Decimal) -> Decimal:
    places = getattr(field, "decimal_places", None)
    return key if places is None else key.quantize(Decimal(1).scaleb(-places), context=field.context)


def _in_utc(key: datetime) -> datetime:
    if not settings.USE_TZ:
        return key
    return (timezone.make_aware(key, timezone.get_default_timezone()) if timezone.is_naive(key) else key).astimezone(
        UTC
    )
