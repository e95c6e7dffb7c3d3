from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError

from webhooks.management.base import DatabaseCommand
from webhooks.operations import key_rotation
from webhooks.security.encryption import Unreadable


class Command(DatabaseCommand):
    help = (
        'Encrypts the secrets of all webhooks anew with the newest key: the first of WEBHOOKS["ENCRYPTION_KEYS"], or '
        "the one that SECRET_KEY gives. Afterwards older keys can be taken out of the settings. May be run again."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            result = key_rotation.rotate()
        except Unreadable as error:
            raise CommandError(f"Nothing was done: {error}.") from error
        self.stdout.write(
            f"{result.renewed} encrypted anew, {result.current} had the newest key, "
            f"{len(result.unreadable)} unreadable."
        )
        if result.unreadable:
            which = "; ".join(f"the {name} of “{webhook}”" for webhook, name in result.unreadable)
            raise CommandError(f"Not readable with any key, and left as it is: {which}. Keep or put back the old key.")
