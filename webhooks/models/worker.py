"""Workers: their leases, their transactions, and the sweep that they share."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, TypeVar

from django.db import connections, models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from webhooks.ground.conf import conf
from webhooks.ground.db import (
    WHOLE_TABLE_PLANS,
    DatabaseNow,
    Statement,
    among_sql,
    atomically,
    fetch_all,
    is_postgresql,
)
from webhooks.models.columns import WriteDBManager, alters_data

T = TypeVar("T")

# A worker also commits without waiting for the disk.
PINNED = (*WHOLE_TABLE_PLANS, "synchronous_commit")


class WorkerQuerySet(models.QuerySet["Worker"]):
    @alters_data
    def register(self, name: str) -> uuid.UUID:
        """Begin a lease. Returns its token."""
        return self.create(token=uuid.uuid4(), name=name, lease_until=DatabaseNow(conf.lease)).token

    @alters_data
    def renew(self, tokens: Collection[uuid.UUID]) -> set[uuid.UUID]:
        """Renew leases. Returns the tokens with valid leases."""
        renewed = self.filter(token__in=tokens)
        if renewed.update(lease_until=DatabaseNow(conf.lease)) == len(tokens):
            return set(tokens)
        return set(renewed.values_list("token", flat=True))

    def reporting(self) -> WorkerQuerySet:
        """Workers without rq."""
        return self.filter(report__isnull=False)

    def expired(self) -> WorkerQuerySet:
        return self.filter(lease_until__lt=DatabaseNow())


class Worker(models.Model):
    """A process that claims deliveries, and the lease of all its claims."""

    token = models.UUIDField(primary_key=True)
    name = models.CharField(max_length=100)
    started_at = models.DateTimeField(default=timezone.now, db_default=Now())
    lease_until = models.DateTimeField()
    report = models.JSONField(null=True)
    """What a worker without rq says of itself, see ``workers.database``. Such a row has no claims."""

    objects = WriteDBManager.from_queryset(WorkerQuerySet)()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.name


class Mark(NamedTuple):
    """A border in the history: events from ``event_id`` on are recorded after ``milliseconds`` since 1970.

    The id is ahead of all events when the mark is made, so that each worker knows the mark before it meets them. An
    event with an earlier time may come: a clock is behind, or a batch was long.
    """

    event_id: int
    milliseconds: int
    partition: int = 0
    """The first id of the partition of this event."""
    end: int = 2**48 - 1
    """Up to this time, in milliseconds since 1970, a dispatch looks for deliveries. The last mark has the latest end
    that any mark had: the clock of the database may be set back."""


class EndedLease(NamedTuple):
    """A lease that has ended, until no row of the queue has its token any more."""

    ended: float
    """Seconds since 1970, in UTC."""
    was_in_step: bool
    """Whether the worker ended in a step of a run."""
    searched_from: str
    """The id of the first row that the search for its claims has read, in hexadecimal digits."""
    is_around: bool = False
    """Whether the search has come to the end of the queue since, and has begun anew."""


class Sweep(models.Model):
    """The time of the last sweep, and how far its checks have come. One row: workers use it to agree on the next sweep.

    ``last_event`` is the id of the last event that was old enough to be deleted if it had no deliveries, and
    ``last_in_default`` that of the last one in the default partition whose deliveries may have gone with partitions.
    The others are the webhook and the lane where the next check for lanes without a head begins. ``problems`` has the
    alarms at ``looked_at``, see ``insight.problems``. ``marks`` has the last two marks in the history, see ``Mark``.
    ``backlog`` is for how many seconds succeeded deliveries are left after their retention. ``lost_leases`` counts
    deliveries that were taken back from workers. ``mailed`` has the problems of the last e-mail. ``ended_leases`` has
    the columns of an ``EndedLease`` by token, and the search for their claims goes on at ``next_claim``. The search for
    old succeeded deliveries began at the time ``succeeded_began``, and goes on at ``next_succeeded``.
    """

    swept_at = models.DateTimeField()
    last_event = models.BigIntegerField(default=0, db_default=0)
    last_in_default = models.BigIntegerField(default=0, db_default=0)
    next_webhook = models.BigIntegerField(default=0, db_default=0)
    next_lane = models.BigIntegerField(default=0, db_default=0)
    looked_at = models.DateTimeField(null=True)
    problems = models.JSONField(default=dict, db_default={})
    marks = models.JSONField(default=list, db_default=[])
    backlog = models.BigIntegerField(default=0, db_default=0)
    lost_leases = models.BigIntegerField(default=0, db_default=0)
    mailed = models.JSONField(default=dict, db_default={})
    ended_leases = models.JSONField(default=dict, db_default={})
    next_claim = models.UUIDField(null=True)
    next_succeeded = models.UUIDField(null=True)
    succeeded_began = models.FloatField(default=0, db_default=0)

    objects = WriteDBManager()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"swept at {self.swept_at}"

    @classmethod
    @alters_data
    def begin(cls, interval: float) -> bool:
        """Whether the caller should sweep now, because the last sweep is at least ``interval`` seconds old.

        A time further ahead than the interval is ignored: the clock was set back since.
        """
        is_old, is_ahead = Q(swept_at__lt=DatabaseNow(-interval)), Q(swept_at__gt=DatabaseNow(interval))
        due = cls.objects.filter(is_old | is_ahead, pk=1)
        if in_worker_transaction(cls.objects.db, lambda: due.update(swept_at=DatabaseNow())):
            return True
        return cls.get_or_begin()[1]

    @classmethod
    @alters_data
    def begin_look(cls, interval: float) -> bool:
        """Whether the caller should look for alarms now, as ``begin`` says it for the sweep."""
        cls.get_or_begin()
        is_old = Q(looked_at=None) | Q(looked_at__lt=DatabaseNow(-interval))
        due = cls.objects.filter(is_old | Q(looked_at__gt=DatabaseNow(interval)), pk=1)
        return bool(in_worker_transaction(cls.objects.db, lambda: due.update(looked_at=DatabaseNow())))

    @classmethod
    @alters_data
    def get_or_begin(cls) -> tuple[Sweep, bool]:
        """The row, and whether this is the first sweep."""
        return cls.objects.get_or_create(pk=1, defaults={"swept_at": DatabaseNow()})


def begin_transaction(using: str, token: uuid.UUID | None = None) -> bool:
    """Begin a worker's transaction. Returns whether the worker with this token may claim, until the end of it.

    PostgreSQL commits it without waiting for the disk: if a crash of the database loses it, a worker does the same
    again. A worker that stops within it loses its locks after a lease.
    """
    return bool(fetch_all(using, *begin_sql(using, token))[0][0])


# The key of an advisory lock: a number of our own, and another. The locks of lanes have keys of one number.
_RETENTION = "2003333749, 0"


def hold_retention(using: str) -> None:
    """Let no retention delete an event until the end of the transaction: deliveries of it may be inserted. No foreign
    key says so."""
    if is_postgresql(using):  # SQLite has one writer
        fetch_all(using, f"SELECT pg_advisory_xact_lock({_RETENTION})")


def may_delete_events(using: str) -> bool:
    """Whether none is holding retention. Then none can, until the end of the transaction."""
    return not is_postgresql(using) or bool(
        fetch_all(using, f"SELECT pg_try_advisory_xact_lock_shared({_RETENTION})")[0][0]
    )


# The same of a webhook, by its ``id``. The lock of the row conflicts with an edit, too, which may stay open for long.
_WEBHOOK = "2003333750, (id & 2147483647)::int"


def keep_webhooks(using: str, ids: Collection[int]) -> set[int]:
    """Keep the rows of webhooks from being deleted until the end of the transaction. Returns the ids of the kept ones:
    another transaction may be deleting the others. For PostgreSQL."""
    among, given = among_sql(using, ids)
    lock = f"SELECT id FROM rq_webhooks_webhook WHERE id {among} AND pg_try_advisory_xact_lock_shared({_WEBHOOK})"
    return {pk for (pk,) in fetch_all(using, lock, [given])}


def may_delete_webhook(using: str, pk: int) -> bool:
    """Whether no transaction keeps a webhook. Then none can until this one ends, which has locked the row."""
    lock = f"SELECT pg_try_advisory_xact_lock({_WEBHOOK}) FROM rq_webhooks_webhook WHERE id = %s"
    return not is_postgresql(using) or bool(fetch_all(using, lock, [pk])[0][0])


def in_worker_transaction(using: str, work: Callable[[], T]) -> T:
    """Run ``work`` in a worker's transaction, see ``begin_transaction``, and again after a conflict."""

    def begin_and_work() -> T:
        begin_transaction(using)
        return work()

    return atomically(begin_and_work, using)


def begin_sql(using: str, token: uuid.UUID | None) -> Statement:
    """The statement of ``begin_transaction``. Its one row begins with the answer."""
    parameters: list[Any] = [token.hex if token else None]
    if not is_postgresql(using):
        return "SELECT (SELECT 1 FROM rq_webhooks_worker WHERE token = %s)", parameters
    # The sweep that ends a lease waits for this lock, and then sees the claims.
    statement = "SELECT (SELECT true FROM rq_webhooks_worker WHERE token = %s::uuid FOR KEY SHARE)"
    # Django's savepoint_ids: the settings would last until the end of a host's transaction.
    if not connections[using].savepoint_ids:
        statement += "".join(f", set_config('{name}', 'off', true)" for name in PINNED)
        statement += ", set_config('statement_timeout', %s, true)"
        statement += ", set_config('idle_in_transaction_session_timeout', %s, true)"
        parameters += [str(int(conf.lease * 1000 / 3)), str(int(conf.lease * 1000))]
    return statement, parameters
