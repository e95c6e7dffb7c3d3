"""The states of a Delivery and every change of them, as querysets that read as sentences.

waiting -> pending        its turn in the lane has come (``promote``)
pending -> sending        a worker claims it (``claim``)
sending -> succeeded      the receiver took it (``succeed``)
sending -> pending        it is to be tried again (``postpone``), or its claim was handed back or ran out (``release``)
sending -> failed         it is given up (``give_up``)
failed, discarded -> waiting, pending   an admin retries it (``retry``)
waiting, pending, failed -> discarded   an admin discards it (``discard``)
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db import connections, models
from django.db.models import Case, Exists, F, OuterRef, Q, Subquery, Value, When

from webhooks.clock import DatabaseNow
from webhooks.transactions import atomically

if TYPE_CHECKING:
    from webhooks.models import Delivery, Event, Webhook


class State(models.TextChoices):
    WAITING = "waiting", "waiting"
    PENDING = "pending", "pending"
    SENDING = "sending", "sending"
    SUCCEEDED = "succeeded", "succeeded"
    FAILED = "failed", "failed"
    DISCARDED = "discarded", "discarded"


# A lane's head is in one of these, and there is at most one head.
HEAD_STATES = (State.PENDING, State.SENDING)
OPEN_STATES = (State.WAITING, *HEAD_STATES)
ENDED_STATES = (State.SUCCEEDED, State.FAILED, State.DISCARDED)


@dataclass(frozen=True)
class Claim:
    """What a worker writes on deliveries to take them: its token, and for how many seconds."""

    token: uuid.UUID
    lease: float

    def fields(self) -> dict[str, Any]:
        return {"state": State.SENDING, "claim": self.token, "lease_until": DatabaseNow(self.lease)}


class WebhookQuerySet(models.QuerySet["Webhook"]):
    def enabled(self) -> WebhookQuerySet:
        return self.filter(enabled=True)

    def with_due_deliveries(self) -> WebhookQuerySet:
        """Those that a worker may send to now and that have something to send."""
        deliveries = self.model._meta.get_field("deliveries").related_model.objects
        return self.enabled().filter(Exists(deliveries.due().filter(webhook=OuterRef("pk"))))


class EventQuerySet(models.QuerySet["Event"]):
    def undispatched(self) -> EventQuerySet:
        return self.filter(dispatched_at=None, error="")

    def failed(self) -> EventQuerySet:
        """Those whose payload could not be made."""
        return self.exclude(error="")

    def overtaking(self, ids: Sequence[int]) -> EventQuerySet:
        """Those of ``ids`` for which an earlier event of the same object, not among them, is not dispatched yet."""
        same_object = self.undispatched().filter(
            object_type=OuterRef("object_type"), object_id=OuterRef("object_id"), pk__lt=OuterRef("pk")
        )
        return self.filter(Exists(same_object.exclude(pk__in=ids)), pk__in=ids)


class DeliveryQuerySet(models.QuerySet["Delivery"]):
    def due(self) -> DeliveryQuerySet:
        return self.filter(state=State.PENDING, next_attempt_at__lte=DatabaseNow())

    def ended(self) -> DeliveryQuerySet:
        return self.filter(state__in=ENDED_STATES)

    def failed(self) -> DeliveryQuerySet:
        return self.filter(state=State.FAILED)

    def held(self, token: uuid.UUID) -> DeliveryQuerySet:
        """Those still claimed under this token: what a worker may record or hand back."""
        return self.filter(state=State.SENDING, claim=token)

    def abandoned(self) -> DeliveryQuerySet:
        """Those whose claim ran out: their worker died or stalled."""
        return self.filter(state=State.SENDING, lease_until__lt=DatabaseNow())

    def overstaying(self, seconds: float) -> DeliveryQuerySet:
        """Failing heads that have kept their lane for longer than ``seconds``."""
        return self.filter(
            state=State.PENDING, in_lane=True, failures__gt=0, head_since__lt=DatabaseNow(-seconds)
        )

    def stranded(self) -> DeliveryQuerySet:
        """Waiting ones in lanes that have no head."""
        return self.filter(~Exists(self._heads_beside()), state=State.WAITING)

    def _heads_beside(self) -> models.QuerySet[Delivery]:
        return self.model._base_manager.filter(
            webhook=OuterRef("webhook"), lane=OuterRef("lane"), state__in=HEAD_STATES, in_lane=True
        )

    def claim(self, room: Mapping[int, int], claim: Claim) -> int:
        """Take due deliveries: up to ``room[webhook id]`` of each webhook. Rows that another worker is claiming
        are passed over. Returns how many were taken; ``held`` finds them."""

        def take() -> int:
            return self.filter(pk__in=self._claimable(room)).update(**claim.fields())

        return atomically(take, self.db)

    def _claimable(self, room: Mapping[int, int]) -> list[uuid.UUID]:
        if connections[self.db].vendor == "postgresql":
            return self._claimable_at_once(room)
        found: list[uuid.UUID] = []
        for webhook, most in room.items():
            of_webhook = self.due().filter(webhook=webhook).order_by("next_attempt_at")
            found += of_webhook.values_list("pk", flat=True)[:most]
        return found

    def _claimable_at_once(self, room: Mapping[int, int]) -> list[uuid.UUID]:
        # One index range for each webhook, so what is due for one webhook never costs another one anything.
        with connections[self.db].cursor() as cursor:
            cursor.execute(
                f"""
                SELECT due.id FROM unnest(%s::bigint[], %s::int[]) AS turn (webhook_id, most)
                CROSS JOIN LATERAL (
                    SELECT id FROM {self.model._meta.db_table}
                    WHERE webhook_id = turn.webhook_id AND state = 'pending'
                      AND next_attempt_at <= STATEMENT_TIMESTAMP()
                    ORDER BY next_attempt_at LIMIT turn.most FOR UPDATE SKIP LOCKED
                ) AS due
                """,
                [list(room), list(room.values())],
            )
            return [row[0] for row in cursor.fetchall()]

    def renew(self, lease: float) -> int:
        return self.update(lease_until=DatabaseNow(lease))

    def release(self) -> int:
        """Hand claimed ones back; the attempt, if there was one, does not count."""
        return self.filter(state=State.SENDING).update(
            state=State.PENDING, claim=None, lease_until=None, next_attempt_at=DatabaseNow()
        )

    def succeed(self) -> int:
        return self.filter(state=State.SENDING).update(
            state=State.SUCCEEDED,
            finished_at=DatabaseNow(),
            claim=None,
            lease_until=None,
            attempt_count=F("attempt_count") + 1,
            reason="",
        )

    def postpone(self, waits: Mapping[uuid.UUID, float], reasons: Mapping[uuid.UUID, str]) -> int:
        """Try each again in its number of seconds."""
        return self.filter(pk__in=list(waits), state=State.SENDING).update(
            state=State.PENDING,
            next_attempt_at=_by_id({pk: DatabaseNow(wait) for pk, wait in waits.items()}),
            failures=F("failures") + 1,
            **_attempted(reasons),
        )

    def give_up(self, reasons: Mapping[uuid.UUID, str]) -> int:
        return self.filter(pk__in=list(reasons), state=State.SENDING).update(
            state=State.FAILED, finished_at=DatabaseNow(), failures=F("failures") + 1, **_attempted(reasons)
        )

    def leave_lane(self) -> int:
        """Let those behind pass; the delivery itself goes on beside the lane."""
        return self.update(in_lane=False)

    def lock_heads(self, deliveries: Iterable[uuid.UUID]) -> None:
        """Lock the heads of these deliveries' lanes, so that whoever ends one sees what was just added behind it."""
        mine = self.model._base_manager.filter(
            pk__in=list(deliveries), webhook=OuterRef("webhook"), lane=OuterRef("lane")
        )
        heads = self.filter(Exists(mine), state__in=HEAD_STATES, in_lane=True)
        list(heads.select_for_update(no_key=True).order_by("pk").values_list("pk", flat=True))

    def promote(self, beside: Sequence[uuid.UUID], claim: Claim | None = None) -> int:
        """In the lanes of these deliveries, make the first waiting one the head where there is none.

        With a ``claim`` the new heads of webhooks that are enabled are taken at once. Returns how many became
        heads. Raises IntegrityError beside another promotion in the same lane: call it ``atomically``.
        """
        lane = self.model._base_manager.filter(
            webhook=OuterRef("webhook"), lane=OuterRef("lane"), state=State.WAITING
        )
        first = Subquery(lane.order_by("event_id").values("pk")[:1])
        successors = self.model._base_manager.filter(pk__in=beside).annotate(first=first).values("first")
        headless = self.filter(~Exists(self._heads_beside()), pk__in=successors, state=State.WAITING)
        became_head = {"next_attempt_at": DatabaseNow(), "head_since": DatabaseNow()}
        if claim is None:
            return headless.update(state=State.PENDING, **became_head)
        webhooks = self.model._meta.get_field("webhook").related_model.objects
        enabled = Exists(webhooks.enabled().filter(pk=OuterRef("webhook")))
        taken = headless.filter(enabled).update(**became_head, **claim.fields())
        return taken + headless.filter(~enabled).update(state=State.PENDING, **became_head)

    def retry(self) -> int:
        """Put failed or discarded ones back into their lanes, with the whole schedule before them."""
        return atomically(self._retry, self.db)

    def _retry(self) -> int:
        chosen = self.filter(state__in=(State.FAILED, State.DISCARDED)).select_for_update(of=("self",))
        ordered = dict(chosen.values_list("pk", "webhook__ordered"))
        in_lane = [pk for pk, is_ordered in ordered.items() if is_ordered]
        beside = [pk for pk, is_ordered in ordered.items() if not is_ordered]
        everything = self.model.objects.using(self.db)
        again: dict[str, Any] = {"failures": 0, "finished_at": None}
        everything.filter(pk__in=in_lane).update(state=State.WAITING, in_lane=True, **again)
        everything.filter(pk__in=beside).update(
            state=State.PENDING, in_lane=False, next_attempt_at=DatabaseNow(), **again
        )
        everything.promote(in_lane)
        return len(ordered)

    def discard(self) -> int:
        """End those that are not under way, without sending them; whatever waits behind them moves up."""
        return atomically(self._discard, self.db)

    def _discard(self) -> int:
        chosen = self.filter(state__in=(State.WAITING, State.PENDING, State.FAILED))
        ids = list(chosen.select_for_update(of=("self",)).values_list("pk", flat=True))
        everything = self.model.objects.using(self.db)
        everything.filter(pk__in=ids).update(state=State.DISCARDED, finished_at=DatabaseNow())
        everything.promote(ids)
        return len(ids)


def _attempted(reasons: Mapping[uuid.UUID, str]) -> dict[str, Any]:
    return {
        "claim": None,
        "lease_until": None,
        "attempt_count": F("attempt_count") + 1,
        "reason": _by_id({pk: Value(reason) for pk, reason in reasons.items()}),
    }


def _by_id(values: Mapping[uuid.UUID, Any]) -> Case:
    return Case(*(When(pk=pk, then=value) for pk, value in values.items()))
