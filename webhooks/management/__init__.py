"""The management commands, and their base class.

``runs`` is the base of the commands that begin a run. ``importers`` has the work of ``webhooks_import``.
"""

from __future__ import annotations

from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandError
from django.db import Error
from django.utils import translation

from webhooks.errors import describe_error
from webhooks.models import Webhook


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
            text = f"The database cannot be used: {describe_error(error)}."
            raise CommandError(text, returncode=self.exit_status_of_failure) from error


def webhook_named(given: str) -> Webhook:
    """The webhook with this name, or else with this id. Raises CommandError if there is none."""
    webhook = Webhook.objects.filter(name=given).first()
    if webhook is None and given.isdecimal() and len(given) < 19:
        webhook = Webhook.objects.filter(pk=given).first()
    if webhook is None:
        raise CommandError(f"There is no webhook “{given}”.")
    return webhook
