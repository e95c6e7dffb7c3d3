"""The models of the generated hosts: one of each kind that Django allows.

Each has ``name``, ``n`` and ``custom``, except the models between. A model with a parent to count in calls it ``box``.
The tests of this directory register them, no others do.
"""

from __future__ import annotations

import itertools
import uuid
from enum import Enum
from typing import Any

from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.db.models import F

import webhooks


def new_custom() -> dict[str, Any]:
    return {"flag": 0}


class Named(models.Model):
    name = models.CharField(max_length=50, default="new")
    n = models.IntegerField(default=0)
    custom = models.JSONField(default=new_custom)

    def __str__(self) -> str:
        """As a host that returns a field which may be null."""
        return self.name if self.n else None  # type: ignore[return-value]

    class Meta:
        abstract = True


class Label(Named):
    pass


class Box(Named):
    """Has Django's own manager, as the models that point to it."""

    labels = models.ManyToManyField(Label, related_name="boxes")
    friends = models.ManyToManyField("self")
    notes = GenericRelation("hosts.Note")


class Item(Named):
    box = models.ForeignKey(Box, models.CASCADE, related_name="items")
    liked = models.ForeignKey(Box, models.SET_NULL, null=True, related_name="+")
    spare = models.ForeignKey(Box, models.SET_DEFAULT, null=True, default=None, related_name="+")
    next = models.ForeignKey("self", models.SET_NULL, null=True)


class Note(Named):
    """Points to an object of any model."""

    content_type = models.ForeignKey(ContentType, models.CASCADE, null=True, db_constraint=False, related_name="+")
    object_id = models.CharField(max_length=50, null=True)
    about = GenericForeignKey()


class Crate(Named):
    """Has the app's manager, as the model that points to it."""

    labels = models.ManyToManyField(Label, related_name="crates")
    objects = webhooks.WebhookManager()


class Piece(Named):
    box = models.ForeignKey(Crate, models.CASCADE, related_name="items")
    liked = models.ForeignKey(Crate, models.SET_NULL, null=True, related_name="+")
    objects = webhooks.WebhookManager()


class Vehicle(Named):
    labels = models.ManyToManyField(Label, related_name="vehicles")


class Truck(Vehicle):
    freight = models.IntegerField(default=0)


class TruckProxy(Truck):
    class Meta:
        proxy = True


class Club(Named):
    members = models.ManyToManyField(Label, through="Membership", related_name="clubs")


class Membership(models.Model):
    box = models.ForeignKey(Club, models.CASCADE)
    label = models.ForeignKey(Label, models.CASCADE)
    n = models.IntegerField(default=0)


class Seat(Named):
    pk = models.CompositePrimaryKey("row", "number")
    row = models.IntegerField()
    number = models.IntegerField()
    objects = webhooks.WebhookManager()


_uuids = itertools.count(1)


def next_uuid() -> uuid.UUID:
    return uuid.UUID(int=next(_uuids))


def restart_uuids() -> None:
    """Let a program get the same keys as its run before."""
    global _uuids
    _uuids = itertools.count(1)


class Gizmo(Named):
    id = models.UUIDField(primary_key=True, default=next_uuid)


class Code(str, Enum):  # noqa: UP042 because the str() of a StrEnum is its value
    """Its ``str()`` is not its value."""

    A, B, C, D, E = "aa", "bb", "cc", "dd", "ee"


class Country(Named):
    code = models.CharField(max_length=10, primary_key=True)
    objects = webhooks.WebhookManager()


class Account(Named):
    double: Any = models.GeneratedField(expression=F("n") * 2, output_field=models.IntegerField(), db_persist=True)
    status = models.CharField(max_length=10, db_default="open")


class LegacyRow(Named):
    """The table of the unmanaged model."""


class Legacy(Named):
    class Meta:
        managed = False
        db_table = "hosts_legacyrow"


class OverviewRow(Named):
    """The table under the view."""

    id = models.IntegerField(primary_key=True)


class Overview(Named):
    """Its view is only on PostgreSQL: SQLite does not count the rows that an UPDATE of a view changes."""

    id = models.IntegerField(primary_key=True)

    class Meta:
        managed = False
        db_table = "hosts_overview"


# Secrets. Each value begins with the mark, so that it is recognized wherever it is sent.
MARK = "SECRET-"


def mask(value: str) -> str:
    """Hosts may show some values of a column, and mask others."""
    return f"**** {value[-1:]}" if MARK in value else value


class EncryptedTextField(models.TextField):
    """Secret by the name of its class."""


class Session(Named):
    """As Django's: its key is the secret."""

    session_key = models.CharField(max_length=40, primary_key=True)


class Visit(Named):
    session = models.OneToOneField(Session, models.CASCADE, primary_key=True)


class Ticket(Named):
    pk = models.CompositePrimaryKey("token", "number")
    token = models.CharField(max_length=40)
    number = models.IntegerField()


class Person(Named):
    """The registration excludes the first of its secrets, and serializers mask the last."""

    ssn = models.CharField(max_length=40)
    password = models.CharField(max_length=40)
    pin = EncryptedTextField()
    card = models.CharField(max_length=40)
    boss = models.ForeignKey("self", models.SET_NULL, null=True, related_name="staff")

    @property
    def masked_card(self) -> str:
        return mask(self.card)


class Badge(Named):
    box = models.ForeignKey(Person, models.CASCADE)
    session = models.ForeignKey(Session, models.SET_NULL, null=True, related_name="+")
    visit = models.ForeignKey(Visit, models.SET_NULL, null=True, related_name="+")


class Desk(Named):
    """A user may view some of them only, as in NetBox: see ``Theatre.open``."""


KINDS: dict[str, type[models.Model]] = {
    model.__name__: model
    for model in (
        Label, Box, Item, Note, Crate, Piece, Vehicle, Truck, TruckProxy, Club, Membership, Seat, Gizmo, Country,
        Account, Legacy, Overview, Session, Visit, Ticket, Person, Badge, Desk,
    )
}  # fmt: skip

WITH_SECRET_KEYS = ("Session", "Visit", "Ticket")
"""The models that cannot be registered."""

TABLES: dict[str, str] = {
    kind: model._meta.db_table for kind, model in KINDS.items() if kind not in ("TruckProxy", "Overview")
} | {"Overview": "hosts_overviewrow"}
"""The tables with rows, by the names of their models."""
