from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error


class DatabaseCommand(BaseCommand):
    """A command that says in words that the database is away, or has no tables yet: cron mails what it says."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except Error as error:
            said = " ".join(str(error).split())
            raise CommandError(
                f"The database cannot be used: {said}. Is it running, and has manage.py migrate been run?"
            ) from error
