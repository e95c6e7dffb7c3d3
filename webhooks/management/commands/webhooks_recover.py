from __future__ import annotations

from webhooks.management.base import RunCommand
from webhooks.models import RunKind


class Command(RunCommand):
    help = (
        "Sends everything of a webhook again, from a time on, that failed: its deliveries, and events that failed "
        "before they had deliveries. "
        "Workers do it in the background; the command shows their progress."
    )
    kind = RunKind.RECOVER
