from __future__ import annotations

import json
from typing import Any

from django.core.management.base import CommandError, CommandParser

from webhooks.ground import registry
from webhooks.management.base import DatabaseCommand
from webhooks.models import Webhook
from webhooks.operations import manifest
from webhooks.operations.files import dump


class Command(DatabaseCommand):
    help = (
        "Writes webhooks as a file for webhooks_apply. It has no secrets: it names environment variables for them. "
        "URLs, headers and templates are written as they are, and may contain tokens."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("names", nargs="*", metavar="NAME", help="Only these webhooks, by identifier or name.")
        parser.add_argument("--json", action="store_true", help="Write JSON. The default is YAML.")
        parser.add_argument("--schema", action="store_true", help="Write the JSON Schema of such files instead.")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["schema"]:
            self.stdout.write(json.dumps(manifest.schema(), ensure_ascii=False, indent=2))
            return
        webhooks = Webhook.objects.prefetch_related("object_types").order_by("name")
        chosen = [
            webhook
            for webhook in webhooks
            if not options["names"] or {webhook.identifier, webhook.name} & {*options["names"]}
        ]
        if unknown := sorted(
            {*options["names"]} - {text for webhook in chosen for text in (webhook.identifier, webhook.name)}
        ):
            raise CommandError(f"There is no webhook “{unknown[0]}”.")
        for webhook in chosen:
            if options["names"] and (reserved := registry.reserved_for(webhook.identifier)):
                raise CommandError(f"No file can have the webhook “{webhook.name}”. {reserved.problem}")
        try:
            self.stdout.write(dump(manifest.document(chosen), options["json"]), ending="")
        except manifest.InvalidFile as error:
            raise CommandError(str(error)) from None
