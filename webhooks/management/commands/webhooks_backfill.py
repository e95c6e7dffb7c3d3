from __future__ import annotations

from webhooks.management.base import RunCommand
from webhooks.models import RunKind


class Command(RunCommand):
    help = (
        "Sends a webhook the stored events, from a time on, that match its models, actions and conditions of today, "
        "and that it did not get. It may be a new webhook. "
        "Workers do it in the background; the command shows their progress."
    )
    kind = RunKind.BACKFILL
