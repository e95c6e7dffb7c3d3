from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import transaction
from django.db.models import CharField, IntegerField

from webhooks.ground.security import url_policy
from webhooks.ground.text import one_line
from webhooks.insight.wording import count_of
from webhooks.management import imports
from webhooks.management.base import DatabaseCommand
from webhooks.management.imports import ImportPreview, LocalSource, Plan
from webhooks.models import Webhook
from webhooks.models.webhook import ACTION_FIELDS, SECTIONS
from webhooks.operations.webhooks import ChangedMeanwhile

TOKEN = "WEBHOOKS_IMPORT_TOKEN"  # noqa: S105 # nosec B105 # the name of a variable


class Command(DatabaseCommand):
    help = (
        "Imports webhooks and event rules of NetBox or Nautobot from the responses of their REST APIs. Shows new "
        "webhooks and differences, and asks for confirmation. A webhook with an existing name stays as it is."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "sources",
            nargs="*",
            metavar="SOURCE",
            help="A JSON file with a response of /api/extras/webhooks/ or /api/extras/event-rules/, one for each page; "
            "or the URL of a NetBox or Nautobot.",
        )
        parser.add_argument(
            "--token-file",
            help=f"A file with the API token for the URL. The default is the environment variable {TOKEN}.",
        )
        parser.add_argument("--disabled", action="store_true", help="Create all webhooks disabled.")
        parser.add_argument("--dry-run", action="store_true", help="Show the result and create nothing.")
        for source in imports.local_sources:
            parser.add_argument(source.option, action="append_const", dest="local", const=source, help=source.help)
        if imports.local_sources:
            parser.add_argument(
                "--disable-originals",
                action="store_true",
                help="Disable the event rules of this site that have a webhook now, in the same transaction.",
            )
        self.add_noinput(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        source = _local_source(options)
        try:
            responses = source.read() if source else imports.read(options["sources"], _token(options["token_file"]))
        except imports.UnreadableSource as error:
            raise CommandError(str(error)) from None
        preview = imports.preview(responses, options["disabled"])
        self._show(preview, responses.missing)
        replaced = imports.replaced_by(preview) if options.get("disable_originals") else []
        if options.get("disable_originals"):
            self._show_originals(preview, replaced)
        question = f"Create {count_of(len(preview.new), 'webhook')}"
        if replaced:
            question += f" and disable {_originals(len(replaced))}"
        if options["dry_run"]:
            self._print("Nothing was created: this was a dry run.")
        elif not preview.new and not replaced:
            self._print(f"There is nothing to create{' or to disable' if options.get('disable_originals') else ''}.")
        elif options["interactive"] and not self.confirm(f"{question}?", "--dry-run"):
            self._print("Nothing was created.")
        else:
            self._apply(preview, source, replaced)

    def _apply(self, preview: ImportPreview, source: LocalSource | None, replaced: list[Plan]) -> None:
        disabled: list[str] = []
        try:
            with transaction.atomic(Webhook.objects.db):
                imports.create(preview.new)
                if source and replaced:
                    disabled = source.disable([plan.rule for plan in replaced])
        except ChangedMeanwhile:
            problem = "Nothing was created: another user has just used one of the names. Run it again."
            raise CommandError(problem) from None
        self._print(f"Created {count_of(len(preview.new), 'webhook')}.")
        if replaced:
            self._print(f"Disabled {_originals(len(disabled))}.")

    def _show_originals(self, preview: ImportPreview, replaced: list[Plan]) -> None:
        plans = [*((plan, list[str]()) for plan in preview.new), *preview.existing]
        kept = [plan for plan in plans if plan[0] not in replaced]
        self._show_lists(
            ("Originals to disable", [plan.origin for plan in replaced]),
            ("Originals that are disabled already", [plan.origin for plan, _ in kept if not plan.fields["enabled"]]),
            (
                "Originals that stay enabled",
                [f"{plan.origin}: {_why_kept(plan, differing)}" for plan, differing in kept if plan.fields["enabled"]],
            ),
        )

    def _show(self, preview: ImportPreview, missing: list[str]) -> None:
        existing = [
            f"{plan.name}: differs in {', '.join(fields)}" if fields else plan.name for plan, fields in preview.existing
        ]
        self._show_lists(
            ("New", [line for plan in preview.new for line in _description(plan)]),
            ("Existing, unchanged", existing),
            ("Skipped", [f"{item.origin}: {item.reason}" for item in preview.skipped]),
            ("Missing", missing),
        )
        self._print(
            f"{count_of(len(preview.new), 'webhook')} new, {len(existing)} existing, {len(preview.skipped)} skipped."
        )

    def _show_lists(self, *lists: tuple[str, list[str]]) -> None:
        """Show each list that is not empty below its title."""
        for title, lines in lists:
            if lines:
                for line in (f"{title}:", *(f"  {line}" for line in lines), ""):
                    self._print(line)

    def _print(self, text: str) -> None:
        self.stdout.write(one_line(text))


def _local_source(options: dict[str, Any]) -> LocalSource | None:
    """The source in the database of the site, if the options name one. Raises CommandError for options that do not go
    together."""
    chosen = options.get("local") or []
    if bool(chosen) == bool(options["sources"]):
        names = " or ".join(["at least one SOURCE", *(source.option for source in imports.local_sources)])
        raise CommandError(f"Give {names}{', not both' if chosen else ''}.")
    if options.get("disable_originals"):
        if not chosen:
            raise CommandError("--disable-originals is for originals on this site.")
        if options["disabled"]:
            raise CommandError("With --disabled and --disable-originals, nothing would be sent.")
    return chosen[0] if chosen else None


def _why_kept(plan: Plan, differing: list[str]) -> str:
    """Why an enabled original is not disabled. Its webhook differs in the fields ``differing``."""
    if differing:
        return (
            "its webhook is disabled" if differing == ["enabled"] else f"its webhook differs in {', '.join(differing)}"
        )
    return f"its webhook does not send all that it sends: {'; '.join(plan.lost)}"


def _originals(count: int) -> str:
    return f"{count} original{'' if count == 1 else 's'}"


def _token(path: str | None) -> str:
    try:
        token = (Path(path).read_text(errors="replace") if path else os.environ.get(TOKEN, "")).strip()
    except OSError as error:
        raise CommandError(f"The token cannot be read from {path}: {error.strerror}.") from None
    if not re.fullmatch(r"[\x21-\x7e]*", token):
        # Checked here, because an error of requests would show the header with the token.
        raise CommandError("The token contains spaces, line breaks or other characters that no token has.")
    return token


def _description(plan: Plan) -> list[str]:
    fields = plan.fields
    actions = [action for name, action in ACTION_FIELDS.items() if fields[name]]
    return [
        plan.name if fields["enabled"] else f"{plan.name} (disabled)",
        f"  from {plan.origin}",
        f"  {', '.join(actions)}: {', '.join(plan.object_types)}",
        f"  {fields['http_method']} {url_policy.redacted(fields['payload_url'])}",
        f"  {', '.join(_details(fields))}",
        *(f"  ! {difference}" for difference in plan.differences),
    ]


def _details(fields: dict[str, Any]) -> Iterator[str]:
    """The settings that differ from the defaults. Those that may be long or secret are without their values."""
    for name in chain.from_iterable(SECTIONS[section] for section in ("request", "security", "filters", "delivery")):
        column: Any = Webhook._meta.get_field(name)
        value = fields.get(name, column.get_default())
        if name == "content_type":
            yield value
        elif name != "http_method" and value != column.get_default():
            is_short = isinstance(column, CharField | IntegerField)
            yield f"{column.verbose_name}: {value}" if is_short else f"{'' if value else 'no '}{column.verbose_name}"
