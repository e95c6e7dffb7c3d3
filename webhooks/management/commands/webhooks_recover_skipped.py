from __future__ import annotations

from webhooks.management.base import RunCommand
from webhooks.models import RunKind


class Command(RunCommand):
    help = (
        "Sends a webhook the objects of changes that it skipped, from a time on: each object once, as it is now, if it "
        "matches the conditions of today. Use it after a wrong condition was corrected. "
        "Workers do it in the background; the command shows their progress."
    )
    kind = RunKind.RECOVER_SKIPPED
