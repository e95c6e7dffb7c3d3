from __future__ import annotations

from webhooks.management.base import RunCommand
from webhooks.models import RunKind


class Command(RunCommand):
    help = (
        "Captures the objects of events again, as new events with the data of today. "
        "Workers do it in the background; the command shows their progress."
    )
    kind = RunKind.REPLAY
