from argparse import ArgumentParser
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.contrib.contenttypes.models import ContentType
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from webhooks.models import MediaType, Webhook


@dataclass(frozen=True)
class Plan:
    name: str
    models: tuple[str, ...]
    path: str
    content_type: MediaType = MediaType.JSON
    prechange: bool = False


PLANS = (
    Plan("Sites and racks", ("dcim.site", "dcim.rackgroup", "dcim.rack"), "sites", prechange=True),
    Plan("Prefixes and addresses", ("ipam.prefix", "ipam.ipaddress"), "addresses", MediaType.FORM),
    Plan("Tenants, to a receiver that fails twice", ("tenancy.tenant",), "tenants/fails-2-times"),
    Plan("Circuits, to a receiver that always fails", ("circuits.circuit",), "circuits/always-fails"),
)


class Command(BaseCommand):
    help = "Create a few webhooks for a receiver. If they exist, update their URL and secret."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("receiver", help="the base URL of the receiver")
        parser.add_argument("--secret", default="", help="the secret for signatures (default: no signatures)")

    @transaction.atomic
    def handle(self, *, receiver: str, secret: str, **options: Any) -> None:
        if not receiver.startswith(("http://", "https://")):
            raise CommandError(f"{receiver} is not a URL. It must start with http:// or https://.")
        for plan in PLANS:
            self.define(plan, receiver.rstrip("/"), secret)
        self.stdout.write(f"{len(PLANS)} webhooks now send to {receiver}.")

    def define(self, plan: Plan, receiver: str, secret: str) -> None:
        values = {
            "payload_url": f"{receiver}/{plan.path}",
            "content_type": plan.content_type,
            "secret": secret,
            "prechange": plan.prechange,
            **dict.fromkeys(("on_created", "on_updated", "on_deleted"), True),
        }
        webhook, _ = Webhook.objects.update_or_create(name=plan.name, defaults=values)
        models = map(apps.get_model, plan.models)
        webhook.object_types.set(ContentType.objects.get_for_models(*models).values())
