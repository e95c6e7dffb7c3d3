"""The base classes of the management commands: with the database, and with a run."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import time
from argparse import ArgumentTypeError
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandError, CommandParser, SystemCheckError
from django.core.serializers.json import DjangoJSONEncoder
from django.db import Error
from django.utils import translation

from webhooks.ground.db import to_utc
from webhooks.ground.errors import describe_error
from webhooks.ground.text import clean, one_line
from webhooks.insight.alarms import Level
from webhooks.insight.wording import count_of, sentence
from webhooks.models import Run, RunState, Webhook
from webhooks.models.filters import FILTERS, Filter, filter_time, without_options
from webhooks.models.permissions import Operator
from webhooks.operations import retries, runs, webhooks
from webhooks.operations.kinds import RUN_KINDS
from webhooks.operations.run_filters import RefusedFilter

wait = time.sleep

WIDTH = 30  # characters of the progress bar
UNITS = {"m": "minutes", "h": "hours", "d": "days"}

# Seconds between two looks at the progress, and after which a run without progress is reported.
LOOK_EVERY = 0.5
IDLE_SECONDS = 10

# Seconds that a dry run may count.
COUNT_SECONDS = 60

# For monitors.
EXIT_STATUS = {Level.GOOD: 0, Level.WARNING: 1, Level.ERROR: 2}
LABELS = {Level.GOOD: "OK", Level.NOTE: "NOTE", Level.WARNING: "WARNING", Level.ERROR: "ERROR"}


class DatabaseCommand(BaseCommand):
    """A command that reports an unavailable or unmigrated database in one sentence: cron mails its output.

    It writes English, as Django's own commands do: monitors read it.
    """

    exit_status_of_failure: ClassVar = 1
    """The exit status of each CommandError."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        # Django's _out: its OutputWrapper passes on attributes, but is no stream of io itself.
        for stream in (options.get("stdout"), options.get("stderr"), self.stdout._out, self.stderr._out):
            if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
                stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 has no “ and no →
        try:
            with translation.override("en"):
                return super().execute(*args, **options)
        except CommandError as error:
            error.returncode = self.exit_status_of_failure
            if not isinstance(error, SystemCheckError):  # which has colors
                # A name comes from elsewhere, and would control the terminal.
                error.args = ("\n".join(map(one_line, str(error).split("\n"))),)
            raise
        except Error as error:
            text = sentence(f"The database cannot be used: {describe_error(error)}")
            raise CommandError(text, returncode=self.exit_status_of_failure) from error
        except BrokenPipeError:  # the reader has ended, as in: webhooks_status | head -1
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python reports an error at exit
            sys.exit(self.exit_status_of_failure)

    def add_noinput(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--noinput",
            "--no-input",
            action="store_false",
            dest="interactive",
            help="Do not ask for confirmation. Required without a terminal.",
        )

    def confirm(self, question: str, instead: str) -> bool:
        """Ask on the terminal. ``instead`` names an option to only look. Raises CommandError without a terminal."""
        if not sys.stdin.isatty():
            raise CommandError(
                f"Nothing was changed: there is no terminal to ask for confirmation. Add --noinput or {instead}."
            )
        try:
            return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
        except (EOFError, KeyboardInterrupt):
            self.stdout.write("")
            return False

    def write_json(self, value: Any) -> None:
        """Print a value as JSON, with times in UTC."""
        self.stdout.write(json.dumps(value, cls=_JSONEncoder, indent=2))


class _JSONEncoder(DjangoJSONEncoder):
    def default(self, o: Any) -> Any:
        # As the REST API writes it: Django's encoder would leave out the microseconds.
        return to_utc(o).isoformat().replace("+00:00", "Z") if isinstance(o, datetime) else super().default(o)


def check_utf8(*values: Any) -> None:
    """Raise CommandError for a text from a terminal with another encoding: no database takes it."""
    for value in values:
        if isinstance(value, str) and clean(value) != value:
            raise CommandError(f"This is not UTF-8: {value!a}.")


def webhook_named(given: str) -> Webhook:
    """The webhook with this name, or else with this id. Raises CommandError if there is none."""
    webhook = Webhook.objects.filter(name=given).first()
    if webhook is None and given.isdecimal() and len(given) < 19:
        webhook = Webhook.objects.filter(pk=given).first()
    if webhook is None:
        raise CommandError(f"There is no webhook “{given}”.")
    return webhook


# Runs


def moment(text: str) -> str:
    """A time as ``2h`` ago, or in ISO format. Returns the ISO format in UTC."""
    if match := re.fullmatch(r"(\d{1,5})([mhd])", text):
        return filter_time(datetime.now(UTC) - timedelta(**{UNITS[match[2]]: int(match[1])}))
    try:
        return filter_time(datetime.fromisoformat(text))
    except ValueError:
        raise ArgumentTypeError(f"{text} is no time: write 2h, 30m, 7d or 2026-11-24T13:00") from None


# Added to the help of a filter: a command also accepts these values.
ALSO = {"webhook": "Its name will do, too.", "moment": "Write 30m, 2h or 7d for a time ago, or the ISO format."}


def help_of(declared: Filter) -> str:
    with translation.override("en"):
        return f"{declared.help} {ALSO.get(declared.type, '')}".strip()


ARGUMENTS: dict[str, dict[str, Any]] = {
    "flag": {"action": "store_true", "default": None},
    "choices": {"action": "append"},
    "number": {"type": int},
    "model": {"type": str.lower},
    "moment": {"type": moment},
}


def add_filter(parser: CommandParser, filter_: Filter, required: bool) -> None:
    """Add the option for a filter of a run."""
    declared = {"dest": filter_.name, "required": required, "help": help_of(filter_), **ARGUMENTS.get(filter_.type, {})}
    if filter_.type in ("choice", "choices"):
        declared["choices"] = [value for value, _label in filter_.choices()]
    if filter_.metavar:
        declared["metavar"] = filter_.metavar
    parser.add_argument(filter_.command_option, **declared)


class RunCommand(DatabaseCommand):
    """Begins a run of a kind, and shows its progress until it has ended."""

    kind: ClassVar[str]
    """The name of the kind of run."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kind, self._operator = RUN_KINDS[self.kind], Operator(f"webhooks_{self.kind}")
        self.help = f"{self._kind.meaning} Workers do it in the background; the command shows their progress."

    def add_arguments(self, parser: CommandParser) -> None:
        for name, declared in FILTERS.items():
            if name in self._kind.filters:
                add_filter(parser, declared, required=name in self._kind.needed)
        if not self._kind.needed:
            parser.add_argument("--all", action="store_true", help="Take all rows, without a filter.")
        if self._kind.takes_pending:
            parser.add_argument("--resume", action="store_true", help="Resume the webhook, if it is paused.")
        parser.add_argument("--dry-run", action="store_true", help="Count the rows and change nothing.")
        parser.add_argument("--no-wait", action="store_true", help="Return at once. Workers execute the run.")

    def handle(self, *args: Any, **options: Any) -> None:
        filters = self._filters(options)
        choice = {"filters": filters, "takes_all": options.get("all", False)}
        try:
            if options["dry_run"]:
                self._show_preview(runs.preview(self.kind, **choice, seconds=COUNT_SECONDS))
                return
            run = runs.start(self.kind, **choice, requested_by=str(self._operator))
            if options.get("resume"):
                chosen = Webhook.objects.filter(pk=filters["webhook"])
                for webhook in webhooks.resume(chosen, self._operator):
                    self.stdout.write(f"Resumed the webhook {one_line(webhook.name)}.")
        except runs.RunExists as existing:
            raise CommandError(str(existing)) from None
        except RefusedFilter as refused:
            option = f"{FILTERS[refused.filter].command_option}: " if refused.filter else ""
            raise CommandError(f"{option}{refused}") from None
        self.stdout.write(f"Run {run.pk} has begun.")
        if not options["no_wait"]:
            self._wait(run)

    def _show_preview(self, preview: runs.Preview) -> None:
        # Such as "12 deliveries and 1 event" for a run that takes both.
        counts = (preview.deliveries, preview.events) if len(self._kind.nouns) > 1 else (preview.count,)
        numbers = " and ".join(map(count_of, counts, self._kind.nouns))
        if not preview.is_complete:
            numbers = f"At least {numbers}"
        if preview.is_stopped:
            numbers = f"{numbers}: the count was stopped after {COUNT_SECONDS} s"
        self.stdout.write(one_line(f"{numbers}. Nothing was changed: this was a dry run. {preview.note}".rstrip()))
        for pk, name in preview.sample:
            # A name comes from elsewhere, and would control the terminal.
            self.stdout.write(one_line(f"  {pk}  {name}"))
        if preview.count > len(preview.sample):
            at_least = "" if preview.is_complete else "at least "
            self.stdout.write(f"  and {at_least}{preview.count - len(preview.sample):,} more")

    def _filters(self, options: dict[str, Any]) -> dict[str, Any]:
        filters = {name: options[name] for name in self._kind.filters if options.get(name) is not None}
        check_utf8(*filters.values())
        chosen = without_options(filters)
        if chosen and options.get("all"):
            raise CommandError("Give either filters or --all.")
        if not chosen and not options.get("all"):
            raise CommandError("Give at least one filter, or --all.")
        if options.get("resume") and "webhook" not in filters:
            raise CommandError("--resume: give --webhook as well.")
        if "webhook" in filters:
            filters["webhook"] = webhook_named(filters["webhook"]).pk
        return filters

    def _wait(self, run: Run) -> None:
        has_bar, moved, taken, is_warned = self.stdout.isatty(), time.monotonic(), 0, False
        try:
            while run.is_open:
                if has_bar:
                    self._show(run)
                wait(LOOK_EVERY)
                run.refresh_from_db()
                if run.taken != taken:
                    moved, taken = time.monotonic(), run.taken
                elif not is_warned and time.monotonic() - moved > IDLE_SECONDS:
                    is_warned = True
                    problem = "The run makes no progress: does a worker run? webhooks_status says more."
                    if waits := runs.waits_for(run):
                        problem = f"The run {waits}."
                    self.stderr.write(problem)
        except KeyboardInterrupt:
            self.stdout.write(f"\nRun {run.pk} goes on in the background.")
            sys.exit(130)
        if has_bar:
            self._show(run)
            self.stdout.write("")
        skipped = f", {run.skipped:,} skipped" if run.skipped else ""
        self.stdout.write(f"{self._kind.past} {run.done:,}, {run.failed:,} failed{skipped}.")
        if run.superseded:
            self.stdout.write(runs.superseded_note(run.superseded))
        if self._kind.takes_pending and (held := retries.held_back(run.filters.get("webhook"), self._operator)):
            hint = " Or repeat the command with --resume." if "Resume" in held else ""
            self.stdout.write(f"{held}{hint}")
        if run.state != RunState.DONE or run.failed:
            raise CommandError(f"Run {run.pk} is {run.state}. {run.problem}".strip())

    def _show(self, run: Run) -> None:
        filled = WIDTH * (run.percent or 0) // 100
        total = "?" if run.total is None else f"{run.total:,}"
        line = f"\r[{'#' * filled}{'.' * (WIDTH - filled)}] {run.taken:,} of {total} ({run.state})"
        self.stdout.write(line, ending="")
        self.stdout.flush()
