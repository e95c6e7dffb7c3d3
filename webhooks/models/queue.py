"""The queue: one narrow row for each delivery that is not finished or has failed, and the SQL that claims it.

Workers change these rows for each attempt, and read none of the finished deliveries. docs/worker.md has the
reasons. ``lanes`` has the SQL that keeps them in order.

A claim writes the token of the worker to each row. A worker may only record rows that still have its token. The lease
of all its claims is in its row of ``rq_webhooks_worker``.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from django.db import models, transaction
from django.db.models import Q
from django.db.models.expressions import RawSQL
from django.db.models.functions import Coalesce
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from webhooks.ground.conf import conf
from webhooks.ground.db import (
    DatabaseNow,
    Statement,
    aggregate_sql,
    among_sql,
    as_sql,
    delete_sql,
    execute,
    exists_sql,
    fetch_all,
    is_postgresql,
    json_rows_sql,
    now_sql,
    rows_by_id,
    rows_by_id_sql,
    stored_time,
    time_as_text,
    to_uuid,
    uuid_sql,
    value_by_id_sql,
)
from webhooks.models.columns import EMPTY, USERNAME_LENGTH, WriteDBManager, alters_data, default, webhook_model
from webhooks.models.event import Event
from webhooks.models.ids import first_id
from webhooks.models.worker import begin_transaction

# The bounds of ``at_once_seconds``, in seconds, and its part of the retention of succeeded deliveries between them.
AT_ONCE_LEAST, AT_ONCE_MOST, AT_ONCE_PART = 60.0, 3600.0, 8


class State(models.TextChoices):
    """The states of a delivery, and each change of them:

    (new) -> waiting, pending, sending      ``delivery.dispatch`` creates the delivery
    waiting -> pending, sending             ``lanes.promote``: its turn in the lane has come
    pending -> sending                      ``QueueManager.claim``
    sending -> succeeded, failed, pending   ``delivery.outcomes`` records an attempt
    sending -> pending                      ``release``: the worker returned it, or its lease expired
    failed, discarded -> waiting, pending   ``DeliveryQuerySet.retry``
    succeeded -> waiting, pending           ``DeliveryQuerySet.resend``, also from failed and discarded
    waiting, pending, failed -> discarded   ``DeliveryQuerySet.discard``
    """

    WAITING = "waiting", _("waiting")
    PENDING = "pending", _("pending")
    SENDING = "sending", _("sending")
    SUCCEEDED = "succeeded", _("succeeded")
    FAILED = "failed", _("failed")
    DISCARDED = "discarded", _("discarded")


# The head of a lane is in one of these states. A lane has at most one head.
HEAD_STATES = (State.PENDING, State.SENDING)
OPEN_STATES = (State.WAITING, *HEAD_STATES)
ENDED_STATES = (State.SUCCEEDED, State.FAILED, State.DISCARDED)

# A delivery in one of these states has a row in the queue.
QUEUED_STATES = (*OPEN_STATES, State.FAILED)

# The columns of a row that is sent again: ``QueueManager.put_back`` sets the others.
PUT_BACK = (
    "delivery_id", "event_id", "webhook_id", "lane", "state", "claim", "in_lane", "overtaken", "requested_by",
    "attempts", "waited",
)  # fmt: skip

# One transaction makes at most so many heads of lanes due.
MOST_HASTENED = 1000

# Deliveries that wait, and the ones that a worker claimed as soon as it was their turn. Most never wait: a worker
# claims them as it creates them, and then writes no entry of this index.
NOT_DUE = Q(waited=True, due_at__isnull=True, failed_at__isnull=True)
HAS_FAILED = Q(failed_at__isnull=False)


class ClaimedRow(NamedTuple):
    """The columns of a claimed delivery that its attempt needs."""

    id: uuid.UUID
    webhook_id: int
    event_id: int
    lane: int | None
    in_lane: bool
    failures: int = 0
    lost_leases: int = 0
    due_at: Any = None  # in the database's own format: use it to sort only
    requested_by: str = ""
    attempts: int = 0
    is_early: bool = False  # no column: it is a probe, claimed before it was due


# The columns of the queue that make a ``ClaimedRow``.
CLAIMED_COLUMNS = ("delivery_id", *ClaimedRow._fields[1:-1])
CLAIMED = ", ".join(CLAIMED_COLUMNS)


def claimed_rows(found: Iterable[tuple[Any, ...]]) -> list[ClaimedRow]:
    """From the columns ``CLAIMED`` and perhaps ``is_early``, in the order to send them."""
    claimed = [ClaimedRow(to_uuid(pk), *rest) for pk, *rest in found]
    return sorted(claimed, key=lambda row: (str(row.due_at), row.event_id))


class QueuedDeliveryQuerySet(models.QuerySet["QueuedDelivery"]):
    def in_states(self, *states: str) -> QueuedDeliveryQuerySet:
        """Deliveries in these states. Adds the condition of the partial index that has one state."""
        match states:
            case [State.FAILED]:
                return self.failed()
            case [State.PENDING]:
                return self.filter(state=State.PENDING, due_at__isnull=False)
            case [State.WAITING]:
                return self.filter(NOT_DUE, state=State.WAITING)
        return self.filter(state__in=states)

    def failed(self) -> QueuedDeliveryQuerySet:
        return self.filter(HAS_FAILED)

    def claimed(self, tokens: Collection[uuid.UUID]) -> QueuedDeliveryQuerySet:
        """Deliveries that are claimed under one of these tokens."""
        return self.filter(state=State.SENDING, claim__in=tokens)

    @alters_data
    def release(self, wait: float | None = None, **also: Any) -> int:
        """Make claimed deliveries pending again, and due since the same time, or in ``wait`` seconds. Does not count as
        an attempt."""
        due_at = Coalesce("due_at", DatabaseNow()) if wait is None else DatabaseNow(wait)
        return self.filter(state=State.SENDING).update(state=State.PENDING, claim=None, due_at=due_at, **also)

    def failed_groups_sql(self, cap: int, is_superseded: Any) -> Statement:
        """The failed deliveries of each webhook with each kind of error: their number up to ``cap + 1``, when the first
        and the last one failed, and whether one of the newest or of the oldest is not superseded, by this expression.
        The first parameter, the webhooks, is missing: see ``among_sql``.

        Goes through an index from one reason of a webhook to the next.
        """
        chosen, _ = among_sql(self.db, ())
        kind = "SELECT MIN(error_kind) FROM rq_webhooks_queue WHERE failed_at IS NOT NULL AND webhook_id"
        own = self.failed().filter(webhook=RawSQL("reason.webhook_id", ()), error_kind=RawSQL("reason.kind", ()))
        count, count_params = aggregate_sql("COUNT(*)", own.order_by("failed_at").values("pk")[: cap + 1])
        first, first_params = as_sql(own.order_by("failed_at").values("failed_at")[:1])
        last, last_params = as_sql(own.order_by("-failed_at").values("failed_at")[:1])
        judged = own.annotate(superseded=is_superseded).values("superseded")
        # Objects that change often have the newest failures, all superseded. The others failed long ago.
        ends = (judged.order_by(order)[: cap + 1] for order in ("-failed_at", "failed_at"))
        (new, new_params), (old, old_params) = (exists_sql("NOT superseded", rows) for rows in ends)
        statement = f"""
            WITH RECURSIVE reason AS (
                SELECT id AS webhook_id, ({kind} = rq_webhooks_webhook.id) AS kind
                FROM rq_webhooks_webhook WHERE id {chosen}
                UNION ALL
                SELECT webhook_id, ({kind} = reason.webhook_id AND error_kind > reason.kind) FROM reason
                WHERE kind IS NOT NULL
            )
            SELECT webhook_id, kind, {count}, ({first}), ({last}), ({new} OR {old}) FROM reason WHERE kind IS NOT NULL
        """
        return statement, [*count_params, *first_params, *last_params, *new_params, *old_params]

    @alters_data
    def hasten_heads(self, webhook_ids: Collection[int], goes_on: bool = False) -> int:
        """Let failed heads of lanes be due now, as the receivers of these webhooks work again: later deliveries wait
        behind them. Up to ``MOST_HASTENED`` in all, of each webhook the longest failing first. ``hastened_to`` of a
        webhook says that more are left. With ``goes_on``, take the next ones that have failed since before the resume.

        Call it in a transaction that has locked the webhooks."""
        count = 0
        resumed = webhook_model().objects.filter(pk__in=webhook_ids).order_by("pk")
        for webhook, resumed_at, last in resumed.values_list("pk", "resumed_at", "hastened_to"):
            later = self.filter(webhook=webhook, failing_since__isnull=False, due_at__gt=DatabaseNow())
            if goes_on:
                later = later.filter(failing_since__range=(last, resumed_at))
            heads = later.filter(state=State.PENDING).order_by("failing_since")
            free = MOST_HASTENED - count
            locked = heads.select_for_update(skip_locked=True)
            chosen = dict(locked.values_list("pk", "failing_since")[:free]) if free else {}
            self.filter(pk__in=chosen).update(due_at=DatabaseNow())
            left = None
            if len(chosen) == free:
                left = max(chosen.values()) if chosen else heads.values_list("failing_since", flat=True).first()
            if left or last:
                webhook_model().objects.filter(pk=webhook).update(hastened_to=left)
            count += len(chosen)
        return count

    @alters_data
    def leave_lane(self) -> int:
        """Unblock the deliveries behind these. They themselves are retried outside the lane."""
        return self.update(in_lane=False, overtaken=False, failing_since=None)


class DueWebhook(NamedTuple):
    """A webhook with deliveries to send now. A paused webhook gets one delivery, as a probe, even if none is due: its
    only deliveries may be between two attempts that are a day apart.

    ``has`` says whether there are some that have lost no lease, one lease, or two. ``since`` is when the first one that
    has lost none was due, or is, in the database's own format, or None.
    """

    id: int
    is_probe: bool
    since: Any
    has: tuple[bool, bool, bool]
    is_early: bool = False
    """Whether it gets a probe before anything is due."""


@dataclass(frozen=True)
class Transition:
    """A delivery's change of state after an attempt. ``wait`` is in seconds, until the next attempt.

    ``is_ours``: the attempt failed because our worker ended. ``is_early``: it was a probe before its time, and the next
    attempt stays where it was. Both use up no schedule."""

    id: uuid.UUID
    state: str
    wait: float = 0
    reason: str = ""
    error_kind: str = ""
    is_ours: bool = False
    is_early: bool = False


class Moved(NamedTuple):
    """A delivery whose attempt was recorded: the number of the attempt, and whether it has succeeded at once, which is
    within ``at_once_seconds()``. Then its row says so already."""

    number: int
    is_at_once: bool = False


def at_once_seconds() -> float:
    """A delivery that succeeds at its first attempt and within so many seconds after its event has no end in its row.
    Then the sweep knows without a look at its attempt that it has ended by then."""
    retention = timedelta(days=conf.retention_days["succeeded"]).total_seconds()
    return min(AT_ONCE_MOST, max(AT_ONCE_LEAST, retention / AT_ONCE_PART))


_QueueManager = WriteDBManager.from_queryset(QueuedDeliveryQuerySet)


class QueueManager(_QueueManager):
    """The statements of workers."""

    def due_webhooks(
        self, floors: Mapping[int, Any] | None = None, note: Callable[[int, Any], None] | None = None
    ) -> list[DueWebhook]:
        """The enabled webhooks with deliveries to send now. Paused webhooks only if their probe is due.

        The scan of a webhook begins at its floor, a time, if it has one. ``note`` gets the id of each webhook, and the
        time from which on this look has found something. If it has found nothing, that is the time of the look. SQLite
        keeps no dead entries, and needs no floors.
        """
        using = self.db
        now = now_sql(using)
        last = _last_due_sql(using, "probe_at IS NOT NULL")
        is_due = f"webhook_id = rq_webhooks_webhook.id AND due_at <= {last} AND state = 'pending' AND lost_leases"
        floor, parameters = "''", list[Any]()
        if is_postgresql(using):
            # Not a table of floors: with 1,000 webhooks, PostgreSQL would read a million of its rows.
            floor = "COALESCE((%s::jsonb ->> rq_webhooks_webhook.id::text)::timestamptz, '-infinity')"
            parameters = [json.dumps({pk: str(time) for pk, time in (floors or {}).items()})]
        statement = f"""
            SELECT id, probe_at IS NOT NULL,
                (SELECT due_at FROM rq_webhooks_queue WHERE {is_due} = 0 AND due_at >= {floor} ORDER BY due_at LIMIT 1),
                (SELECT true FROM rq_webhooks_queue WHERE {is_due} = 1 ORDER BY due_at LIMIT 1),
                (SELECT true FROM rq_webhooks_queue WHERE {is_due} = 2 ORDER BY due_at LIMIT 1),
                {now}
            FROM rq_webhooks_webhook WHERE enabled AND paused_at IS NULL AND (probe_at IS NULL OR probe_at <= {now})
        """
        # With old statistics, PostgreSQL would read all that is due outside of a worker's transaction. On SQLite, a
        # transaction would wait for writers.
        with transaction.atomic(using) if is_postgresql(using) else nullcontext():
            if is_postgresql(using):
                begin_transaction(using)
            found = fetch_all(using, statement, parameters)
        due = list[DueWebhook]()
        for pk, is_probe, since, once, twice, at in found:
            if note and is_postgresql(using):
                note(pk, at if since is None else min(since, at))
            has = (since is not None, bool(once), bool(twice))
            if any(has):
                is_early = bool(is_probe) and since is not None and stored_time(since) > stored_time(at)
                due.append(DueWebhook(pk, bool(is_probe), since, has, is_early))
        return due

    @alters_data
    def claim(self, capacity: Mapping[DueWebhook, int], token: uuid.UUID, lost_leases: int = 0) -> list[ClaimedRow]:
        """Claim up to ``capacity`` due deliveries of each webhook that have lost so many leases, the longest due first.
        A probe may be claimed before it is due.

        Rows that another worker is claiming are skipped. Call it in a transaction of this worker.
        """
        using = self.db
        due = (_lock_due if is_postgresql(using) else _find_due)(using, capacity, lost_leases)
        if not due:
            return []
        chosen, chosen_param = among_sql(using, due, "uuid")
        found = fetch_all(
            using,
            f"""
            UPDATE rq_webhooks_queue SET state = 'sending', claim = {uuid_sql(using)}
            WHERE delivery_id {chosen} AND state = 'pending' RETURNING {CLAIMED}, due_at > {now_sql(using)}
            """,
            [token.hex, chosen_param],
        )
        return claimed_rows(found)

    @alters_data
    def move_on(self, transitions: Collection[Transition], tokens: Collection[uuid.UUID]) -> dict[uuid.UUID, Moved]:
        """Take succeeded deliveries out of the queue, and set the next attempts of the others. Returns the ones that
        are claimed under these tokens. The others stay as they are."""
        using = self.db
        is_mine, tokens_param = among_sql(using, tokens, "uuid")
        is_mine = f"claim {is_mine} AND rq_webhooks_queue.state = 'sending'"
        moved = list[tuple[Any, ...]]()
        if succeeded := [one.id for one in transitions if one.state == State.SUCCEEDED]:
            statement, parameters = delete_sql(using, "rq_webhooks_queue", "delivery_id", succeeded, "uuid")
            is_recent = f"delivery_id >= {_first_id_sql(using, at_once_seconds())}"
            returned = f"delivery_id, attempts + 1, attempts = 0 AND requested_at IS NULL AND {is_recent}"
            statement = f"{statement} AND {is_mine} RETURNING {returned}"
            moved += fetch_all(using, statement, [*parameters, tokens_param])
        rows: dict[uuid.UUID, dict[str, Any]] = {
            one.id: {
                "state": one.state,
                "due_at": _due_in(using, one.wait) if one.state == State.PENDING else None,
                "keeps_time": "yes" if one.is_early else "no",
                "error_kind": one.error_kind if one.state == State.FAILED else "",
                "counts": "no" if one.is_ours or one.is_early else "yes",
            }
            for one in transitions
            if one.state != State.SUCCEEDED
        }
        if not rows:
            return {to_uuid(pk): Moved(*rest) for pk, *rest in moved}
        names = ("state", "due_at", "error_kind", "counts", "keeps_time")
        state, due_at, kind, counts, keeps_time = (value_by_id_sql(using, "delivery_id", name) for name in names)
        if is_postgresql(using):
            due_at = f"STATEMENT_TIMESTAMP() + make_interval(secs => {due_at}::float8)"
        now = now_sql(using)
        chosen, chosen_param = among_sql(using, rows, "uuid")
        moved += fetch_all(
            using,
            f"""
            UPDATE rq_webhooks_queue SET
                state = {state},
                claim = NULL,
                due_at = CASE WHEN {keeps_time} = 'yes' THEN rq_webhooks_queue.due_at ELSE {due_at} END,
                attempts = attempts + 1,
                failures = failures + CASE WHEN {counts} = 'yes' THEN 1 ELSE 0 END,
                lost_leases = 0,
                overtaken = overtaken AND {state} = 'pending',
                failing_since = CASE WHEN {state} = 'pending' AND in_lane THEN COALESCE(failing_since, {now}) END,
                failed_at = CASE WHEN {state} = 'failed' THEN {now} END,
                error_kind = {kind}
            FROM {rows_by_id_sql(using)}
            WHERE delivery_id {chosen} AND {is_mine}
            RETURNING delivery_id, attempts
            """,
            [rows_by_id(using, rows), chosen_param, tokens_param],
        )
        return {to_uuid(pk): Moved(*rest) for pk, *rest in moved}

    @alters_data
    def discard(self, ids: Collection[uuid.UUID]) -> list[tuple[Any, ...]]:
        """Take deliveries out of the queue that are not being sent. Returns the id and the place of each, and whether
        it was the head of its lane."""
        statement, parameters = delete_sql(self.db, "rq_webhooks_queue", "delivery_id", ids, "uuid")
        found = "delivery_id, webhook_id, lane, event_id, in_lane AND state = 'pending'"
        unsent = f"{statement} AND state IN ('waiting', 'pending', 'failed') RETURNING {found}"
        return fetch_all(self.db, unsent, parameters)

    @alters_data
    def put_back(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows with the columns ``PUT_BACK``, to be sent again. A failed delivery has one, which is
        overwritten."""
        if not rows:
            return
        columns = (*PUT_BACK, "due_at", "requested_at", "failing_since", "failed_at", "failures", "lost_leases")
        changed = ", ".join(f"{name} = excluded.{name}" for name in columns if name != "delivery_id")
        now = now_sql(self.db)
        execute(
            self.db,
            f"""
            INSERT INTO rq_webhooks_queue ({", ".join(columns)})
            SELECT {", ".join(PUT_BACK)}, CASE WHEN state = 'pending' THEN {now} END, {now}, NULL, NULL, 0, 0
            FROM {json_rows_sql(self.db, PUT_BACK, "rq_webhooks_queue")} WHERE 1 = 1
            ON CONFLICT (delivery_id) DO UPDATE SET {changed}
            """,
            [json.dumps(rows)],
        )


def _last_due_sql(using: str, is_probe: str) -> str:
    """A delivery can be sent if it is due at this time at the latest. One bound of an index, with and without probe."""
    ever = "'infinity'::timestamptz" if is_postgresql(using) else "'9999-12-31'"
    return f"CASE WHEN {is_probe} THEN {ever} ELSE {now_sql(using)} END"


def _lock_due(using: str, capacity: Mapping[DueWebhook, int], lost_leases: int) -> list[uuid.UUID]:
    """For PostgreSQL. Reads one range of an index for each webhook, so the backlog of one costs the others nothing."""
    since = [webhook.since if lost_leases == 0 else None for webhook in capacity]
    found = fetch_all(
        using,
        f"""
        SELECT due.delivery_id FROM unnest(%s::bigint[], %s::int[], %s::timestamptz[], %s::boolean[])
            AS capacity (webhook_id, free, since, is_probe)
        CROSS JOIN LATERAL (
            SELECT delivery_id FROM rq_webhooks_queue
            WHERE webhook_id = capacity.webhook_id AND due_at <= {_last_due_sql(using, "capacity.is_probe")}
                AND due_at >= COALESCE(capacity.since, '-infinity')
                AND state = 'pending' AND lost_leases = {lost_leases:d}
            ORDER BY due_at LIMIT capacity.free FOR UPDATE SKIP LOCKED
        ) AS due
        """,
        [[one.id for one in capacity], list(capacity.values()), since, [one.is_probe for one in capacity]],
    )
    return [row[0] for row in found]


def _find_due(using: str, capacity: Mapping[DueWebhook, int], lost_leases: int) -> list[uuid.UUID]:
    """For SQLite, which has neither LATERAL nor row locks."""
    last = _last_due_sql(using, "%s")
    statement = f"""
        SELECT delivery_id FROM rq_webhooks_queue
        WHERE webhook_id = %s AND due_at <= {last} AND state = 'pending' AND lost_leases = {lost_leases:d}
        ORDER BY due_at LIMIT %s
    """
    given = ([webhook.id, webhook.is_probe, free] for webhook, free in capacity.items())
    found = (fetch_all(using, statement, one) for one in given)
    return [to_uuid(row[0]) for part in found for row in part]


def _first_id_sql(using: str, seconds: float) -> str:
    """SQL for the lowest id of a delivery of an event of the last ``seconds``, by the database's clock."""
    if not is_postgresql(using):
        return f"'{first_id(timezone.now() - timedelta(seconds=seconds)).hex}'"
    milliseconds = f"FLOOR(EXTRACT(EPOCH FROM {now_sql(using, -seconds)}) * 1000)::bigint"
    return f"CAST(RPAD(LPAD(TO_HEX({milliseconds}), 12, '0'), 32, '0') AS uuid)"


def _due_in(using: str, wait: float) -> float | str:
    """The next attempt: the seconds until then, by PostgreSQL's clock. SQLite has none."""
    return wait if is_postgresql(using) else time_as_text(using)(datetime.now(UTC) + timedelta(seconds=wait))


class QueuedDelivery(models.Model):
    """The work that is left for a delivery.

    A claim changes only ``state`` and ``claim``. No index has them, so PostgreSQL leaves all indexes as they are.
    """

    delivery = models.OneToOneField(
        "rq_webhooks.Delivery", on_delete=models.CASCADE, primary_key=True, related_name="queued", db_constraint=False
    )
    # Copies of the delivery's own columns.
    event = models.ForeignKey(Event, models.DO_NOTHING, related_name="+", db_constraint=False, db_index=False)
    webhook = models.ForeignKey(
        "rq_webhooks.Webhook", models.DO_NOTHING, related_name="+", db_constraint=False, db_index=False
    )
    lane = models.BigIntegerField(null=True)

    state = models.CharField(max_length=10, choices=[(state.value, state.label) for state in QUEUED_STATES])
    waited = models.BooleanField(**default(False), help_text="Whether it is waiting in its lane, or was.")
    claim = models.UUIDField(null=True, help_text="The token of the worker that holds it.")
    in_lane = models.BooleanField(**default(True), help_text="Whether it is sent in order with the others of its lane.")
    overtaken = models.BooleanField(
        **default(False), help_text="Whether later ones of its lane may have ended before: then it was retried."
    )
    due_at = models.DateTimeField(null=True, help_text="The next attempt. Stays during the attempt.")
    failing_since = models.DateTimeField(null=True, help_text="The first failed attempt as the head of its lane.")
    failed_at = models.DateTimeField(null=True, help_text="When it was given up.")
    error_kind = models.CharField(
        max_length=30, **EMPTY, help_text="The kind of the failure with which it was given up. Empty before."
    )
    attempts = models.PositiveIntegerField(**default(0), help_text="All recorded attempts.")
    failures = models.PositiveIntegerField(**default(0), help_text="Failed attempts since it was last retried by hand.")
    lost_leases = models.PositiveSmallIntegerField(
        **default(0), help_text="Leases that ended without a record since the last attempt."
    )
    requested_by = models.CharField(
        max_length=USERNAME_LENGTH,
        **EMPTY,
        help_text="Who asked to send it again. Empty: it was not sent again by hand.",
    )
    requested_at = models.DateTimeField(null=True, help_text="When somebody last asked to send it again.")

    objects = QueueManager()

    class Meta:
        db_table = "rq_webhooks_queue"
        base_manager_name = "objects"
        default_permissions = ()
        indexes = [
            models.Index(fields=["webhook", "lane", "event"], name="rq_webhooks_queue_lane"),
            models.Index(fields=["webhook", "due_at"], name="rq_webhooks_queue_due", condition=Q(due_at__isnull=False)),
            models.Index(
                fields=["webhook", "lost_leases", "due_at"],
                name="rq_webhooks_queue_suspect",
                condition=Q(lost_leases__gt=0),
            ),
            models.Index(fields=["webhook", "lane"], name="rq_webhooks_queue_overtaken", condition=Q(overtaken=True)),
            models.Index(
                fields=["webhook", "failing_since"],
                name="rq_webhooks_queue_failing",
                condition=Q(failing_since__isnull=False),
            ),
            models.Index(
                fields=["webhook", "failed_at"], name="rq_webhooks_queue_failed", condition=Q(failed_at__isnull=False)
            ),
            # For pages.
            models.Index(
                fields=["webhook", "error_kind", "failed_at"],
                name="rq_webhooks_queue_reason",
                condition=HAS_FAILED,
            ),
            models.Index(
                fields=["failed_at"], name="rq_webhooks_queue_last_failed", condition=Q(failed_at__isnull=False)
            ),
            models.Index(
                fields=["delivery"], name="rq_webhooks_queue_new_failed", condition=Q(failed_at__isnull=False)
            ),
            models.Index(fields=["webhook", "event"], name="rq_webhooks_queue_not_due", condition=NOT_DUE),
        ]

    def __str__(self) -> str:
        return str(self.pk)
