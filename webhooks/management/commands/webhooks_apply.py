from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from webhooks.ground.text import one_line
from webhooks.insight.wording import count_of
from webhooks.management.base import DatabaseCommand, check_utf8
from webhooks.models import Webhook
from webhooks.models.permissions import Operator
from webhooks.operations import manifest
from webhooks.operations.files import parse
from webhooks.operations.webhooks import ChangedMeanwhile

STANDARD_INPUT = "-"

DIFFERS = 1
"""The exit status of a check that found changes."""


class Command(DatabaseCommand):
    help = (
        "Creates and changes webhooks, so that they are as a YAML or JSON file says. Shows the plan first, and asks "
        "for confirmation. A second run changes nothing."
    )
    exit_status_of_failure = 2  # 1 is for changes

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", help='A file such as webhooks.yaml. "-" reads the standard input.')
        parser.add_argument(
            "--check",
            action="store_true",
            help="Change nothing. The exit status is 1 if something would change, and 2 if it cannot be known.",
        )
        parser.add_argument(
            "--prune", action="store_true", help="Remove webhooks with identifiers that are not in the file."
        )
        parser.add_argument("--user", default="", help="The name in the history. The default is the command.")
        self.add_noinput(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        check_utf8(options["user"])
        operator = Operator("webhooks_apply", options["user"])
        try:
            changes = manifest.plan(parse(_text_of(options["file"])), operator, options["prune"])
        except manifest.InvalidFile as error:
            raise CommandError(f"{options['file']} cannot be applied:\n{error}") from None
        for change in changes:
            self.stdout.write(one_line(str(change)))
        if not changes:
            self.stdout.write("There is nothing to change.")
        elif options["check"]:
            count = count_of(len(changes), "webhook")
            self.stdout.write(f"{count} would change. Nothing was changed: this was a check.")
            sys.exit(DIFFERS)
        elif options["interactive"] and not self.confirm(f"Change {count_of(len(changes), 'webhook')}?", "--check"):
            self.stdout.write("Nothing was changed.")
        else:
            self._apply(changes, operator)

    def _apply(self, changes: list[manifest.Change], operator: Operator) -> None:
        try:
            manifest.apply(changes, operator)
        except (ChangedMeanwhile, Webhook.DoesNotExist):
            problem = "Nothing was changed: another user has just changed one of the webhooks. Run it again."
            raise CommandError(problem) from None
        self.stdout.write(f"Changed {count_of(len(changes), 'webhook')}.")


def _text_of(path: str) -> str:
    try:
        return sys.stdin.read() if path == STANDARD_INPUT else Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise CommandError(f"{path} is not UTF-8.") from None
