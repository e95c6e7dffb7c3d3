from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter
from typing import Any

from django.core.management.base import CommandError, CommandParser

from webhooks.ground.text import one_line
from webhooks.insight.why import Cause, StoredChange, UnknownObject, Verdict, why
from webhooks.insight.wording import exact_time
from webhooks.management.base import DatabaseCommand, check_utf8, webhook_named

NO_CHANGE = "No recent change of its models is stored. Ask about an object: then it is judged as it is now."


class Command(DatabaseCommand):
    help = (
        "Says for each webhook why nothing arrived, or that it was sent: about the last change of an object, about an "
        "event, about the changes of a request, or about the last changes of the models of a webhook. Changes nothing."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("object", nargs="*", metavar="MODEL KEY", help="An object, such as: dcim.site 5")
        parser.add_argument("--event", type=int, help="The id of an event.")
        parser.add_argument("--request", default="", help="The id of a request.")
        parser.add_argument("--webhook", help="The id or the name of a webhook. Default: all.")
        parser.add_argument("--json", action="store_true", help="Print JSON, as the REST API.")

    def handle(self, *args: Any, **options: Any) -> None:
        check_utf8(*options["object"], options["request"], options["webhook"])
        asked: dict[str, Any] = {
            "obj": tuple(options["object"]) or None,
            "event": options["event"],
            "request_id": options["request"],
        }
        given = sum(value not in (None, "") for value in asked.values())
        if len(options["object"]) not in (0, 2) or given > 1 or not (given or options["webhook"]):
            raise CommandError(
                "Give one of these: MODEL KEY, such as dcim.site 5; --event ID; --request ID; --webhook WEBHOOK alone."
            )
        webhook = webhook_named(options["webhook"]) if options["webhook"] else None
        try:
            verdicts = why(**asked, webhook=webhook)
        except UnknownObject as error:
            raise CommandError(str(error)) from None
        if options["json"]:
            self.write_json({"verdicts": [verdict.figures() for verdict in verdicts]})
            return
        if not verdicts:
            self.stdout.write(NO_CHANGE if webhook else "There is no webhook.")
        for line in _lines(verdicts):
            # Names and errors come from elsewhere, and would control the terminal.
            self.stdout.write(one_line(line))


def _lines(verdicts: list[Verdict]) -> Iterator[str]:
    for change, group in groupby(verdicts, key=attrgetter("change")):
        yield _title(change)
        about = list(group)
        shown = [verdict for verdict in about if verdict.cause != Cause.NOT_CHOSEN] or about
        for verdict in shown:
            yield f"{verdict.webhook.name}: {verdict.cause.label}"
            yield f"  {verdict.text}"
            if verdict.remedy:
                yield f"  → {verdict.remedy}"
            if earlier := verdict.earlier:
                yield f"  Before that: {earlier.text}"
        if others := [verdict.webhook.name for verdict in about if verdict not in shown]:
            yield f"{', '.join(others)}: {Cause.NOT_CHOSEN.label}"


def _title(change: StoredChange | None) -> str:
    if change:
        name = f"{change.object_type} {change.object_id}".strip()
        shown = f" “{change.object_repr}”" if change.object_repr else ""
        by = f" by {change.username}" if change.username else ""
        return f"{name}{shown} {change.action} at {exact_time(change.timestamp)}{by}"
    return "Nothing is stored of the last change."
