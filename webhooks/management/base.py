from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error

from webhooks import db


class DatabaseCommand(BaseCommand):
    """A command that says in words that the database is away, or not migrated: cron mails what it prints."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except Error as error:
            raise CommandError(f"The database cannot be used: {db.describe_error(error)}.") from error
