"""The management commands: import webhooks, rotate keys, say why nothing arrived, show the status, sweep."""

from __future__ import annotations

from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandError
from django.db import Error
from django.utils import translation

from webhooks import db


class DatabaseCommand(BaseCommand):
    """A command that reports an unavailable or unmigrated database in one sentence: cron mails its output.

    It writes English, as Django's own commands do: monitors read it.
    """

    exit_status_of_failure: ClassVar = 1

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            with translation.override("en"):
                return super().execute(*args, **options)
        except Error as error:
            text = f"The database cannot be used: {db.describe_error(error)}."
            raise CommandError(text, returncode=self.exit_status_of_failure) from error
