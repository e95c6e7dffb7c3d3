from __future__ import annotations

from typing import Any

from webhooks.delivery import sweep
from webhooks.management.base import DatabaseCommand
from webhooks.models import Sweep
from webhooks.workers import jobs


class Command(DatabaseCommand):
    help = (
        "Returns deliveries of lost workers to the queue, unblocks lanes, deletes old rows, and wakes a worker if "
        "something is due. Workers of the shipped class do this automatically. With stock workers only, run it from "
        "cron every minute."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        Sweep.begin(interval=0)
        changed = sweep.sweep()
        jobs.wake_up_if_due()
        self.stdout.write(f"{changed} row{'' if changed == 1 else 's'} changed.")
