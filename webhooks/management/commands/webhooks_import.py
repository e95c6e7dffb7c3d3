from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from webhooks.importers import apply, source
from webhooks.importers.apply import Judged
from webhooks.importers.translate import Plan
from webhooks.management.base import DatabaseCommand
from webhooks.models.webhook import ACTION_FIELDS
from webhooks.network import url_policy

TOKEN = "WEBHOOKS_IMPORT_TOKEN"  # noqa: S105 # nosec B105 # the name of a variable
EXTRAS = {
    "signed": "secret",
    "with headers": "additional_headers",
    "with secret headers": "secret_headers",
    "with a body template": "body_template",
    "with conditions": "conditions",
}


class Command(DatabaseCommand):
    help = (
        "Makes webhooks of the webhooks and event rules of NetBox or Nautobot, from what their REST APIs answer. Shows "
        "what it will make and what has no equal, and asks. What is there already, by its name, is left as it is."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "sources",
            nargs="+",
            metavar="SOURCE",
            help="A JSON file with an answer of /api/extras/webhooks/ or /api/extras/event-rules/, one for each page; "
            "or the URL of a NetBox or Nautobot.",
        )
        parser.add_argument(
            "--token-file",
            help=f"A file with the API token for the URL. Otherwise the environment variable {TOKEN} is used.",
        )
        parser.add_argument("--disabled", action="store_true", help="Make all of them disabled.")
        parser.add_argument("--dry-run", action="store_true", help="Show what would be made, and make nothing.")
        parser.add_argument(
            "--noinput",
            "--no-input",
            action="store_false",
            dest="interactive",
            help="Create them without asking. Needed where there is no terminal to ask at.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            found = source.read(options["sources"], _token(options["token_file"]))
        except source.UnreadableSource as error:
            raise CommandError(_shown(str(error))) from None
        judged = apply.judge(found, options["disabled"])
        self._show(judged, found.missing)
        if options["dry_run"]:
            self._say("Nothing was made: this was a dry run.")
        elif not judged.to_make:
            self._say("There is nothing to make.")
        elif not options["interactive"] or self._is_wanted(len(judged.to_make)):
            self._make(judged.to_make)
        else:
            self._say("Nothing was made.")

    def _make(self, wanted: list[Plan]) -> None:
        try:
            apply.make(wanted)
        except apply.MadeMeanwhile as error:
            raise CommandError(
                _shown(f"Nothing was made: one of these was made meanwhile by somebody else ({error}). Run it again.")
            ) from None
        self._say(f"Made {_count(len(wanted))}.")

    def _is_wanted(self, count: int) -> bool:
        if not sys.stdin.isatty():
            raise CommandError(
                "Nothing was made: there is no terminal to ask at. Add --noinput to make them, or --dry-run."
            )
        try:
            return input(f"Make {_count(count)}? [y/N] ").strip().lower() in ("y", "yes")
        except (EOFError, KeyboardInterrupt):
            self._say("")
            return False

    def _show(self, judged: Judged, missing: list[str]) -> None:
        self._section("To make", [line for plan in judged.to_make for line in _lines(plan)])
        self._section("There already, and left as they are", [_present(*one) for one in judged.present])
        self._section("Not made", [f"{one.origin}: {one.reason}" for one in judged.skipped])
        self._section("Not read", missing)
        self._say(
            f"{_count(len(judged.to_make))} to make, {len(judged.present)} there already, "
            f"{len(judged.skipped)} with no equal or refused."
        )

    def _section(self, title: str, lines: list[str]) -> None:
        if lines:
            self._say(f"{title}:")
            for line in lines:
                self._say(f"  {line}")
            self._say("")

    def _say(self, text: str) -> None:
        self.stdout.write(_shown(text))


def _token(path: str | None) -> str:
    try:
        token = (Path(path).read_text() if path else os.environ.get(TOKEN, "")).strip()
    except OSError as error:
        raise CommandError(f"The token cannot be read from {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise CommandError(f"The token cannot be read from {path}: it is no text.") from None
    if not re.fullmatch(r"[\x21-\x7e]*", token):
        # Said here, for what goes wrong with a header below this is told with the header.
        raise CommandError("The token has spaces, line breaks or other characters in it that no token has.")
    return token


def _lines(plan: Plan) -> list[str]:
    fields = plan.fields
    actions = [action for name, action in ACTION_FIELDS.items() if fields[name]]
    said = [fields["content_type"], *(word for word, name in EXTRAS.items() if fields[name]), *_connecting(fields)]
    return [
        plan.name if fields["enabled"] else f"{plan.name} (disabled)",
        f"  from {plan.origin}",
        f"  {', '.join(actions)}: {', '.join(plan.object_types)}",
        f"  {fields['http_method']} {url_policy.redacted(fields['payload_url'])}",
        f"  {', '.join(said)}",
        *(f"  ! {what}" for what in plan.unequal),
    ]


def _connecting(fields: dict[str, Any]) -> Iterator[str]:
    if not fields["ssl_verification"]:
        yield "without TLS verification"
    if fields["ca_file_path"]:
        yield f"trusting {fields['ca_file_path']}"
    if fields["timeout"] is not None:
        yield f"with a timeout of {fields['timeout']} s"


def _present(plan: Plan, differences: list[str]) -> str:
    return f"{plan.name}: differs in {', '.join(differences)}" if differences else plan.name


def _count(count: int) -> str:
    return f"{count} webhook{'' if count == 1 else 's'}"


def _shown(text: str) -> str:
    """Without control characters, which would speak to the terminal: names come from elsewhere."""
    return "".join(character if character.isprintable() else " " for character in text)
