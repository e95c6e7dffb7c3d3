"""The database's clock, by which leases and due times are judged; and one that tells how long they have lasted."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connections
from django.db.models import DateTimeField, Func
from django.utils import timezone


def elapsed() -> float:
    """Seconds since some moment, with those that the machine was suspended for, as leases go on meanwhile. Where a
    system has no such clock, without them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def moment(connection: Any, seconds: float = 0) -> tuple[str, list[Any]]:
    """SQL and parameters for the time ``seconds`` from now. SQLite lives in this process, and so does its clock."""
    if connection.vendor == "postgresql":
        return "(STATEMENT_TIMESTAMP() + make_interval(secs => %s))", [seconds]
    value = timezone.now() + timedelta(seconds=seconds)
    return "%s", [connection.ops.adapt_datetimefield_value(value)]


def utc(moment: datetime) -> datetime:
    """A moment as UTC, also where the host keeps naive local time."""
    aware = timezone.make_aware(moment) if timezone.is_naive(moment) else moment
    return aware.astimezone(UTC)


def stored(moment: datetime) -> datetime:
    """An aware moment as the host's database columns take it: naive local time where ``USE_TZ`` is off."""
    return moment if settings.USE_TZ else timezone.make_naive(moment)


def loaded(using: str, value: datetime | str) -> datetime:
    """A moment as the column of a database gave it, without the ORM. SQLite gives text or a naive value, in the time
    zone of the connection if ``USE_TZ`` is on."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    is_of_sqlite = settings.USE_TZ and timezone.is_naive(moment)
    return timezone.make_aware(moment, connections[using].timezone) if is_of_sqlite else moment


class DatabaseNow(Func):
    """The time so many ``seconds`` from now, as an expression of the ORM."""

    output_field = DateTimeField()

    def __init__(self, seconds: float = 0) -> None:
        super().__init__()
        self.seconds = seconds

    def as_sql(self, compiler: Any, connection: Any, *args: Any, **kwargs: Any) -> Any:
        return moment(connection, self.seconds)
