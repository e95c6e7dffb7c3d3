"""Events: committed changes of objects, with the data that the serializer gave at that moment."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from django.db import connections, models, router
from django.db.models.functions import Cast, Now
from django.utils import timezone

from webhooks.db import fetch_all, from_db_time, ids_sql, ids_value, json_rows_sql
from webhooks.registry.registration import NAME_LENGTH

USERNAME_LENGTH = 150  # as in Django's own user model
REQUEST_ID_LENGTH = 200

# The action and the object type of the event that ``operations.webhooks.ping`` sends.
PING = "ping"
PING_OBJECT_TYPE = "webhooks.ping"

# ``Event.error`` begins with this if loop protection stopped the event.
CUT = "Cut: "

# Columns that may hold much text. Lists do not load them.
LARGE_FIELDS = ("data", "serializers", "snapshots", "changed", "request", "webhook_ids")

# Limits for one INSERT of many events. PostgreSQL closes the connection if a statement reaches a gigabyte.
MAX_ROWS = 1000
MAX_BYTES = 16 * 2**20

# Options of an optional text column. With ``db_default``, code of an older release can still insert rows.
EMPTY: Any = {"blank": True, "default": "", "db_default": ""}

M = TypeVar("M", bound=models.Model)


class WriteDBManager(models.Manager[M]):
    """Reads from the database that the app writes to. A replica may lag behind, and cannot lock rows."""

    @property
    def db(self) -> str:
        return self._db or router.db_for_write(self.model)

    def get_queryset(self) -> models.QuerySet[M]:
        return super().get_queryset().using(self.db)


class Action(models.TextChoices):
    CREATED = "created", "created"
    UPDATED = "updated", "updated"
    DELETED = "deleted", "deleted"


class EventQuerySet(models.QuerySet["Event"]):
    def undispatched(self) -> EventQuerySet:
        return self.filter(dispatched_at=None, error="")

    def failed(self) -> EventQuerySet:
        """Events that were never sent, for one of the reasons in ``Event.failure``, and were not replayed."""
        return self.filter(dispatched_at=None).exclude(error="")

    def replayed(self) -> EventQuerySet:
        """Failed events that were replayed."""
        return self.exclude(dispatched_at=None).exclude(error="")

    def matched_by(self, webhook_id: int) -> EventQuerySet:
        """Events that this webhook matched when they happened."""
        # Compared as text: not every database can search in a JSON list.
        ids = Cast("webhook_ids", models.TextField())
        return self.alias(ids=ids).filter(ids__regex=rf"[^0-9]{webhook_id}[^0-9]")

    def for_list(self) -> EventQuerySet:
        """Leave out large columns. ``has_data`` replaces ``data``, which ``Event.failure`` needs."""
        has_data = models.Case(models.When(data="", then=False), default=True, output_field=models.BooleanField())
        return self.annotate(has_data=has_data).defer(*LARGE_FIELDS)


def lane_name(object_type: str, object_id: str) -> str:
    """The lane of an object's deliveries within each webhook."""
    return f"{object_type}:{object_id}"


class Event(models.Model):
    """One committed change of one object. Its id is the ``sequence`` of the payload."""

    timestamp = models.DateTimeField(default=timezone.now, db_default=Now())
    # One of ``Action``, the name of a custom event, or "ping".
    action = models.CharField(max_length=100)
    object_type = models.CharField(
        max_length=200, **EMPTY, help_text="The model's label, such as dcim.site. Empty: the event has no object."
    )
    object_id = models.CharField(max_length=255)
    object_repr = models.CharField(max_length=NAME_LENGTH, **EMPTY)
    data = models.TextField(**EMPTY, help_text="The serializer's output, as the JSON text that is sent.")
    serializers = models.TextField(
        **EMPTY, help_text="The output of other serializers, by name, and the webhooks that chose them."
    )
    snapshots = models.TextField(**EMPTY, help_text="The state before and after, as the JSON text that is sent.")
    changed = models.TextField(
        **EMPTY, help_text="The names of the fields that an update changed, as JSON text; empty if unknown."
    )
    username = models.CharField(max_length=USERNAME_LENGTH, **EMPTY)
    request_id = models.CharField(max_length=REQUEST_ID_LENGTH, **EMPTY)
    depth = models.PositiveSmallIntegerField(
        default=1,
        db_default=1,
        help_text="1 if no webhook caused the change, else one more than the depth of the causing event.",
    )
    request = models.TextField(**EMPTY, help_text="The HTTP request as the payload shows it, as JSON text.")
    webhook_ids = models.JSONField(default=list, db_default=[], help_text="The webhooks that matched when it happened.")
    dispatched_at = models.DateTimeField(null=True, blank=True)
    replay_of = models.BigIntegerField(null=True, blank=True, help_text="The failed event that this one replays.")
    error = models.TextField(**EMPTY, help_text="Why it failed. A failed event is not sent.")

    objects = WriteDBManager.from_queryset(EventQuerySet)()

    class Meta:
        base_manager_name = "objects"
        default_permissions = ("view",)
        ordering = ["-pk"]
        indexes = [
            models.Index(
                fields=["id"],
                name="webhooks_event_undispatched",
                condition=models.Q(dispatched_at=None, error=""),
            ),
            models.Index(
                fields=["timestamp"],
                name="webhooks_event_failed",
                condition=~models.Q(error="") & models.Q(dispatched_at=None),
            ),
            models.Index(
                fields=["dispatched_at"],
                name="webhooks_event_dispatched",
                condition=models.Q(dispatched_at__isnull=False),
            ),
            models.Index(fields=["request_id"], name="webhooks_event_request", condition=~models.Q(request_id="")),
            models.Index(fields=["object_type", "object_id", "id"], name="webhooks_event_object"),
        ]

    def __str__(self) -> str:
        return f"{self.object_type} {self.object_id} {self.action}"

    @property
    def lane(self) -> str:
        return lane_name(self.object_type, self.object_id)

    @property
    def failure(self) -> str:
        """Why nothing was sent. Empty if the event did not fail.

        - "cut": loop protection stopped it.
        - "undecided": a condition or filter raised, so it is unknown which webhooks match.
        - "unmade": the serializer raised, so there is no payload.
        """
        if not self.error:
            return ""
        if self.error.startswith(CUT):
            return "cut"
        has_data = getattr(self, "has_data", None)  # annotated by ``for_list``
        return "undecided" if (bool(self.data) if has_data is None else has_data) else "unmade"

    @property
    def is_cut(self) -> bool:
        """Whether loop protection stopped it."""
        return self.failure == "cut"

    def insert(self, using: str) -> None:
        """Insert a new row. Does the same as ``save()`` at half its cost, which every change of an object pays."""
        connection, columns = connections[using], self._columns()
        names = ", ".join(str(column.column) for column in columns)
        values = [column.get_db_prep_save(getattr(self, column.attname), connection) for column in columns]
        statement = f"INSERT INTO webhooks_event ({names}) VALUES ({', '.join(['%s'] * len(columns))}) RETURNING id"
        [[self.pk]] = fetch_all(using, statement, values)
        self._state.adding, self._state.db = False, using

    @classmethod
    def insert_all(cls, new: Sequence[Event], using: str) -> None:
        """Insert new rows in their order, many with each statement.

        The rows are one parameter, as JSON text: SQLite limits the number of parameters.
        """
        columns = [str(column.column) for column in cls._columns()]
        names, given = ", ".join(columns), json_rows_sql(using, columns, "webhooks_event")
        statement = f"INSERT INTO webhooks_event ({names}) SELECT {names} FROM {given} WHERE 1 = 1 RETURNING id"
        texts = (json.dumps(event._json_values(using)) for event in new)
        ids = [pk for part in _parts(texts) for (pk,) in sorted(fetch_all(using, statement, [f"[{','.join(part)}]"]))]
        for event, pk in zip(new, ids, strict=True):
            event.pk = pk
            event._state.adding, event._state.db = False, using

    @classmethod
    def _columns(cls) -> list[models.Field[Any, Any]]:
        """All columns except the id, which the database sets."""
        return [column for column in cls._meta.local_concrete_fields if not column.primary_key]

    def _json_values(self, using: str) -> dict[str, Any]:
        values = {str(column.column): getattr(self, column.attname) for column in self._columns()}
        adapt = connections[using].ops.adapt_datetimefield_value
        return {name: str(adapt(value)) if isinstance(value, datetime) else value for name, value in values.items()}


def _parts(texts: Iterable[str]) -> Iterator[list[str]]:
    """Split texts into lists within ``MAX_ROWS`` and ``MAX_BYTES``."""
    part: list[str] = []
    size = 0
    for text in texts:
        if part and (len(part) == MAX_ROWS or size + len(text) > MAX_BYTES):
            yield part
            part, size = [], 0
        part.append(text)
        size += len(text)
    if part:
        yield part


class EventRow(NamedTuple):
    """The columns of an Event that a request body is made of."""

    pk: int
    timestamp: datetime
    action: str
    object_type: str
    username: str
    request_id: str
    request: str
    depth: int
    replay_of: int | None
    data: str
    snapshots: str
    changed: str
    serializers: str

    @classmethod
    def load(cls, using: str, ids: Collection[int]) -> list[EventRow]:
        """Read these events, without model instances: workers do this for each batch."""
        found = fetch_all(
            using,
            f"""
            SELECT id, timestamp, action, object_type, username, request_id, request, depth, replay_of, data, snapshots,
                changed, serializers
            FROM webhooks_event WHERE id IN {ids_sql(using)}
            """,
            [ids_value(using, ids)],
        )
        return [cls(pk, from_db_time(using, timestamp), *rest) for pk, timestamp, *rest in found]
