"""Deliveries of events to webhooks, the changes of their states, and the SQL of their table."""

from __future__ import annotations

import json
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from django.db import models
from django.db.models import Case, Func, Prefetch, Q, Value, When
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.text import Truncator
from django.utils.translation import gettext_lazy as _

from webhooks.ground.db import (
    Among,
    DatabaseNow,
    Statement,
    among_sql,
    atomically,
    fetch_all,
    fetch_each,
    json_rows_sql,
    now_sql,
    rows_by_id,
    rows_by_id_sql,
    to_uuid,
    uuid_sql,
    value_by_id_sql,
)
from webhooks.models import lanes
from webhooks.models.columns import EMPTY, WriteDBManager, alters_data, default, secret_fields, webhook_model
from webhooks.models.event import LARGE_FIELDS, NAME_SHOWN, Action, Event
from webhooks.models.ids import new_id
from webhooks.models.lanes import Place
from webhooks.models.queue import (
    ENDED_STATES,
    PUT_BACK,
    QUEUED_STATES,
    ClaimedRow,
    Moved,
    QueuedDelivery,
    State,
    Transition,
)

BETWEEN_ATTEMPTS = Q(queued__state=State.PENDING, queued__due_at__gt=DatabaseNow())
FAILED = Q(queued__failed_at__isnull=False)
DISCARDED = Q(discarded_at__isnull=False)


class HasLeftQueue(Func):
    """Whether a delivery has no row in the queue. With old statistics, a join would read the whole queue for each."""

    output_field = models.BooleanField()

    def __init__(self) -> None:
        super().__init__("id")

    def as_sql(self, compiler: Any, connection: Any, *args: Any, **kwargs: Any) -> Any:
        [pk] = (compiler.compile(one)[0] for one in self.get_source_expressions())
        return f"((SELECT delivery_id FROM rq_webhooks_queue WHERE delivery_id = {pk}) IS NULL)", []


SUCCEEDED = Q(HasLeftQueue(), outcome=State.SUCCEEDED)
FINISHED = Q(outcome__in=(State.FAILED, State.DISCARDED)) | SUCCEEDED

# The state in which a delivery has ended, or "".
ENDED_STATE = Case(When(FINISHED, then="outcome"), default=Value(""))


def is_state_sql(event: str) -> str:
    """Whether the event with this id has the state of its object. A custom event has none."""
    actions = ", ".join(f"'{action}'" for action in Action.values)
    return f"(SELECT action FROM rq_webhooks_event WHERE id = {event}) IN ({actions})"


class HasLaterState(Func):
    """Whether the webhook of a delivery got a later state of the object. Custom events are no states.

    It compares whole places, as ``lanes`` does: with old statistics, PostgreSQL would read the deliveries of all later
    events. It also compares the webhook and the lane, for before version 18 PostgreSQL does not end at an upper place.
    With places, SQLite would read all deliveries of the webhook: there it compares each column.
    """

    output_field = models.BooleanField()

    def __init__(self) -> None:
        super().__init__("webhook_id", "lane", "event_id")

    def as_sql(self, compiler: Any, connection: Any, *args: Any, **kwargs: Any) -> Any:
        webhook, lane, event = self._columns(compiler)
        place = "(later.webhook_id, later.lane, later.event_id)"
        is_there = f"later.webhook_id = {webhook} AND later.lane = {lane}"
        is_later = f"{is_there} AND {place} > ({webhook}, {lane}, {event})"
        return self._sql(webhook, lane, event, is_later), []

    def as_sqlite(self, compiler: Any, connection: Any, **kwargs: Any) -> Any:
        webhook, lane, event = self._columns(compiler)
        is_later = f"later.webhook_id = {webhook} AND later.lane = {lane} AND later.event_id > {event}"
        return self._sql(webhook, lane, event, is_later), []

    def _columns(self, compiler: Any) -> list[str]:
        return [compiler.compile(one)[0] for one in self.get_source_expressions()]

    def _sql(self, webhook: str, lane: str, event: str, is_later: str) -> str:
        return f"""
            ({is_state_sql(event)} AND EXISTS (
                SELECT 1 FROM rq_webhooks_delivery AS later
                WHERE later.lane IS NOT NULL AND {is_later} AND later.outcome = 'succeeded'
                    AND (SELECT delivery_id FROM rq_webhooks_queue WHERE delivery_id = later.id) IS NULL
                    AND {is_state_sql("later.event_id")}
            ))
            """


class SupersedesFailed(HasLaterState):
    """Whether an earlier delivery of its lane has failed, and this one has the last state that the webhook got. It is
    stored for as long: without it, that one would not be superseded any more."""

    def _sql(self, webhook: str, lane: str, event: str, is_later: str) -> str:
        return f"""
            ((
                SELECT 1 FROM rq_webhooks_queue AS earlier
                WHERE earlier.webhook_id = {webhook} AND earlier.lane = {lane} AND earlier.event_id < {event}
                    AND earlier.failed_at IS NOT NULL LIMIT 1
            ) IS NOT NULL AND {is_state_sql(event)} AND NOT {super()._sql(webhook, lane, event, is_later)})
            """


# A delivery failed, and a later change of its object was accepted by its webhook: to send it again would bring an old
# state. A webhook that sends in any order has no lanes, and so no later ones.
IS_SUPERSEDED = Q(HasLaterState(), lane__isnull=False)
SUPERSEDED = Q(outcome=State.FAILED) & IS_SUPERSEDED


class EndOfFirstAttempt(Func):
    """When the first attempt of a delivery ended, if that has no end in its own row."""

    output_field = models.DateTimeField()
    _END = "started_at + duration_ms * interval '1 millisecond'"
    _END_IN_SQLITE = "strftime('%%Y-%%m-%%d %%H:%%M:%%f', started_at, (duration_ms / 1000.0) || ' seconds')"

    def __init__(self) -> None:
        super().__init__("id", "noted_end")

    def as_sql(self, compiler: Any, connection: Any, *args: Any, **kwargs: Any) -> Any:
        pk, end = (compiler.compile(one)[0] for one in self.get_source_expressions())
        ended = self._END if connection.vendor == "postgresql" else self._END_IN_SQLITE
        attempt = f"SELECT {ended} FROM rq_webhooks_attempt WHERE delivery_id = {pk} AND number = 1"
        return f"(CASE WHEN {end} IS NULL THEN ({attempt}) END)", []


def superseded_column() -> Case:
    """The same as a column."""
    return Case(When(SUPERSEDED, then=True), default=False, output_field=models.BooleanField())


def read_columns() -> dict[str, Any]:
    """What lists read with each row, for properties of ``Delivery``."""
    return {"read_superseded": superseded_column(), "read_end": EndOfFirstAttempt()}


class NewDelivery(NamedTuple):
    """A delivery and its row in the queue. ``lane`` is None if its webhook is not ordered."""

    id: uuid.UUID
    event_id: int
    webhook_id: int
    lane: int | None
    state: str = State.PENDING
    overtaken: bool = False

    @property
    def claimed_row(self) -> ClaimedRow:
        return ClaimedRow(self.id, self.webhook_id, self.event_id, self.lane, self.lane is not None)


class DeliveryQuerySet(models.QuerySet["Delivery"]):
    def for_detail(self) -> DeliveryQuerySet:
        """With the event and the webhook of each, but without secrets."""
        related: Any = self.select_related("event", "webhook", "queued").annotate(**read_columns())
        return related.defer(*(f"webhook__{name}" for name in secret_fields(webhook_model())))  # type: ignore[no-any-return]

    def for_list(self) -> DeliveryQuerySet:
        """As ``for_detail``, without the large columns of events."""
        return self.for_detail().defer(*(f"event__{name}" for name in (*LARGE_FIELDS, "error")))

    def by_table(self) -> DeliveryQuerySet:
        """All deliveries as ``for_list``, with a query for each table: old statistics would mislead a join."""
        webhooks = webhook_model().with_deleted.order_by().defer(*secret_fields(webhook_model()))
        events = Event.objects.order_by().defer(*LARGE_FIELDS, "error")
        related = (Prefetch("event", events), Prefetch("webhook", webhooks), "queued")
        rows: Any = Delivery.objects.using(self.db).order_by().annotate(**read_columns())
        return rows.prefetch_related(*related)  # type: ignore[no-any-return]

    def in_states(self, *states: str) -> DeliveryQuerySet:
        """Deliveries in these states, found by their indexes."""
        queued = [state for state in states if state in QUEUED_STATES]
        found = Q(queued__state__in=queued) if queued else Q(pk__in=())
        if State.SUCCEEDED in states:
            found |= SUCCEEDED
        return self.filter(found | DISCARDED if State.DISCARDED in states else found)

    def failed(self) -> DeliveryQuerySet:
        """Deliveries that were given up, without webhooks that are being deleted."""
        return self.filter(FAILED, webhook__deleted_at=None)

    def superseded(self) -> DeliveryQuerySet:
        """Failed deliveries of objects with a later state that their webhook got."""
        return self.filter(SUPERSEDED)

    def not_superseded(self) -> DeliveryQuerySet:
        return self.exclude(SUPERSEDED)

    def retriable(self) -> DeliveryQuerySet:
        """Failed and discarded deliveries, and pending ones that are not due yet."""
        return self.filter(FAILED | DISCARDED | BETWEEN_ATTEMPTS, webhook__deleted_at=None)

    def resendable(self) -> DeliveryQuerySet:
        """Finished deliveries, including succeeded ones."""
        return self.filter(FINISHED, webhook__deleted_at=None)

    def discardable(self) -> DeliveryQuerySet:
        return self.filter(queued__state__in=(State.WAITING, State.PENDING, State.FAILED))

    @alters_data
    def retry(self, requested_by: str) -> int:
        """Put failed and discarded deliveries back into their lanes, with a new retry schedule.

        Pending deliveries get their next attempt now, and keep their place in the schedule.
        """
        return self._send_again(retry, requested_by)

    @alters_data
    def resend(self, requested_by: str) -> int:
        """Put finished deliveries back into their lanes, including succeeded ones, with a new retry schedule."""
        return self._send_again(resend, requested_by)

    def _send_again(self, change: Callable[..., int], requested_by: str) -> int:
        ids = list(self.values_list("pk", flat=True))

        def lock_and_change() -> int:
            lanes.lock_of(self.db, ids)
            return change(self.db, ids, requested_by)

        return atomically(lock_and_change, self.db)

    @alters_data
    def discard(self) -> int:
        """End deliveries without sending them, unless they are being sent. The next ones in their lanes move up."""

        def end() -> int:
            ids = list(self.discardable().values_list("pk", flat=True))
            lanes.lock_of(self.db, ids)
            gone = QueuedDelivery.objects.db_manager(self.db).discard(ids)
            rows = self.model.objects.using(self.db).filter(pk__in=[row[0] for row in gone])
            rows.update(outcome=State.DISCARDED, noted_end=DatabaseNow(), discarded_at=DatabaseNow())
            lanes.promote(self.db, [Place(*place) for _, *place, was_head in gone if was_head])
            return len(gone)

        return atomically(end, self.db)

    discard.queryset_only = True  # type: ignore[attr-defined]  # as Django's own delete()

    def error_kinds(self) -> set[str]:
        """The error kinds that deliveries have now. Reads an entry of an index for each, from one kind to the next."""
        found = fetch_all(
            self.db,
            """
            WITH RECURSIVE kinds AS (
                SELECT MIN(error_kind) AS kind FROM rq_webhooks_delivery WHERE error_kind <> ''
                UNION ALL
                SELECT (
                    SELECT MIN(error_kind) FROM rq_webhooks_delivery WHERE error_kind <> '' AND error_kind > kinds.kind
                ) FROM kinds WHERE kind IS NOT NULL
            )
            SELECT kind FROM kinds WHERE kind IS NOT NULL
            """,
        )
        return {kind for (kind,) in found}


_DeliveryManager = WriteDBManager.from_queryset(DeliveryQuerySet)


class DeliveryManager(_DeliveryManager):
    """The statements of workers."""

    @alters_data
    def insert(
        self,
        deliveries: Sequence[NewDelivery],
        claimed: Collection[uuid.UUID],
        token: uuid.UUID | None,
        *others: Statement,
        may_exist: bool = True,
    ) -> tuple[set[uuid.UUID], list[Any]]:
        """Insert deliveries and their rows in the queue, and run ``others``, in one round trip. Those in ``claimed``
        belong to the worker with the ``token``. A delivery that is there already stays as it is. Returns the new
        ones, and the rows of ``others``.

        If none can be there already, PostgreSQL writes less without that question. It then raises IntegrityError.
        """
        using = self.db
        now = now_sql(using)
        columns = ("delivery_id", "event_id", "webhook_id", "lane", "state", "overtaken")
        given = json_rows_sql(using, columns, "rq_webhooks_queue")
        states = [State.SENDING if one.id in claimed else one.state for one in deliveries]
        values = [(one.id.hex, *one[1:4], state, one.overtaken) for one, state in zip(deliveries, states, strict=True)]
        rows = json.dumps([dict(zip(columns, row, strict=True)) for row in values])
        # The queue first: then no statement needs the answer of another. With old statistics, PostgreSQL would read all
        # deliveries for NOT EXISTS.
        is_new, in_queue, in_history, returning = "1 = 1", "", "", ""
        if may_exist:
            is_new = "(SELECT id FROM rq_webhooks_delivery WHERE id = delivery_id) IS NULL"
            in_queue, in_history = "ON CONFLICT (delivery_id) DO NOTHING", "ON CONFLICT (id) DO NOTHING"
            returning = "RETURNING delivery_id"
        queue = f"""
            INSERT INTO rq_webhooks_queue ({", ".join(columns)}, in_lane, waited, claim, due_at)
            SELECT {", ".join(columns)}, lane IS NOT NULL, state = 'waiting',
                CASE WHEN state = 'sending' THEN {uuid_sql(using)} END,
                CASE WHEN state = 'pending' THEN {now} END
            FROM {given} WHERE {is_new} {in_queue} {returning}
        """
        delivery = f"""
            INSERT INTO rq_webhooks_delivery (id, event_id, webhook_id, lane, created)
            SELECT delivery_id, event_id, webhook_id, lane, {now} FROM {given} WHERE 1 = 1 {in_history}
        """
        new = (queue, [token.hex if token else None, rows])
        inserted, _, *found = fetch_each(using, new, (delivery, [rows]), *others)
        return {to_uuid(pk) for (pk,) in inserted} if may_exist else {one.id for one in deliveries}, found

    @alters_data
    def move_on(self, transitions: Collection[Transition], tokens: Collection[uuid.UUID]) -> dict[uuid.UUID, int]:
        """Write transitions. Returns the numbers of the attempts by delivery, for deliveries that are still claimed
        under these tokens. The others stay as they are."""
        mine = QueuedDelivery.objects.db_manager(self.db).move_on(transitions, tokens)
        self._note([one for one in transitions if one.id in mine and not mine[one.id].is_at_once], mine)
        return {pk: moved.number for pk, moved in mine.items()}

    def _note(self, transitions: Collection[Transition], moved: Mapping[uuid.UUID, Moved]) -> None:
        """Write the results of these attempts, and how many there were. In one round trip, if the driver can."""
        succeeded = defaultdict[int, list[uuid.UUID]](list)
        failed = dict[uuid.UUID, dict[str, Any]]()
        for one in transitions:
            number = moved[one.id].number
            if one.state == State.SUCCEEDED:
                succeeded[number].append(one.id)
            else:
                failed[one.id] = {
                    "outcome": "" if one.state == State.PENDING else one.state,
                    "attempts": number,
                    "reason": one.reason,
                    "error_kind": one.error_kind,
                }
        statements = [self._note_success_sql(ids, number) for number, ids in succeeded.items()]
        if failed:
            statements.append(self._note_failures_sql(failed))
        if statements:
            fetch_each(self.db, *statements)

    def _note_success_sql(self, ids: Collection[uuid.UUID], attempts: int) -> Statement:
        chosen, chosen_param = among_sql(self.db, ids, "uuid")
        statement = f"""
            UPDATE rq_webhooks_delivery SET
                outcome = 'succeeded', noted_attempts = %s, reason = '', error_kind = '', noted_end = {now_sql(self.db)}
            WHERE id {chosen}
        """
        return statement, [attempts, chosen_param]

    def _note_failures_sql(self, results: Mapping[uuid.UUID, Mapping[str, Any]]) -> Statement:
        chosen, chosen_param = among_sql(self.db, results, "uuid")
        names = ("outcome", "attempts", "reason", "error_kind")
        outcome, attempts, reason, kind = (value_by_id_sql(self.db, "id", name) for name in names)
        statement = f"""
            UPDATE rq_webhooks_delivery SET
                outcome = {outcome},
                noted_attempts = CAST({attempts} AS integer),
                reason = {reason},
                error_kind = {kind},
                noted_end = CASE WHEN {outcome} = '' THEN NULL ELSE {now_sql(self.db)} END
            FROM {rows_by_id_sql(self.db)}
            WHERE id {chosen}
        """
        return statement, [rows_by_id(self.db, results), chosen_param]


class Delivery(models.Model):
    """One Event to one Webhook. Its id is the ``webhook-id`` that every attempt carries.

    The row has the event, the webhook and the result. ``queued`` has the rest of the work: a succeeded or discarded
    delivery has none. The row is inserted as it is once the first attempt has succeeded, so that this changes nothing.
    Until then, the row in the queue counts.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # The database does not check these keys, see docs/worker.md: ``delivery.dispatch`` does.
    event = models.ForeignKey(
        Event, on_delete=models.CASCADE, related_name="deliveries", db_constraint=False, verbose_name=_("event")
    )
    # Its index is one of those below.
    webhook = models.ForeignKey(
        "rq_webhooks.Webhook",
        on_delete=models.CASCADE,
        related_name="deliveries",
        db_constraint=False,
        db_index=False,
        verbose_name=_("webhook"),
    )
    created = models.DateTimeField(_("created"), default=timezone.now, db_default=Now())
    lane = models.BigIntegerField(
        null=True, blank=True, help_text=_("The object whose changes go one after the other. Empty: in any order.")
    )

    outcome = models.CharField(
        max_length=10,
        blank=True,
        **default("succeeded"),
        help_text="Without a row in the queue, its state. With one: failed if that has failed.",
    )
    noted_attempts = models.PositiveIntegerField(
        **default(0), help_text="Its attempts, without one that succeeded at once."
    )
    reason = models.TextField(_("reason"), **EMPTY, help_text=_("Why the last attempt failed."))
    error_kind = models.CharField(_("error kind"), max_length=30, **EMPTY, help_text=_("The kind of that failure."))
    noted_end = models.DateTimeField(null=True, blank=True, help_text="When it ended, unless it succeeded at once.")
    discarded_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = DeliveryManager()

    class Meta:
        base_manager_name = "objects"
        ordering = ["-pk"]
        verbose_name, verbose_name_plural = _("delivery"), _("deliveries")
        default_permissions = ("view",)
        permissions = [
            ("retry_delivery", "Can retry deliveries"),
            ("resend_delivery", "Can resend deliveries"),
            ("discard_delivery", "Can discard deliveries"),
        ]
        indexes = [
            models.Index(
                fields=["webhook", "id"],
                name="rq_webhooks_delivery_webhook",
                condition=Q(webhook__isnull=False),  # not for a look-up by id, see docs/worker.md
            ),
            models.Index(
                fields=["webhook", "lane", "event"], name="rq_webhooks_delivery_lane", condition=Q(lane__isnull=False)
            ),
            models.Index(
                fields=["discarded_at"], name="rq_webhooks_delivery_discarded", condition=Q(discarded_at__isnull=False)
            ),
            models.Index(
                fields=["id"],
                name="rq_webhooks_delivery_discards",
                condition=Q(discarded_at__isnull=False),  # for pages
            ),
            models.Index(fields=["noted_end"], name="rq_webhooks_delivery_ended", condition=Q(noted_end__isnull=False)),
            models.Index(
                fields=["error_kind", "id"], condition=~models.Q(error_kind=""), name="rq_webhooks_delivery_error"
            ),
        ]

    def __str__(self) -> str:
        """Such as "AMS1 updated → CMDB". Only its id if the event and the webhook were not loaded with it."""
        if not {"event", "webhook"} <= self._state.fields_cache.keys():
            return str(self.pk)
        return f"{self.event} → {Truncator(self.webhook.name).chars(NAME_SHOWN)}"

    @property
    def state(self) -> str:
        """One of ``State``. Read it with ``queued``, which knows the state of unfinished deliveries."""
        # It may end between a query for it and one for ``queued``.
        return self._queued.state if self._queued else self.outcome or State.SENDING

    @property
    def _queued(self) -> QueuedDelivery | None:
        return getattr(self, "queued", None)

    @property
    def attempt_count(self) -> int:
        return self.noted_attempts or int(self.state == State.SUCCEEDED)

    @property
    def finished_at(self) -> datetime | None:
        """When it ended. ``for_detail``, ``for_list`` and ``by_table`` read it with the row."""
        if self.noted_end or self.state != State.SUCCEEDED:
            return self.noted_end
        if "read_end" in self.__dict__:
            return self.__dict__["read_end"]  # type: ignore[no-any-return]
        return Delivery.objects.filter(pk=self.pk).values_list(EndOfFirstAttempt(), flat=True).first()

    @property
    def due_at(self) -> datetime | None:
        """When its attempt is or was due. None once it has ended."""
        return self._queued.due_at if self._queued else None

    @property
    def next_attempt_at(self) -> datetime | None:
        """None unless it is pending."""
        return self.due_at if self.state == State.PENDING else None

    @property
    def is_retriable(self) -> bool:
        """Whether ``retriable`` finds it."""
        due = self.next_attempt_at
        is_between_attempts = due is not None and due > timezone.now()
        has_failed = self.state in (State.FAILED, State.DISCARDED)
        return (is_between_attempts or has_failed) and self.webhook.deleted_at is None

    @property
    def in_lane(self) -> bool:
        """Whether it is sent in order with the others of its lane, or was when it ended."""
        return self.lane is not None and (self._queued is None or self._queued.in_lane)

    @property
    def superseded(self) -> bool:
        """See ``SUPERSEDED``. ``for_detail``, ``for_list`` and ``by_table`` read it with the row."""
        known = getattr(self, "read_superseded", None)
        return Delivery.objects.filter(pk=self.pk).superseded().exists() if known is None else bool(known)

    @property
    def lost_leases(self) -> int:
        return self._queued.lost_leases if self._queued else 0


# Sent again


@dataclass
class Handover:
    """What a worker claims at once of the deliveries that it puts into the queue."""

    token: uuid.UUID
    may_claim: bool = True
    """Whether its lease goes on."""
    free: Counter[int] = field(default_factory=Counter)
    """How many more of each webhook it claims."""
    rows: list[ClaimedRow] = field(default_factory=list)

    def take(self, row: ClaimedRow) -> bool:
        """Claim this one, if the worker still has capacity for it."""
        if not self.may_claim or self.free[row.webhook_id] <= 0:
            return False
        self.free[row.webhook_id] -= 1
        self.rows.append(row)
        return True


class Finished(NamedTuple):
    """A delivery that was finished until now."""

    id: uuid.UUID
    webhook_id: int
    lane: int | None
    event_id: int
    attempts: int


def retry(using: str, ids: Collection[uuid.UUID], requested_by: str, handover: Handover | None = None) -> int:
    """Put failed and discarded deliveries back, and make the next attempt of pending ones due now.

    Pending ones keep their place in the schedule. The rest as for ``resend``."""
    later = QueuedDelivery.objects.using(using).filter(Among("delivery", ids, "uuid"), due_at__gt=DatabaseNow())
    forward = list(later.filter(state=State.PENDING).select_for_update(no_key=True).values_list(*FORWARD, named=True))
    if forward:
        _bring_forward(using, forward, requested_by)
    return len(forward) + resend(using, ids, requested_by, handover, (State.FAILED, State.DISCARDED))


FORWARD = ("delivery_id", "webhook_id", "lane", "event_id", "in_lane")


def _bring_forward(using: str, pending: Sequence[Any], requested_by: str) -> None:
    """Make the next attempts of pending deliveries due now. One that has left its lane returns to it."""
    queue = QueuedDelivery.objects.using(using)
    every = queue.filter(Among("delivery", [one.delivery_id for one in pending], "uuid"))
    every.update(due_at=DatabaseNow(), requested_by=requested_by, requested_at=DatabaseNow())
    headless = lanes.step_back(using, lanes.firsts(pending).values())
    beside = [one for one in pending if one.lane is not None and not one.in_lane]
    is_ordered = lanes.ordered(using, {Place(one.webhook_id, one.lane, 0) for one in beside})
    back = [one for one in beside if (one.webhook_id, one.lane) in is_ordered]
    if back:
        chosen = queue.filter(Among("delivery", [one.delivery_id for one in back], "uuid"))
        chosen.update(state=State.WAITING, waited=True, in_lane=True, overtaken=True, due_at=None)
    lanes.repair(using, {*headless, *(Place(one.webhook_id, one.lane, 0) for one in back)})


def resend(
    using: str,
    ids: Collection[uuid.UUID],
    requested_by: str,
    handover: Handover | None = None,
    outcomes: Collection[str] = ENDED_STATES,
) -> int:
    """Put finished deliveries back into their lanes. Each keeps its id and its attempts, and gets a new retry schedule.

    They go before later ones of their lanes that were not accepted yet, unless a worker holds one. The ``handover``
    claims heads. Returns how many were put back. Call it in a transaction that has the locks of their lanes.
    """
    finished = _take_outcomes(using, ids, outcomes)
    firsts = lanes.firsts(finished).values()
    headless = lanes.step_back(using, firsts)
    is_ordered = lanes.ordered(using, firsts)  # the lanes of ordered webhooks, each with whether it is busy
    queued = list[dict[str, Any]]()
    busy = {lane for lane, is_busy in is_ordered.items() if is_busy}
    for one in finished:
        lane = (one.webhook_id, one.lane) if one.lane is not None else None
        in_lane = lane in is_ordered
        state, claim = State.PENDING, None
        if lane in busy:
            state = State.WAITING
        elif handover:
            place = one.id, one.webhook_id, one.event_id, one.lane, in_lane
            if handover.take(ClaimedRow(*place, requested_by=requested_by, attempts=one.attempts)):
                state, claim = State.SENDING, handover.token.hex
        if in_lane and lane:
            busy.add(lane)
        values = (one.id.hex, one.event_id, one.webhook_id, one.lane, state, claim, in_lane, in_lane, requested_by)
        queued.append(dict(zip(PUT_BACK, (*values, one.attempts, state == State.WAITING), strict=True)))
    QueuedDelivery.objects.db_manager(using).put_back(queued)
    lanes.repair(using, headless)
    return len(finished)


def _take_outcomes(using: str, ids: Collection[uuid.UUID], outcomes: Collection[str]) -> list[Finished]:
    """The deliveries that had one of these outcomes, in the order of their events. Now they have none."""
    chosen, chosen_param = among_sql(using, ids, "uuid")
    placeholders = ", ".join(["%s"] * len(outcomes))
    found = fetch_all(
        using,
        f"""
        UPDATE rq_webhooks_delivery SET
            outcome = '',
            noted_attempts = CASE WHEN outcome = 'succeeded' AND noted_attempts = 0 THEN 1 ELSE noted_attempts END,
            noted_end = NULL,
            discarded_at = NULL
        WHERE id {chosen} AND outcome IN ({placeholders}) AND (
            outcome <> 'succeeded'
            OR (SELECT delivery_id FROM rq_webhooks_queue WHERE delivery_id = rq_webhooks_delivery.id) IS NULL
        ) RETURNING id, webhook_id, lane, event_id, noted_attempts
        """,
        [chosen_param, *outcomes],
    )
    return sorted((Finished(to_uuid(pk), *rest) for pk, *rest in found), key=lambda one: one.event_id)
