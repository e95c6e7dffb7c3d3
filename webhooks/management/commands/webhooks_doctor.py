from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from django.core import checks
from django.core.management.base import CommandParser
from django.db import Error

from webhooks.ground.conf import conf
from webhooks.ground.db.clock import CLOCK_TOLERANCE, DatabaseClock
from webhooks.ground.errors import describe_error
from webhooks.ground.security import url_policy
from webhooks.ground.text import one_line
from webhooks.insight.alarms import Alarm, Level, Problem
from webhooks.insight.alarms.causes import NO_WORKERS
from webhooks.insight.status import read_status
from webhooks.insight.wording import count_of
from webhooks.management.base import EXIT_STATUS, LABELS, DatabaseCommand
from webhooks.models import Event, Webhook
from webhooks.models.permissions import Operator
from webhooks.operations.round_trip import NotAllowed, make_round_trip, own_address
from webhooks.operations.validation import fixed_part
from webhooks.workers.network import connect

# Checks that say that the tables cannot be used.
NO_DATABASE = "webhooks.W015"
NO_TABLES = {"webhooks.E012", "webhooks.E013", NO_DATABASE}

# Checks that say that no worker can start, so a test would only wait.
NO_QUEUE = {"webhooks.E001", "webhooks.E006"}

# What the status page says of Redis and rq's workers.
OF_RQ = {
    Problem.REDIS, Problem.SUSPENDED, Problem.NO_WORKER, Problem.NO_WORKER_OF_QUEUE, Problem.STOCK_WORKERS,
}  # fmt: skip

RESOLVE_SECONDS = 20
"""How long the destinations of all webhooks may take: a name server that does not answer costs two seconds a name."""

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
        parser.add_argument(
            "--seconds", type=float, default=15, help="Seconds to wait for the test. The default is 15."
        )

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
        shown = [message for message in messages if not message.is_silenced()]
        yield from map(_of_check, sorted(shown, key=lambda message: -message.level))
        if not shown and conf.enabled:  # while webhooks are off, most checks do not run
            checked = "the URLs, the tables and Redis" if conf.wake_up == "rq" else "the URLs and the tables"
            yield Level.GOOD, f"The settings, the models, {checked} are as they must be.", ""
        if not conf.enabled:
            remedy = 'Set WEBHOOKS = {"ENABLED": True, …} once all else is well, and restart the site and the workers.'
            yield Level.ERROR, "Webhooks are off: no change is recorded, and nothing is sent.", remedy
        if any(message.id in NO_TABLES for message in shown):
            return
        try:
            problems = read_status(operator).problems
            yield from _of_status(problems)
            yield from _of_destinations()
            yield from _of_clock(alias)
        except Error as error:
            yield Level.ERROR, f"The database cannot be used: {describe_error(error)}", "Start it, then try again."
            return
        can_send = conf.enabled and conf.is_valid("WAKE_UP") and not any(message.id in NO_QUEUE for message in shown)
        if can_send and not options["no_send"]:
            knows_worker = not any(alarm.problem in NO_WORKERS for alarm in problems)
            yield _of_round_trip(options["host"] or own_address(), options["seconds"], operator, knows_worker)


def _of_check(message: checks.CheckMessage) -> Finding:
    if message.id == NO_DATABASE:  # a warning elsewhere: commands that check first may still start
        return Level.ERROR, f"{message.msg} ({message.id})", message.hint or ""
    level = {checks.ERROR: Level.ERROR, checks.WARNING: Level.WARNING}.get(message.level, Level.NOTE)
    return level, f"{message.msg} ({message.id})", message.hint or ""


def _of_status(problems: Iterable[Alarm]) -> Iterator[Finding]:
    alarms = [alarm for alarm in problems if alarm.problem != Problem.TURNED_OFF]  # found already
    if not conf.is_valid("WAKE_UP"):  # a check reports it, and nothing is known of workers until it is corrected
        alarms = [alarm for alarm in alarms if alarm.problem not in OF_RQ]
    for alarm in alarms:
        yield alarm.level, str(alarm.text), f"{alarm.remedy} {alarm.command}".strip()
    if not alarms and conf.enabled and conf.is_valid("WAKE_UP"):
        yield Level.GOOD, "The status page shows no problem: workers run, and no webhook is in trouble.", ""


def _of_destinations() -> Iterator[Finding]:
    """Enabled webhooks to which the settings forbid to send, as of today: a URL is judged when its webhook is saved."""
    if conf.invalid_destination:  # a check reports it
        return
    deadline, judged, left = time.monotonic() + RESOLVE_SECONDS, dict[str, str](), 0
    for name, url in Webhook.objects.filter(enabled=True).order_by("name").values_list("name", "payload_url"):
        place = url_policy.redacted(fixed_part(url)).removesuffix("…")
        if place and place not in judged:
            if time.monotonic() > deadline:
                left += 1
                continue
            judged[place] = connect.why_blocked(place)
        if reason := judged.get(place):
            yield Level.ERROR, f"Webhook “{name}” cannot be sent: {reason}.", "Correct its URL, or the setting."
    if left:
        text = f"The destinations of {count_of(left, 'webhook')} were not checked: the name server is slow."
        yield Level.NOTE, text, ""


def _of_clock(alias: str) -> Iterator[Finding]:
    clock = DatabaseClock()
    clock.compare(alias)
    if abs(clock.offset) > CLOCK_TOLERANCE:
        text = f"The clock of this machine differs by {clock.offset:.0f} s from the database's."
        yield Level.WARNING, text, "Synchronize both, for example with chrony."
    else:
        yield Level.GOOD, "The clock of this machine agrees with the database's.", ""


def _of_round_trip(host: str, seconds: float, operator: Operator, knows_worker: bool) -> Finding:
    began, remedy = time.monotonic(), ""
    try:
        if problem := make_round_trip(host, seconds, operator):
            remedy = (
                "Look at the log of the worker. If it runs on another machine or in a container, give --host or "
                "--no-send."
            )
    except OSError as error:
        problem, remedy = (
            f"No receiver can listen on {host}: {error.strerror}.",
            "Give an address of this machine with --host.",
        )
    except NotAllowed as error:
        problem = f"It was not sent: {error}."
        remedy = (
            "If webhooks need not reach this machine, all is well: give --no-send. Else change the setting, or give "
            "another address of this machine with --host."
        )
    took = time.monotonic() - began
    if problem:
        return Level.WARNING, f"The test of the whole way failed. {problem}", remedy
    text = f"A test went the whole way in {took:.1f} s: recorded, sent by a worker, received, verified."
    if conf.wake_up == "rq" and not knows_worker:
        return Level.WARNING, text, "So a worker runs, with another Redis than this process: compare their RQ_QUEUES."
    return Level.GOOD, text, ""
