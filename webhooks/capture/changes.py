"""One change of an object, and what of it waits for the end of its batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from webhooks.models import Action, Event
from webhooks.registry.registration import Registration


@dataclass(frozen=True)
class Change:
    """One signalled change. ``lock`` is set where the change itself did not lock the object's row."""

    registration: Registration
    pk: Any
    action: Action
    lock: bool = False

    @property
    def label(self) -> str:
        return self.registration.label

    @property
    def key(self) -> tuple[str, str]:
        """What names the object."""
        return self.label, str(self.pk)

    def __str__(self) -> str:
        return f"{self.label} {self.pk} {self.action}"


# What its name is, what each serializer shows of it, and what went wrong; empty for an object that is gone.
ObjectState = dict[str, Any]


@dataclass(frozen=True)
class Pending:
    """A change of a batch, with the object's state where nobody can read it later."""

    change: Change
    state: ObjectState | None

    def __str__(self) -> str:
        return str(self.change)


@dataclass(frozen=True, eq=False)
class Announced:
    """An Event of no change in a batch, written already."""

    event: Event

    def __str__(self) -> str:
        return str(self.event)


@dataclass
class Batch:
    """The changes to record together; a rollback takes its own back out. ``prepared`` holds objects that are about to
    be deleted."""

    prepared: dict[tuple[str, str], ObjectState] = field(default_factory=dict)
    entries: list[Pending | Announced] = field(default_factory=list)

    def pending(self) -> list[Pending | Announced]:
        """What is to be recorded, in order: of each object the last change, and all that was announced."""
        last: dict[Any, Pending | Announced] = {}
        for entry in self.entries:
            key = entry.change.key if isinstance(entry, Pending) else entry
            last.pop(key, None)
            last[key] = entry
        return list(last.values())
