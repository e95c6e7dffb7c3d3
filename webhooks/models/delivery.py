"""Deliveries of events to webhooks, and their states."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.db import models
from django.db.models import Case, Func, Prefetch, Q, When
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.text import Truncator
from django.utils.translation import gettext_lazy as _

from webhooks.db import DatabaseNow, among_sql, atomically, fetch_all
from webhooks.models import lanes, resend_sql
from webhooks.models.columns import EMPTY, WriteDBManager
from webhooks.models.event import LARGE_FIELDS, NAME_SHOWN, Action, Event
from webhooks.models.ids import new_id
from webhooks.models.lanes import Place
from webhooks.models.queue import QUEUED_STATES, QueuedDelivery, State
from webhooks.models.resend_sql import Resent
from webhooks.models.webhook import Webhook
from webhooks.models.webhook_secrets import SECRET_FIELDS

BETWEEN_ATTEMPTS = Q(queued__state=State.PENDING, queued__due_at__gt=DatabaseNow())
FAILED = Q(queued__failed_at__isnull=False)
DISCARDED = Q(discarded_at__isnull=False)
FINISHED = ~Q(outcome="")


class HasLaterState(Func):
    """Whether the webhook of a delivery got a later state of the object. Custom events are no states.

    It compares whole places, as ``lanes`` does: with old statistics, PostgreSQL would read the deliveries of all later
    events. Between two places, SQLite would read all deliveries of the webhook: there it compares each column.
    """

    output_field = models.BooleanField()

    def __init__(self) -> None:
        super().__init__("webhook_id", "lane", "event_id")

    def as_sql(self, compiler: Any, connection: Any, *args: Any, **kwargs: Any) -> Any:
        webhook, lane, event = self._columns(compiler)
        place = "(later.webhook_id, later.lane, later.event_id)"
        is_later = f"{place} > ({webhook}, {lane}, {event}) AND {place} <= ({webhook}, {lane}, {lanes.LARGEST})"
        return self._sql(event, is_later), []

    def as_sqlite(self, compiler: Any, connection: Any, **kwargs: Any) -> Any:
        webhook, lane, event = self._columns(compiler)
        is_later = f"later.webhook_id = {webhook} AND later.lane = {lane} AND later.event_id > {event}"
        return self._sql(event, is_later), []

    def _columns(self, compiler: Any) -> list[str]:
        return [compiler.compile(one)[0] for one in self.get_source_expressions()]

    def _sql(self, event: str, is_later: str) -> str:
        actions = ", ".join(f"'{action}'" for action in Action.values)
        return f"""
            ((SELECT action FROM rq_webhooks_event WHERE id = {event}) IN ({actions}) AND EXISTS (
                SELECT 1 FROM rq_webhooks_delivery AS later
                WHERE later.lane IS NOT NULL AND {is_later} AND later.outcome = 'succeeded'
                    AND (SELECT action FROM rq_webhooks_event WHERE id = later.event_id) IN ({actions})
            ))
            """


# A delivery failed, and a later change of its object was accepted by its webhook: to send it again would bring an old
# state. A webhook that sends in any order has no lanes, and so no later ones.
SUPERSEDED = Q(outcome=State.FAILED, lane__isnull=False) & Q(HasLaterState())


def superseded_column() -> Case:
    """The same as a column."""
    return Case(When(SUPERSEDED, then=True), default=False, output_field=models.BooleanField())


class DeliveryQuerySet(models.QuerySet["Delivery"]):
    def for_detail(self) -> DeliveryQuerySet:
        """With the event and the webhook of each, but without secrets."""
        related = self.select_related("event", "webhook", "queued").annotate(read_superseded=superseded_column())
        return related.defer(*(f"webhook__{name}" for name in SECRET_FIELDS))

    def for_list(self) -> DeliveryQuerySet:
        """As ``for_detail``, without the large columns of events."""
        return self.for_detail().defer(*(f"event__{name}" for name in (*LARGE_FIELDS, "error")))

    def by_table(self) -> DeliveryQuerySet:
        """All deliveries as ``for_list``, with a query for each table: old statistics would mislead a join."""
        webhooks = Webhook.with_deleted.order_by().defer(*SECRET_FIELDS)
        events = Event.objects.order_by().defer(*LARGE_FIELDS, "error")
        related = (Prefetch("event", events), Prefetch("webhook", webhooks), "queued")
        rows = Delivery.objects.using(self.db).order_by().annotate(read_superseded=superseded_column())
        return rows.prefetch_related(*related)

    def in_states(self, *states: str) -> DeliveryQuerySet:
        """Deliveries in these states, found by their indexes."""
        queued = [state for state in states if state in QUEUED_STATES]
        found = Q(queued__state__in=queued) if queued else Q(pk__in=())
        if State.SUCCEEDED in states:
            found |= Q(outcome=State.SUCCEEDED)
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

    def retry(self, requested_by: str) -> int:
        """Put failed and discarded deliveries back into their lanes, with a new retry schedule.

        Pending deliveries get their next attempt now, and keep their place in the schedule.
        """
        return self._send_again(resend_sql.retry, requested_by)

    def resend(self, requested_by: str) -> int:
        """Put finished deliveries back into their lanes, including succeeded ones, with a new retry schedule."""
        return self._send_again(resend_sql.resend, requested_by)

    def _send_again(self, change: Callable[..., Resent], requested_by: str) -> int:
        ids = list(self.values_list("pk", flat=True))
        return atomically(lambda: change(self.db, ids, requested_by), self.db).changed

    def discard(self) -> int:
        """End deliveries without sending them, unless they are being sent. The next ones in their lanes move up."""

        def end() -> int:
            ids = list(self.discardable().values_list("pk", flat=True))
            lanes.lock_of(self.db, ids)
            chosen, chosen_param = among_sql(self.db, ids, "uuid")
            gone = fetch_all(
                self.db,
                f"""
                DELETE FROM rq_webhooks_queue
                WHERE delivery_id {chosen} AND state IN ('waiting', 'pending', 'failed')
                RETURNING delivery_id, webhook_id, lane, event_id, in_lane AND state = 'pending'
                """,
                [chosen_param],
            )
            rows = self.model.objects.using(self.db).filter(pk__in=[row[0] for row in gone])
            rows.update(outcome=State.DISCARDED, finished_at=DatabaseNow(), discarded_at=DatabaseNow())
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


class Delivery(models.Model):
    """One Event to one Webhook. Its id is the ``webhook-id`` that every attempt carries.

    The row has the event, the webhook and the result. ``queued`` has the rest of the work: a succeeded or discarded
    delivery has none. A record of an attempt changes no column with an index.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    event = models.ForeignKey(Event, on_delete=models.CASCADE, related_name="deliveries", verbose_name=_("event"))
    # Its index is one of those below.
    webhook = models.ForeignKey(
        Webhook, on_delete=models.CASCADE, related_name="deliveries", db_index=False, verbose_name=_("webhook")
    )
    created = models.DateTimeField(_("created"), default=timezone.now, db_default=Now())
    lane = models.BigIntegerField(
        null=True, blank=True, help_text=_("The object whose changes go one after the other. Empty: in any order.")
    )

    outcome = models.CharField(
        max_length=10, **EMPTY, help_text=_("The state in which it ended: succeeded, failed or discarded.")
    )
    attempt_count = models.PositiveIntegerField(_("attempt count"), default=0, db_default=0)
    reason = models.TextField(_("reason"), **EMPTY, help_text=_("Why the last attempt failed."))
    error_kind = models.CharField(_("error kind"), max_length=30, **EMPTY, help_text=_("The kind of that failure."))
    finished_at = models.DateTimeField(_("finished at"), null=True, blank=True)
    discarded_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = WriteDBManager.from_queryset(DeliveryQuerySet)()

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
    def next_attempt_at(self) -> datetime | None:
        """None unless it is pending."""
        return self._queued.due_at if self._queued and self.state == State.PENDING else None

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
