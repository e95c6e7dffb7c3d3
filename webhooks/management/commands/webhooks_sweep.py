from __future__ import annotations

from typing import Any

from webhooks.delivery import maintenance
from webhooks.management.base import DatabaseCommand
from webhooks.models import Sweep
from webhooks.workers import jobs


class Command(DatabaseCommand):
    help = (
        "Takes back expired claims, frees lanes, forgets old rows, and wakes a worker for what is due. Workers of "
        "the shipped class do all of this automatically; run it from cron, every minute, where only stock workers run."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        Sweep.begin(interval=0)
        changed = maintenance.sweep()
        jobs.wake_up_if_due()
        self.stdout.write(f"{changed} row{'' if changed == 1 else 's'} changed.")
