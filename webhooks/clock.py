"""The database's clock, by which leases and due times are judged."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db.models import DateTimeField, Func
from django.utils import timezone


class DatabaseNow(Func):
    """The database's time, ``seconds`` from now. SQLite lives in this process, so its clock is the process's."""

    output_field = DateTimeField()

    def __init__(self, seconds: float = 0) -> None:
        super().__init__()
        self.seconds = seconds

    def as_postgresql(self, compiler: Any, connection: Any, **_: Any) -> tuple[str, list[Any]]:
        return "(STATEMENT_TIMESTAMP() + make_interval(secs => %s))", [self.seconds]

    def as_sqlite(self, compiler: Any, connection: Any, **_: Any) -> tuple[str, list[Any]]:
        moment = timezone.now() + timedelta(seconds=self.seconds)
        return "%s", [connection.ops.adapt_datetimefield_value(moment)]
