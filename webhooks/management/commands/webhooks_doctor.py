from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

from django.core import checks
from django.core.management.base import CommandParser
from django.db import Error

from webhooks.conf import conf
from webhooks.db import CLOCK_TOLERANCE, DatabaseClock
from webhooks.errors import describe_error
from webhooks.insight.alarms import Level
from webhooks.insight.status import read_status
from webhooks.management.base import EXIT_STATUS, LABELS, DatabaseCommand
from webhooks.models import Event
from webhooks.operations.round_trip import make_round_trip, own_address
from webhooks.permissions import Operator
from webhooks.text import one_line

# Checks that say that the tables cannot be used.
NO_TABLES = {"webhooks.E012", "webhooks.E013", "webhooks.W015"}

Finding = tuple[Level, str, str]
"""How bad it is, what it is, and its remedy."""


class Command(DatabaseCommand):
    help = (
        "Looks for all that can keep webhooks from being sent: settings, models, URLs, tables, Redis, workers, clocks, "
        "stored webhooks. Then sends a test through a worker to a receiver of its own. Each problem has its remedy. "
        "Exits with status 0 if all is well, 1 with warnings, and 2 with errors."
    )
    requires_system_checks = []
    exit_status_of_failure = 2

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--no-send", action="store_true", help="Send no test.")
        parser.add_argument("--host", help="The address of this machine that workers reach. The default is its own.")
        parser.add_argument("--seconds", type=float, default=15, help="Seconds to wait for the test. The default is 15.")

    def handle(self, *args: Any, **options: Any) -> None:
        worst = Level.GOOD
        for level, text, remedy in self._findings(options):
            self._write(level, text, remedy)
            if EXIT_STATUS.get(level, 0) > EXIT_STATUS[worst]:
                worst = level
        if exit_status := EXIT_STATUS[worst]:
            sys.exit(exit_status)

    def _write(self, level: Level, text: str, remedy: str) -> None:
        styles = {Level.ERROR: self.style.ERROR, Level.WARNING: self.style.WARNING, Level.GOOD: self.style.SUCCESS}
        shown = f"{LABELS[level]}  {one_line(text)}" + (f"\n    {one_line(remedy)}" if remedy else "")
        self.stdout.write(shown, styles.get(level))

    def _findings(self, options: dict[str, Any]) -> Iterator[Finding]:
        alias, operator = Event.objects.db, Operator("webhooks_doctor")
        messages = checks.run_checks(tags=["webhooks"], include_deployment_checks=True, databases=[alias])
        found = [one for one in messages if not one.is_silenced()]
        yield from map(_of_check, sorted(found, key=lambda one: -one.level))
        if not found:
            yield Level.GOOD, "The settings, the models, the URLs, the tables and Redis are as they must be.", ""
        if not conf.enabled:
            remedy = 'Set WEBHOOKS = {"ENABLED": True, …} once all else is well, and restart the site and the workers.'
            yield Level.ERROR, "Webhooks are off: no change is recorded, and nothing is sent.", remedy
        if any(one.id in NO_TABLES for one in found):
            return
        try:
            yield from _of_status(operator)
            yield from _of_clock(alias)
        except Error as error:
            yield Level.ERROR, f"The database cannot be used: {describe_error(error)}", "Start it, then try again."
            return
        if conf.enabled and not options["no_send"]:
            yield _of_round_trip(options["host"] or own_address(), options["seconds"], operator)


def _of_check(message: checks.CheckMessage) -> Finding:
    level = {checks.ERROR: Level.ERROR, checks.WARNING: Level.WARNING}.get(message.level, Level.NOTE)
    return level, f"{message.msg} ({message.id})", message.hint or ""


def _of_status(operator: Operator) -> Iterator[Finding]:
    status = read_status(operator)
    for alarm in status.problems:
        yield alarm.level, str(alarm.text), f"{alarm.remedy} {alarm.command}".strip()
    if not status.problems:
        yield Level.GOOD, "The status page shows no problem: workers run, and no webhook is in trouble.", ""


def _of_clock(alias: str) -> Iterator[Finding]:
    clock = DatabaseClock()
    clock.compare(alias)
    if abs(clock.offset) > CLOCK_TOLERANCE:
        text = f"The clock of this machine differs by {clock.offset:.0f} s from the database's."
        yield Level.WARNING, text, "Synchronize both, for example with chrony."
    else:
        yield Level.GOOD, "The clock of this machine agrees with the database's.", ""


def _of_round_trip(host: str, seconds: float, operator: Operator) -> Finding:
    began = time.monotonic()
    try:
        problem = make_round_trip(host, seconds, operator)
    except OSError as error:
        problem = f"No receiver can listen on {host}: {error.strerror}. Give an address of this machine with --host."
    took = time.monotonic() - began
    if problem:
        remedy = "Look at the log of the worker. If it runs on another machine or in a container, give --host or --no-send."
        return Level.WARNING, f"The test of the whole way failed. {problem}", remedy
    return Level.GOOD, f"A test went the whole way in {took:.1f} s: recorded, sent by a worker, received, verified.", ""
