from argparse import ArgumentParser
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand
from django.db import transaction
from rest_framework.authtoken.models import Token

from core.demo import load


class Command(BaseCommand):
    help = "Create the demo data and an administrator. If you run it again, it changes nothing."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--email", default="admin@example.com")
        parser.add_argument("--password", default="admin")
        parser.add_argument("--token", help="the administrator's API token (default: random)")

    @transaction.atomic
    def handle(self, *, email: str, password: str, token: str | None, **options: Any) -> None:
        created = load()
        api_token = self.administrator_token(email, password, token)
        self.stdout.write(f"{created} objects created. Administrator: {email}, API token: {api_token}")

    def administrator_token(self, email: str, password: str, key: str | None) -> str:
        users = get_user_model().objects
        user = users.filter(email=email).first() or users.create_superuser(email, password)
        if not user.check_password(password):
            user.set_password(password)
            user.save(update_fields=["password"])
        if key:
            Token.objects.filter(user=user).exclude(key=key).delete()
        return Token.objects.get_or_create(user=user, defaults={"key": key} if key else {})[0].key
