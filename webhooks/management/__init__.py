"""The management commands: import webhooks, rotate encryption keys, sweep."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error

from webhooks import db


class DatabaseCommand(BaseCommand):
    """A command that reports an unavailable or unmigrated database in one sentence: cron mails its output."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except Error as error:
            raise CommandError(f"The database cannot be used: {db.describe_error(error)}.") from error
