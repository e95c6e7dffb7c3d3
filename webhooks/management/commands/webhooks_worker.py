from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError

from webhooks.ground.conf import conf
from webhooks.management.base import DatabaseCommand
from webhooks.workers.database import DatabaseWorker


class Command(DatabaseCommand):
    help = (
        "Delivers webhooks without rq and Redis, until it gets SIGTERM. Needs WAKE_UP = “database” in the setting "
        "WEBHOOKS. Several such workers share the work."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        if conf.wake_up != "database":
            raise CommandError('Set WEBHOOKS["WAKE_UP"] = "database". Else changes wake other workers than this.')
        if not conf.enabled:
            raise CommandError('Webhooks are off. Set WEBHOOKS = {"ENABLED": True, …}.')
        self.stdout.write("Delivering. Ctrl-C or SIGTERM stops it.")
        self.stdout.flush()
        DatabaseWorker().run()
