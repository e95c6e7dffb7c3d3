from __future__ import annotations

import json
from textwrap import shorten
from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser

from webhooks.ground import registry
from webhooks.ground.payloads.schema import json_schema, misfits
from webhooks.ground.registry.registration import Registration
from webhooks.ground.text import one_line
from webhooks.management.base import DatabaseCommand
from webhooks.models import Action, Event, Webhook
from webhooks.models.permissions import Operator
from webhooks.operations.trial import Sample, try_out

MISFIT = (
    "The example does not fit the schema: the serializer does not describe what it writes. Use type hints, or "
    "@extend_schema_field of drf-spectacular."
)
MAX_LENGTH = 200  # characters of one problem: it quotes the data


class Command(DatabaseCommand):
    help = (
        "Writes the JSON Schema of the payloads of a model, from its serializer, with the payload of its newest object "
        "as an example."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("model", help="Such as dcim.site.")
        parser.add_argument("--no-example", action="store_true", help="Without the data of an object.")

    def handle(self, *args: Any, **options: Any) -> None:
        registration = registry.registration_by_label(options["model"].lower())
        if registration is None:
            known = ", ".join(registry.registered_models()) or "none"
            raise CommandError(f"{options['model']} is not registered. Registered are: {known}.")
        try:
            schema = json_schema(registration)
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from None
        example = None if options["no_example"] else _example(registration)
        self.write_json(schema | ({"examples": [example]} if example else {}))
        if wrong := misfits(example, schema) if example else []:
            self.stderr.write(MISFIT)
            for difference in wrong:
                self.stderr.write(f"  {shorten(one_line(difference), MAX_LENGTH, placeholder='…')}")


def _example(registration: Registration) -> Any:
    """The payload of an update of the newest object. None without one, or if its data cannot be written."""
    newest = registration.model._base_manager.using(Event.objects.db).order_by("-pk").first()
    if newest is None:
        return None
    chosen = [ContentType.objects.get_for_model(registration.model)]
    webhook = Webhook(payload_url="https://example.com/", on_updated=True)
    trial = try_out(webhook, chosen, Sample(registration, newest.pk, Action.UPDATED), Operator("webhooks_schema"))
    return json.loads(trial.request.body) if trial.request else None
