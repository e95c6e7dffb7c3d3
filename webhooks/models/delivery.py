"""Deliveries of events to webhooks, their states, and the HTTP requests that were sent for them."""

from __future__ import annotations

import uuid
from typing import Any

from django.db import models, transaction
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Now
from django.utils import timezone

from webhooks.db import DatabaseNow, async_commit, atomically, new_id
from webhooks.models import claims
from webhooks.models.event import EMPTY, LARGE_FIELDS, Event, WriteDBManager
from webhooks.models.webhook import SECRET_FIELDS, Webhook

URL_LENGTH = 2000  # characters of an attempt's URL that are stored: a template can make longer ones


class State(models.TextChoices):
    """The states of a delivery, and each change of them:

    (new) -> waiting, pending               ``delivery.dispatch`` creates the delivery
    waiting -> pending, sending             ``claims.promote``: its turn in the lane has come
    pending -> sending                      ``claims.claim``
    sending -> succeeded, failed, pending   ``delivery.outcomes`` records an attempt
    sending -> pending                      ``release``: the worker returned it, or its lease expired
    failed, discarded -> waiting, pending   ``retry``
    waiting, pending, failed -> discarded   ``discard``
    """

    WAITING = "waiting", "waiting"
    PENDING = "pending", "pending"
    SENDING = "sending", "sending"
    SUCCEEDED = "succeeded", "succeeded"
    FAILED = "failed", "failed"
    DISCARDED = "discarded", "discarded"


# The head of a lane is in one of these states. A lane has at most one head.
HEAD_STATES = (State.PENDING, State.SENDING)
OPEN_STATES = (State.WAITING, *HEAD_STATES)
ENDED_STATES = (State.SUCCEEDED, State.FAILED, State.DISCARDED)

BETWEEN_ATTEMPTS = Q(state=State.PENDING, next_attempt_at__gt=DatabaseNow())


class DeliveryQuerySet(models.QuerySet["Delivery"]):
    def for_detail(self) -> DeliveryQuerySet:
        """With the event and the webhook of each, but without secrets."""
        return self.select_related("event", "webhook").defer(*(f"webhook__{name}" for name in SECRET_FIELDS))

    def for_list(self) -> DeliveryQuerySet:
        """As ``for_detail``, without the large columns of events."""
        return self.for_detail().defer(*(f"event__{name}" for name in (*LARGE_FIELDS, "error")))

    def failed(self) -> DeliveryQuerySet:
        """Deliveries that were given up, without webhooks that are being deleted."""
        return self.filter(state=State.FAILED, webhook__deleted_at=None)

    def retriable(self) -> DeliveryQuerySet:
        """Failed and discarded deliveries, and pending ones that are not due yet."""
        is_over = Q(state__in=(State.FAILED, State.DISCARDED))
        return self.filter(is_over | BETWEEN_ATTEMPTS, webhook__deleted_at=None)

    def discardable(self) -> DeliveryQuerySet:
        return self.filter(state__in=(State.WAITING, State.PENDING, State.FAILED))

    def held(self, token: uuid.UUID) -> DeliveryQuerySet:
        """Deliveries that are still claimed under this token."""
        return self.filter(state=State.SENDING, claim=token)

    def expired(self) -> DeliveryQuerySet:
        """Deliveries with an expired lease: their worker died or stalled."""
        return self.filter(state=State.SENDING, lease_until__lt=DatabaseNow())

    def expired_heads(self, seconds: float) -> DeliveryQuerySet:
        """Failing heads that have blocked their lane for more than ``seconds``.

        Leaves out webhooks that were paused or disabled in that time: there the head did not block the lane.
        """
        return self.exclude(webhook__resumed_at__gt=DatabaseNow(-seconds)).filter(
            state=State.PENDING,
            in_lane=True,
            failures__gt=0,
            head_since__lt=DatabaseNow(-seconds),
            webhook__enabled=True,
            webhook__probe_at=None,
        )

    def headless_lanes(self) -> DeliveryQuerySet:
        """Waiting deliveries in lanes that have no head."""
        heads = self.model._base_manager.filter(
            webhook=OuterRef("webhook"), lane=OuterRef("lane"), state__in=HEAD_STATES, in_lane=True
        )
        return self.filter(~Exists(heads), state=State.WAITING)

    def renew(self, lease: float) -> int:
        return self.update(lease_until=DatabaseNow(lease))

    def release(self, **also: Any) -> int:
        """Make claimed deliveries pending again, and due since the same time. Does not count as an attempt."""
        return self.filter(state=State.SENDING).update(state=State.PENDING, claim=None, lease_until=None, **also)

    def leave_lane(self) -> int:
        """Unblock the deliveries behind these. They themselves are retried outside the lane."""
        return self.update(in_lane=False)

    def retry(self) -> int:
        """Put failed and discarded deliveries back into their lanes, with a new retry schedule.

        Pending deliveries get their next attempt now, and keep their place in the schedule.
        """
        is_due_now = self.filter(BETWEEN_ATTEMPTS).update(next_attempt_at=DatabaseNow())
        return is_due_now + atomically(self._reopen, self.db)

    def _reopen(self) -> int:
        ended = self.filter(state__in=(State.FAILED, State.DISCARDED)).select_for_update(of=("self",))
        is_ordered = dict(ended.values_list("pk", "webhook__ordered"))
        ordered = [pk for pk, is_in_lane in is_ordered.items() if is_in_lane]
        unordered = [pk for pk, is_in_lane in is_ordered.items() if not is_in_lane]
        deliveries = self.model.objects.using(self.db)
        reset: dict[str, Any] = {"failures": 0, "lost_leases": 0, "finished_at": None}
        deliveries.filter(pk__in=ordered).update(state=State.WAITING, in_lane=True, **reset)
        deliveries.filter(pk__in=unordered).update(
            state=State.PENDING, in_lane=False, next_attempt_at=DatabaseNow(), **reset
        )
        claims.lock_heads(self.db, ordered)
        claims.promote(self.db, ordered)
        return len(is_ordered)

    def discard(self) -> int:
        """End deliveries without sending them, unless they are being sent. The next ones in their lanes move up."""
        return atomically(self._discard, self.db)

    discard.queryset_only = True  # type: ignore[attr-defined]  # as Django's own delete()

    def _discard(self) -> int:
        # If a head ends at the same time, its end might promote a delivery that is discarded here. Nothing would then
        # promote the next one.
        claims.lock_heads(self.db, list(self.discardable().values_list("pk", flat=True)))
        ids = list(self.discardable().select_for_update(of=("self",)).values_list("pk", flat=True))
        chosen = self.model.objects.using(self.db).filter(pk__in=ids)
        chosen.update(state=State.DISCARDED, finished_at=DatabaseNow())
        claims.promote(self.db, ids)
        return len(ids)


class Delivery(models.Model):
    """One Event to one Webhook. Its id is the ``webhook-id`` that every attempt carries."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    event = models.ForeignKey(Event, on_delete=models.CASCADE, related_name="deliveries")
    # Its index is the one below that begins with it.
    webhook = models.ForeignKey(Webhook, on_delete=models.CASCADE, related_name="deliveries", db_index=False)
    created = models.DateTimeField(default=timezone.now, db_default=Now())
    state = models.CharField(max_length=10, choices=State.choices, default=State.WAITING, db_default=State.WAITING)

    lane = models.CharField(max_length=460, help_text="The object whose changes go one after the other.")
    in_lane = models.BooleanField(
        default=True, db_default=True, help_text="Whether it is sent in order with the others of its lane."
    )
    head_since = models.DateTimeField(null=True, blank=True)

    next_attempt_at = models.DateTimeField(default=timezone.now, db_default=Now())
    claim = models.UUIDField(null=True, blank=True, editable=False, help_text="The claim of the worker that holds it.")
    lease_until = models.DateTimeField(null=True, blank=True, editable=False)
    lost_leases = models.PositiveSmallIntegerField(
        default=0, db_default=0, editable=False, help_text="Leases that ended without a record since the last attempt."
    )

    attempt_count = models.PositiveIntegerField(default=0, db_default=0)
    failures = models.PositiveIntegerField(
        default=0, db_default=0, help_text="Failed attempts since it was last retried by hand."
    )
    reason = models.TextField(**EMPTY, help_text="Why the last attempt failed.")
    finished_at = models.DateTimeField(null=True, blank=True)

    objects = WriteDBManager.from_queryset(DeliveryQuerySet)()

    class Meta:
        base_manager_name = "objects"
        ordering = ["-pk"]
        verbose_name_plural = "deliveries"
        default_permissions = ("view",)
        permissions = [
            ("retry_delivery", "Can retry deliveries"),
            ("discard_delivery", "Can discard deliveries"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["webhook", "lane"],
                condition=models.Q(state__in=HEAD_STATES, in_lane=True),
                name="webhooks_delivery_one_head",
            ),
        ]
        indexes = [
            models.Index(fields=["webhook", "state", "finished_at"], name="webhooks_delivery_of_webhook"),
            models.Index(
                fields=["webhook", "next_attempt_at"],
                condition=models.Q(state=State.PENDING),
                name="webhooks_delivery_due",
            ),
            models.Index(
                fields=["webhook", "lane", "event"],
                condition=models.Q(state=State.WAITING),
                name="webhooks_delivery_waiting",
            ),
            models.Index(
                fields=["lease_until"], condition=models.Q(state=State.SENDING), name="webhooks_delivery_leased"
            ),
            models.Index(
                fields=["webhook", "lost_leases", "next_attempt_at"],
                condition=models.Q(state=State.PENDING, lost_leases__gt=0),
                name="webhooks_delivery_suspect",
            ),
            models.Index(
                fields=["head_since"],
                condition=models.Q(state=State.PENDING, in_lane=True, failures__gt=0),
                name="webhooks_delivery_holding",
            ),
            models.Index(
                fields=["state", "finished_at"],
                condition=models.Q(state__in=ENDED_STATES),
                name="webhooks_delivery_ended",
            ),
        ]

    def __str__(self) -> str:
        return str(self.pk)


class Attempt(models.Model):
    """One HTTP request of a Delivery, and the response."""

    delivery = models.ForeignKey(Delivery, on_delete=models.CASCADE, related_name="attempts")
    number = models.PositiveIntegerField()
    started_at = models.DateTimeField()
    duration_ms = models.PositiveIntegerField(help_text="Milliseconds.")
    url = models.CharField(max_length=URL_LENGTH)
    succeeded = models.BooleanField()
    reason = models.TextField(**EMPTY, help_text="Why it failed.")
    status = models.PositiveSmallIntegerField(
        null=True, blank=True, help_text="The HTTP status, if there was a response."
    )
    response_headers = models.JSONField(default=dict, db_default={}, blank=True)
    response_body = models.TextField(**EMPTY, help_text="The beginning of the body.")
    worker = models.CharField(max_length=100, **EMPTY)

    objects = WriteDBManager()

    class Meta:
        base_manager_name = "objects"
        default_permissions = ()
        ordering = ["pk"]

    def __str__(self) -> str:
        return f"attempt {self.number}"


class Sweep(models.Model):
    """The time of the last sweep. One row: workers use it to agree on the next sweep."""

    swept_at = models.DateTimeField()

    objects = WriteDBManager()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"swept at {self.swept_at}"

    @classmethod
    def begin(cls, interval: float) -> bool:
        """Whether the caller should sweep now, because the last sweep is at least ``interval`` seconds old.

        A time further ahead than the interval is ignored: the clock was set back since.
        """
        is_old, is_ahead = Q(swept_at__lt=DatabaseNow(-interval)), Q(swept_at__gt=DatabaseNow(interval))
        with transaction.atomic(cls.objects.db):
            async_commit(cls.objects.db)
            if cls.objects.filter(is_old | is_ahead, pk=1).update(swept_at=DatabaseNow()):
                return True
        return cls.objects.get_or_create(pk=1, defaults={"swept_at": DatabaseNow()})[1]
