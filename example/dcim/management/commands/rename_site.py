from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from dcim.models import Site


class Command(BaseCommand):
    help = "Rename a site: an example of a change without an HTTP request."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("slug")
        parser.add_argument("name")

    @transaction.atomic
    def handle(self, *, slug: str, name: str, **options: Any) -> None:
        site = Site.objects.filter(slug=slug).first()
        if site is None:
            raise CommandError(f"There is no site with the slug {slug!r}.")
        site.name = name
        site.full_clean()
        site.save()
        self.stdout.write(f"Site {slug} is now named {name}.")
