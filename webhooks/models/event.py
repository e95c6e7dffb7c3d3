"""Events: committed changes of objects, with the data that the serializer gave at that moment."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import connections, models
from django.db.models.expressions import RawSQL
from django.db.models.functions import Cast, Now
from django.utils import timezone
from django.utils.text import Truncator
from django.utils.translation import gettext_lazy as _

from webhooks.ground.db import (
    Statement,
    delete_rows,
    delete_sql,
    execute,
    fetch_all,
    insert_row_sql,
    insert_rows_sql,
    is_postgresql,
    to_db_time,
    with_new_sql,
)
from webhooks.ground.text import NAME_LENGTH
from webhooks.models.columns import (
    EMPTY,
    REQUEST_ID_LENGTH,
    TRACE_LENGTH,
    USERNAME_LENGTH,
    PackedTextField,
    WriteDBManager,
    alters_data,
    default,
    json_parts,
)

# The action and the object type of the event that ``operations.webhooks.ping`` sends.
PING = "ping"
PING_OBJECT_TYPE = "webhooks.ping"

# ``Event.error`` begins with this if loop protection stopped the event.
LOOP_PROTECTION = "Loop protection: "

# Columns that may hold much text. Lists do not load them.
LARGE_FIELDS = ("data", "serializers", "snapshots", "changed", "context", "request", "webhook_ids")

# The columns that a request body is made of, except for the time: see ``ground.payloads.SendableEvent``.
SENT_COLUMNS = (
    "pk", "action", "object_type", "username", "request_id", "request", "depth", "replay_of", "data", "snapshots",
    "changed", "context", "serializers", "trace",
)  # fmt: skip

# The columns with text that is sent. Together they may have some megabytes.
TEXTS = ("data", "serializers", "snapshots", "changed", "context", "request")

# Workers read the texts of larger events than this apart from the others, a few megabytes at a time (``Event.size``).
SMALL = 16_384

# The order of the ids of events may differ from that of their times by this much. Transactions overlap, clocks of two
# sites differ, and a clock that was an hour ahead is set back. A wider look only reads more events.
OVERLAP = timedelta(hours=2)

# Characters of the name of an object, and of a webhook, in the history, which has room for 200.
NAME_SHOWN = 80


class _TextTime(models.TextField):
    """A time that a query reads as text."""

    def from_db_value(self, value: str, expression: Any, connection: Any) -> datetime:
        moment = datetime.fromisoformat(value)
        return moment if moment.tzinfo else moment.replace(tzinfo=connection.timezone)  # SQLite


# The column ``timestamp`` for queries of many events: psycopg needs 5 µs to read a time, and Python 0.4 µs.
TIME = Cast("timestamp", _TextTime())


class Action(models.TextChoices):
    CREATED = "created", _("created")
    UPDATED = "updated", _("updated")
    DELETED = "deleted", _("deleted")


# How the name of an event says its action.
NAMES: dict[str, Any] = {
    Action.CREATED: _("%(object)s created"),
    Action.UPDATED: _("%(object)s updated"),
    Action.DELETED: _("%(object)s deleted"),
}


# Halves the range of ids until one is left. The parameters are two times.
_FIRST_SINCE = """
    WITH RECURSIVE halves (low, high) AS (
        SELECT COALESCE((SELECT MIN(id) FROM rq_webhooks_event), 0),
            COALESCE((SELECT MAX(id) FROM rq_webhooks_event), 0) + 1
        UNION ALL
        SELECT
            CASE WHEN (SELECT timestamp < %s FROM rq_webhooks_event WHERE id >= (low + high) / 2 ORDER BY id LIMIT 1)
                THEN (low + high) / 2 + 1 ELSE low END,
            CASE WHEN (SELECT timestamp < %s FROM rq_webhooks_event WHERE id >= (low + high) / 2 ORDER BY id LIMIT 1)
                THEN high ELSE (low + high) / 2 END
        FROM halves WHERE low < high
    )
    SELECT low FROM halves WHERE low = high
"""

# With old statistics, PostgreSQL would begin a join with all new events.
_IS_UNDISPATCHED = """(
    (SELECT event_id FROM rq_webhooks_undispatched WHERE event_id = rq_webhooks_event.id) IS NOT NULL
)"""

# The event before another one of its object, if it is not dispatched. Compared and sorted by the columns of one index,
# which PostgreSQL then uses, however old its statistics are. The parameters are the range of ids in which to look:
# PostgreSQL then plans for few partitions.
_WAITS_FOR = """(
    SELECT event_id FROM rq_webhooks_undispatched WHERE event_id = (
        SELECT found.id FROM rq_webhooks_event AS found
        WHERE found.object_type = rq_webhooks_event.object_type AND found.object_id >= rq_webhooks_event.object_id
            AND (found.object_id, found.id) < (rq_webhooks_event.object_id, rq_webhooks_event.id)
            AND found.id >= %s AND found.id <= %s
        ORDER BY found.object_id DESC, found.id DESC LIMIT 1
    )
)"""


def label_of_action(action: str) -> str:
    """The action in the language of the reader. The name of a custom event stays as it is."""
    return str(Action(action).label) if action in Action.values else action


# The webhooks that matched an event, as text: not every database can search in a JSON list.
_IDS = Cast("webhook_ids", models.TextField())


def _if_small(column: str) -> RawSQL:
    """The text in a column of a small event, else NULL."""
    statement = f"CASE WHEN rq_webhooks_event.size <= {SMALL} THEN rq_webhooks_event.{column} END"
    kind = models.TextField() if column == "changed" else PackedTextField()
    return RawSQL(statement, (), kind)  # noqa: S611 # nosec B611 # constants


def _one_of_ids(webhook_id: int) -> str:
    """A pattern for this id in the text of a JSON list."""
    return rf"[^0-9]{webhook_id}[^0-9]"


def size_of(texts: Iterable[Any]) -> int:
    """The bytes that these texts take at most, for ``Event.size``."""
    return sum(len(text) if text.isascii() else 4 * len(text) for text in texts if isinstance(text, str))


class EventQuerySet(models.QuerySet["Event"]):
    @alters_data
    def update(self, **values: Any) -> int:
        """As Django's. New data also has a new size."""
        if "data" in values:
            values["size"] = size_of(values.get(name) for name in TEXTS)
        return super().update(**values)

    def to_send(self, *columns: str) -> models.QuerySet[Event, Any]:
        """The columns ``SENT_COLUMNS``, the time, the size, and these, as tuples. Events that are not ``SMALL`` have no
        texts: their ``data`` is None."""
        texts = {f"small_{name}": _if_small(name) for name in TEXTS}
        names = (f"small_{name}" if name in TEXTS else name for name in SENT_COLUMNS)
        return self.annotate(**texts, time=TIME).values_list(*names, "time", "size", *columns)

    def undispatched(self) -> EventQuerySet:
        return self.filter(undispatched__isnull=False, error="")

    def failed(self) -> EventQuerySet:
        """Events that were never sent, for one of the reasons in ``Event.failure``, and were not replayed."""
        return self.filter(replayed_at=None).exclude(error="")

    def replayable(self) -> EventQuerySet:
        """Events that can be captured again: all except tests of a webhook, and failed ones that were replayed."""
        return self.exclude(action=PING).filter(models.Q(error="") | models.Q(replayed_at=None))

    def replayed(self) -> EventQuerySet:
        """Failed events that were replayed."""
        return self.exclude(replayed_at=None).exclude(error="")

    @alters_data
    def delete_undispatched(self) -> None:
        """Delete events that no worker has dispatched."""
        chosen = list(self.filter(undispatched__isnull=False).values_list("pk", flat=True))
        delete_rows(Undispatched.objects.filter(pk__in=chosen), self.db)
        delete_rows(Event.objects.filter(pk__in=chosen), self.db)

    delete_undispatched.queryset_only = True  # type: ignore[attr-defined]  # as Django's own delete()

    def matched_by(self, webhook_id: int) -> EventQuerySet:
        """Events that this webhook matched when they happened."""
        return self.alias(ids=_IDS).filter(ids__regex=_one_of_ids(webhook_id))

    def not_matched_by(self, webhook_id: int) -> EventQuerySet:
        """The others."""
        return self.alias(ids=_IDS).exclude(ids__regex=_one_of_ids(webhook_id))

    def first_since(self, moment: datetime) -> int:
        """An id that no event from this aware moment on is below, found by bisection: times have no index.

        Ids follow the time but for ``OVERLAP``, so it begins earlier by that.
        """
        begin = connections[self.db].ops.adapt_datetimefield_value(to_db_time(moment - OVERLAP))
        return int(fetch_all(self.db, _FIRST_SINCE, [begin, begin])[0][0])

    def still_undispatched(self) -> EventQuerySet:
        """Of events that are found by their ids, the ones that no worker has dispatched."""
        return self.filter(RawSQL(_IS_UNDISPATCHED, (), models.BooleanField()))  # noqa: S611 # nosec B611 # a constant

    def with_waits_for(self) -> EventQuerySet:
        """With the id of the event before, of the same object, if no worker has dispatched that one. Its statement has
        two parameters more: the lowest id at which to look, and the highest."""
        waits_for: Any = RawSQL(_WAITS_FOR, (0, 0), models.BigIntegerField())  # noqa: S611 # nosec B611 # a constant
        return self.annotate(waits_for=waits_for)

    def for_list(self) -> EventQuerySet:
        """Leave out large columns. ``has_data`` replaces ``data``, which ``Event.failure`` needs."""
        has_data = models.Case(models.When(data="", then=False), default=True, output_field=models.BooleanField())
        return self.annotate(has_data=has_data).defer(*LARGE_FIELDS)


class Event(models.Model):
    """One committed change of one object. Its id is the ``sequence`` of the payload."""

    timestamp = models.DateTimeField(_("timestamp"), default=timezone.now, db_default=Now())
    # One of ``Action``, the name of a custom event, or "ping".
    action = models.CharField(_("action"), max_length=100)
    object_type = models.CharField(
        _("object type"),
        max_length=200,
        **EMPTY,
        help_text=_("The model's label, such as dcim.site. Empty: the event has no object."),
    )
    object_id = models.CharField(_("object id"), max_length=255)
    object_repr = models.CharField(_("object name"), max_length=NAME_LENGTH, **EMPTY)
    data = PackedTextField(_("data"), **EMPTY, help_text=_("The serializer's output, as the JSON text that is sent."))
    serializers = PackedTextField(
        **EMPTY, help_text=_("The output of other serializers, by name, and the webhooks that chose them.")
    )
    snapshots = PackedTextField(
        _("snapshots"), **EMPTY, help_text=_("The state before and after, as the JSON text that is sent.")
    )
    changed = models.TextField(
        _("changed"),
        **EMPTY,
        help_text=_("The names of the fields that an update changed, as JSON text; empty if unknown."),
    )
    context = PackedTextField(
        **EMPTY, help_text=_("What the hooks of the project added to the payload, as the JSON text that is sent.")
    )
    username = models.CharField(_("username"), max_length=USERNAME_LENGTH, **EMPTY)
    request_id = models.CharField(_("request id"), max_length=REQUEST_ID_LENGTH, **EMPTY)
    depth = models.PositiveSmallIntegerField(
        _("depth"),
        **default(1),
        help_text=_("1 if no webhook caused the change, else one more than the depth of the causing event."),
    )
    request = PackedTextField(
        _("request"), **EMPTY, help_text=_("The HTTP request as the payload shows it, as JSON text.")
    )
    # None takes no space.
    trace = models.CharField(max_length=TRACE_LENGTH, null=True, help_text=_("The trace context of the change."))
    webhook_ids = models.JSONField(
        default=list, db_default=[], help_text=_("The webhooks that matched when it happened.")
    )
    replayed_at = models.DateTimeField(_("replayed at"), null=True, blank=True)
    replay_of = models.BigIntegerField(
        _("replay of"), null=True, blank=True, help_text=_("The event that this one replays.")
    )
    error = models.TextField(_("error"), **EMPTY, help_text=_("Why it failed. A failed event is not sent."))
    size = models.IntegerField(
        **default(0), editable=False, help_text="The bytes that its texts take at most, in a process that sends it."
    )

    objects = WriteDBManager.from_queryset(EventQuerySet)()

    class Meta:
        verbose_name, verbose_name_plural = _("event"), _("events")
        base_manager_name = "objects"
        default_permissions = ("view",)
        permissions = [
            ("replay_event", "Can replay events"),
            ("read_payload_event", "Can view payloads, and the bodies of requests and responses"),
        ]
        ordering = ["-pk"]
        indexes = [
            models.Index(
                fields=["timestamp"],
                name="rq_webhooks_event_failed",
                condition=~models.Q(error="") & models.Q(replayed_at=None),
            ),
            models.Index(fields=["request_id"], name="rq_webhooks_event_request", condition=~models.Q(request_id="")),
            models.Index(
                fields=["object_type", "object_id", "id"],
                name="rq_webhooks_event_object",
                condition=models.Q(object_type__isnull=False),  # not for a look-up by id, see docs/worker.md
            ),
        ]

    def __str__(self) -> str:
        """Such as "AMS1 updated"."""
        name = Truncator(self.name).chars(NAME_SHOWN)
        text = NAMES.get(self.action)
        return f"{name} {self.action}".strip() if text is None or not name else str(text % {"object": name})

    @property
    def name(self) -> str:
        """The name of its object, or else the model and the key. Empty without an object."""
        return self.object_repr or (f"{self.object_type} {self.object_id}" if self.object_type else "")

    @property
    def failure(self) -> str:
        """Why nothing was sent. Empty if the event did not fail.

        - "loop_protection": the chain of changes is too deep.
        - "filter_error": a condition or filter raised, so it is unknown which webhooks match.
        - "payload_error": there is no payload, for example because the serializer raised.
        """
        if not self.error:
            return ""
        if self.error.startswith(LOOP_PROTECTION):
            return "loop_protection"
        has_data = getattr(self, "has_data", None)  # annotated by ``for_list``
        return "filter_error" if (bool(self.data) if has_data is None else has_data) else "payload_error"

    @property
    def is_loop_protected(self) -> bool:
        """Whether loop protection stopped it."""
        return self.failure == "loop_protection"

    @alters_data
    def save(self, *args: Any, **options: Any) -> None:
        self.size = self._size()
        super().save(*args, **options)

    def _size(self) -> int:
        return size_of((self.data, self.serializers, self.snapshots, self.changed, self.context, self.request))

    @alters_data
    def insert(self, using: str) -> None:
        """Insert a new row, to be dispatched. Each change of an object pays for it: ``save()`` costs twice as much."""
        self.size = self._size()
        connection, columns = connections[using], self._columns()
        values = [column.get_db_prep_save(getattr(self, column.attname), connection) for column in columns]
        statement = insert_row_sql([str(column.column) for column in columns], "rq_webhooks_event")
        [self.pk] = _insert_undispatched(using, f"{statement} RETURNING id", values)
        self._state.adding, self._state.db = False, using

    @classmethod
    @alters_data
    def insert_all(cls, new: Sequence[Event], using: str) -> None:
        """Insert new rows in their order, many with each statement.

        The rows are one parameter, as JSON text: SQLite limits the number of parameters.
        """
        for event in new:
            event.size = event._size()
        columns = [str(column.column) for column in cls._columns()]
        statement = f"{insert_rows_sql(using, columns, 'rq_webhooks_event')} RETURNING id"
        ids = [pk for rows in json_parts(new, using) for pk in _insert_undispatched(using, statement, [rows])]
        for event, pk in zip(new, ids, strict=True):
            event.pk = pk
            event._state.adding, event._state.db = False, using

    @classmethod
    def _columns(cls) -> list[models.Field[Any, Any]]:
        """All columns except the id, which the database sets."""
        return [column for column in cls._meta.local_concrete_fields if not column.primary_key]


class UndispatchedManager(WriteDBManager["Undispatched"]):
    """The statements of workers."""

    _FROM = "SELECT event_id FROM rq_webhooks_undispatched WHERE event_id >= %s ORDER BY event_id"

    def lowest(self, begin: int) -> int | None:
        """The id of the first one that is not below ``begin``."""
        rows = fetch_all(self.db, f"{self._FROM} LIMIT 1", [begin])
        return int(rows[0][0]) if rows else None

    def lock_sql(self, begin: int, most: int) -> Statement:
        """Lock up to ``most`` ids that are not below ``begin``, in order, without those that other workers have
        locked. Read them again: a worker may have dispatched some before its lock was free.

        PostgreSQL writes a lock of a row to its log, and an advisory lock not. A few neighbours share one.
        """
        if not is_postgresql(self.db):
            return f"{self._FROM} LIMIT %s", [begin, most]
        lock = "pg_try_advisory_xact_lock(2003333748, (event_id >> 3 & 2147483647)::int)"
        return self._FROM.replace("ORDER BY", f"AND {lock} ORDER BY") + " LIMIT %s", [begin, most]

    def delete_sql(self, ids: Collection[int]) -> Statement:
        """Delete these, and return their ids."""
        statement, parameters = delete_sql(self.db, "rq_webhooks_undispatched", "event_id", ids)
        return f"{statement} RETURNING event_id", parameters


class Undispatched(models.Model):
    """An Event that no worker has dispatched yet. Inserted with it, and deleted by the dispatch.

    Apart from the events, because a worker looks for these rows many times a second.
    """

    event = models.OneToOneField(
        Event, on_delete=models.CASCADE, primary_key=True, related_name="undispatched", db_constraint=False
    )

    objects = UndispatchedManager()

    class Meta:
        base_manager_name = "objects"
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.pk)


def _insert_undispatched(using: str, statement: str, parameters: Sequence[Any]) -> list[int]:
    """Insert events by a statement that returns their ids, to be dispatched. Returns the ids in order."""
    if is_postgresql(using):
        statement = with_new_sql(statement, "INSERT INTO rq_webhooks_undispatched (event_id) SELECT id FROM new")
    ids = sorted(pk for (pk,) in fetch_all(using, statement, parameters))
    if not is_postgresql(using):
        undispatched = "INSERT INTO rq_webhooks_undispatched (event_id) SELECT value FROM json_each(%s)"
        execute(using, undispatched, [json.dumps(ids)])
    return ids
