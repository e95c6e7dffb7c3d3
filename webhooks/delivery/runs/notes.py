"""Which step of a run is being tried, so that an event that ends or stalls its workers is found.

A step that fails with its worker is rolled back, and another worker takes it again. So a worker notes a risky step
before it begins, in a transaction apart. If the lease of that worker ends and the note is still there, the step was
lost. The events of a lost step are then tried one at a time, and the third loss of one of them is its end.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from webhooks.delivery.runs.acts import Key, Portion, acts
from webhooks.models import Run, Worker

# Losses that an event may have. The next one is its end.
LOSSES_ALLOWED = 2


@dataclass(frozen=True)
class Note:
    """What a worker tries, or what was lost before. Pure. A run stores it as a dictionary."""

    token: str = ""
    """The worker that is in the step. Empty: none."""
    first: int = 0
    """The first event of the step. 0: there was no step since the last one that ended well."""
    until: int = 0
    """The last event of the step, or the last one that was in a lost step."""
    losses: int = 0
    """How many steps that began with ``first`` were lost. If any was, a step takes one event."""

    @classmethod
    def of(cls, run: Run) -> Note:
        return cls(**run.note)

    def begin(self, token: str, keys: Sequence[Key]) -> Note:
        """The note of a step that begins with the first of these rows."""
        first = keys[0].event_id
        losses = self.lost().losses
        if self.first and self.first != first:
            losses = min(losses, 1)  # the one that was tried alone is gone
        if first > self.until:
            losses = 0
        return Note(token, first, self.until if losses else keys[-1].event_id, losses)

    def lost(self) -> Note:
        """The note after its step was lost, if there was one."""
        return replace(self, token="", losses=self.losses + 1) if self.token else self  # nosec B106

    def ended(self, until: int) -> Note:
        """The note after the step went well, up to this event."""
        return Note(until=self.until, losses=1) if self.losses and until < self.until else Note()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) if self != Note() else {}


def is_taken(note: Note, token: uuid.UUID) -> bool:
    """Whether another worker is in the step. If its lease has ended, it is until the sweep has taken its deliveries
    back: the sweep sees by the note that they did not end the worker."""
    return bool(note.token) and note.token != token.hex and Worker.objects.filter(token=uuid.UUID(note.token)).exists()


def limited(note: Note, portion: Portion) -> Portion:
    """The rows that the step of this note takes: one, if a step with it was lost before."""
    return portion.first(1) if note.losses else portion


def describe_losses(kind: str, key: Key) -> str:
    """Why an event of a run fails that was in three lost steps."""
    return (
        f"{acts[kind].name_of(key)}: three workers ended or stalled while they took it; "
        "look for a crash, a memory limit or a slow serializer in the log of the worker"
    )
