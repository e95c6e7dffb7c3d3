from __future__ import annotations

from webhooks.management.base import RunCommand
from webhooks.models import RunKind


class Command(RunCommand):
    help = (
        "Sends failed deliveries again, and makes the next attempt of pending ones due now. "
        "Workers do it in the background; the command shows their progress."
    )
    kind = RunKind.RETRY
