from __future__ import annotations

from webhooks.management.base import RunCommand
from webhooks.models import RunKind


class Command(RunCommand):
    help = (
        "Sends finished deliveries again, those that succeeded too, under the same ids. "
        "Workers do it in the background; the command shows their progress."
    )
    kind = RunKind.RESEND
