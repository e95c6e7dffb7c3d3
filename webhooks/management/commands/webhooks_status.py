from __future__ import annotations

import sys
import traceback
from collections import Counter
from datetime import datetime
from typing import Any

from django.core.management.base import CommandError, CommandParser

from webhooks.ground.db.session import statement_limit
from webhooks.ground.errors import describe_error
from webhooks.ground.text import one_line
from webhooks.insight.alarms import Alarm, Level
from webhooks.insight.counts import TOTAL_CAP
from webhooks.insight.status import Status, read_status
from webhooks.insight.wording import count_of, exact_time, number, sentence
from webhooks.management.base import EXIT_STATUS, LABELS, DatabaseCommand
from webhooks.models import State, Webhook
from webhooks.models.permissions import Operator

# Seconds that PostgreSQL may take for one statement: a table may be locked, and cron starts the next command.
STATEMENT_SECONDS = 30


class Command(DatabaseCommand):
    help = (
        "Shows the alarms of the status page, each with its remedy, and the number of deliveries in each state. Exits "
        "with status 0 if all is well, 1 with warnings, and 2 with errors, if the database cannot be used, or if the "
        "command itself fails."
    )
    requires_system_checks = []
    exit_status_of_failure = 2

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except CommandError:
            raise
        except Exception as error:  # Python would exit with 1, which a monitor takes for a warning
            self.stderr.write(traceback.format_exc())
            text = sentence(f"The status cannot be read: {describe_error(error)}")
            raise CommandError(text, returncode=self.exit_status_of_failure) from error

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print JSON, with the fields of GET status/.")

    def handle(self, *args: Any, **options: Any) -> None:
        with statement_limit(Webhook.objects.db, STATEMENT_SECONDS):
            status = read_status(Operator("webhooks_status"))
        if options["json"]:
            self.write_json(status.figures())
        else:
            self._write(status)
        if exit_status := EXIT_STATUS[status.level]:
            sys.exit(exit_status)

    def _write(self, status: Status) -> None:
        styles = {Level.ERROR: self.style.ERROR, Level.WARNING: self.style.WARNING, Level.GOOD: self.style.SUCCESS}
        self.stdout.write(_summary(status), styles[status.level])
        for alarm in status.alarms:
            self.stdout.write(_lines(alarm, status.as_of), styles.get(alarm.level))
        overview = status.overview
        states = ", ".join(f"{number(overview.counts[state], TOTAL_CAP)} {state.label}" for state in State)
        undispatched = count_of(overview.undispatched, "change", cap=TOTAL_CAP)
        self.stdout.write(f"Deliveries: {states}. {undispatched} to dispatch. As of {exact_time(status.as_of)}.")


def _summary(status: Status) -> str:
    """One line for a monitor: "ERROR: 1 error, 2 warnings"."""
    counts = Counter(alarm.level for alarm in status.alarms)
    counted = [count_of(counts[level], str(level)) for level in (Level.ERROR, Level.WARNING) if counts[level]]
    return f"{LABELS[status.level]}: {', '.join(counted) or 'no errors and no warnings'}"


def _lines(alarm: Alarm, now: datetime) -> str:
    """The alarm with its remedy, then what else happened at that time and what follows from it, indented."""
    lines = [
        f"{LABELS[alarm.level]}  {alarm.text}",
        ", ".join(alarm.facts(now)),
        alarm.remedy,
        alarm.command,
        f"Around that time: {' · '.join(alarm.around)}" if alarm.around else "",
        *(f"- {consequence.text}" for consequence in alarm.consequences),
    ]
    return "\n    ".join(one_line(line) for line in lines if line)
