"""Sequences of changes of one object, and the ways to roll them back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.db import transaction

from tests.testapp.api.serializers import ThingSerializer
from tests.testapp.models import Label, Thing


class Rollback(Exception):
    """Ends an atomic block without its changes."""


def bare_savepoint() -> str | None:
    """One that Django's on_commit does not know of. Django 6.1 gave the function another name."""
    return getattr(transaction, "savepoint_create", transaction.savepoint)()


@dataclass
class Subject:
    """One object that tests create, change, tag, delete and create again with the same key."""

    pk: int
    label: Label
    count: int = 0

    def create(self) -> None:
        Thing.objects.create(pk=self.pk, name=self.next_name())

    def update(self) -> None:
        thing = Thing.objects.get(pk=self.pk)
        thing.name = self.next_name()
        thing.save()

    def tag(self) -> None:
        thing = Thing.objects.get(pk=self.pk)
        if thing.labels.exists():
            thing.labels.clear()
        else:
            self.label.things.add(thing)

    def delete(self) -> None:
        Thing.objects.get(pk=self.pk).delete()

    def next_name(self) -> str:
        self.count += 1
        return f"name {self.count}"

    def state(self) -> dict[str, Any] | None:
        thing = Thing.objects.filter(pk=self.pk).first()
        return dict(ThingSerializer(thing).data) if thing else None


def in_atomic_that_fails(work: Callable[[], Any]) -> None:
    with contextlib.suppress(Rollback), transaction.atomic():
        work()
        raise Rollback


def in_bare_savepoint(work: Callable[[], Any]) -> None:
    savepoint = bare_savepoint()
    work()
    transaction.savepoint_rollback(savepoint)


def apply(subject: Subject, changes: tuple[str, ...]) -> None:
    for change in changes:
        getattr(subject, change)()


ROLLBACKS: dict[str, Callable[[Subject, tuple[str, ...]], None]] = {
    "atomic": lambda subject, changes: in_atomic_that_fails(lambda: apply(subject, changes)),
    "savepoint": lambda subject, changes: in_bare_savepoint(lambda: apply(subject, changes)),
}
