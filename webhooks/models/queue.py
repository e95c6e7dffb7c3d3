"""The queue: one narrow row for each delivery that is not finished or has failed.

Workers change these rows for each attempt, and read none of the finished deliveries. docs/worker.md has the
reasons.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from django.db import models
from django.db.models import Q
from django.db.models.functions import Coalesce
from django.utils.translation import gettext_lazy as _

from webhooks.db import DatabaseNow, to_uuid
from webhooks.models.columns import EMPTY, USERNAME_LENGTH, WriteDBManager, default
from webhooks.models.event import Event
from webhooks.models.webhook import Webhook


class State(models.TextChoices):
    """The states of a delivery, and each change of them:

    (new) -> waiting, pending, sending      ``delivery.dispatch`` creates the delivery
    waiting -> pending, sending             ``lanes.promote``: its turn in the lane has come
    pending -> sending                      ``delivery.claim_sql.claim``
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

# One transaction makes at most so many heads of lanes due.
MOST_HASTENED = 1000

# Deliveries that wait, and the ones that a worker claimed as soon as it was their turn.
NOT_DUE = Q(due_at__isnull=True, failed_at__isnull=True)
HAS_FAILED = Q(failed_at__isnull=False)


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

    def held(self, tokens: Collection[uuid.UUID]) -> QueuedDeliveryQuerySet:
        """Deliveries that are claimed under one of these tokens."""
        return self.filter(state=State.SENDING, claim__in=tokens)

    def release(self, wait: float | None = None, **also: Any) -> int:
        """Make claimed deliveries pending again, and due since the same time, or in ``wait`` seconds. Does not count as
        an attempt."""
        due_at = Coalesce("due_at", DatabaseNow()) if wait is None else DatabaseNow(wait)
        return self.filter(state=State.SENDING).update(state=State.PENDING, claim=None, due_at=due_at, **also)

    def hasten_heads(self, webhook_ids: Collection[int]) -> int:
        """Let failed heads of lanes be due now, as the receivers of these webhooks work again: later deliveries wait
        behind them. Up to ``MOST_HASTENED``, the longest failing first."""
        later = self.filter(failing_since__isnull=False, state=State.PENDING, due_at__gt=DatabaseNow())
        heads = later.filter(webhook__in=webhook_ids).order_by("failing_since").select_for_update(skip_locked=True)
        return self.filter(pk__in=list(heads.values_list("pk", flat=True)[:MOST_HASTENED])).update(due_at=DatabaseNow())

    def leave_lane(self) -> int:
        """Unblock the deliveries behind these. They themselves are retried outside the lane."""
        return self.update(in_lane=False, overtaken=False, failing_since=None)


class QueuedDelivery(models.Model):
    """The work that is left for a delivery.

    A claim changes only ``state`` and ``claim``. No index has them, so PostgreSQL leaves all indexes as they are.
    """

    delivery = models.OneToOneField(
        "rq_webhooks.Delivery", on_delete=models.CASCADE, primary_key=True, related_name="queued", db_constraint=False
    )
    # Copies of the delivery's own columns.
    event = models.ForeignKey(Event, models.DO_NOTHING, related_name="+", db_constraint=False, db_index=False)
    webhook = models.ForeignKey(Webhook, models.DO_NOTHING, related_name="+", db_constraint=False, db_index=False)
    lane = models.BigIntegerField(null=True)

    state = models.CharField(max_length=10, choices=[(state.value, state.label) for state in QUEUED_STATES])
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

    objects = WriteDBManager.from_queryset(QueuedDeliveryQuerySet)()

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
    is_early: bool = False  # no column: it is a probe, claimed before it was due


# The columns of the queue that make a ``ClaimedRow``.
CLAIMED_COLUMNS = ("delivery_id", *ClaimedRow._fields[1:-1])
CLAIMED = ", ".join(CLAIMED_COLUMNS)


def claimed_rows(found: Iterable[tuple[Any, ...]]) -> list[ClaimedRow]:
    """From the columns ``CLAIMED`` and perhaps ``is_early``, in the order to send them."""
    claimed = [ClaimedRow(to_uuid(pk), *rest) for pk, *rest in found]
    return sorted(claimed, key=lambda row: (str(row.due_at), row.event_id))
