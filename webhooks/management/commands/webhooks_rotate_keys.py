from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError

from webhooks.ground.security.encryption import Unreadable
from webhooks.management.base import DatabaseCommand
from webhooks.operations.webhooks import rotate_keys


class Command(DatabaseCommand):
    help = (
        'Encrypts the secrets of all webhooks with the newest key: the first of WEBHOOKS["ENCRYPTION_KEYS"], or the '
        "one derived from SECRET_KEY. After that, remove older keys from the settings. You can run it again."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            result = rotate_keys()
        except Unreadable as error:
            raise CommandError(f"Nothing was changed: {error}.") from error
        self.stdout.write(
            f"{result.renewed} encrypted with the newest key, {result.current} had it already, "
            f"{len(result.unreadable)} unreadable."
        )
        if result.unreadable:
            which = "; ".join(f"the {name} of “{webhook}”" for webhook, name in result.unreadable)
            raise CommandError(f"No key can decrypt {which}. They stay unchanged: put the old key back.")
