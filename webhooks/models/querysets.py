"""The states of a Delivery and every change of them, as querysets that read as sentences.

(new) -> waiting, pending   its Event is dispatched (``sql.dispatching``)
waiting -> pending, sending its turn in the lane has come (``promote``), where a worker may take it at once
pending -> sending        a worker claims it (``claim``)
sending -> succeeded      the receiver took it (``sql.records``)
sending -> pending        it is to be tried again (``sql.records``)
sending -> failed         it is given up (``sql.records``)
sending -> pending        its claim was handed back (``release``) or ran out (``lose``)
failed, discarded -> waiting, pending   an admin retries it (``retry``)
pending -> pending        an admin retries it before its next attempt is due (``hasten``)
waiting, pending, failed -> discarded   an admin discards it (``discard``)
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import models, router
from django.db.models import Case, Exists, F, OuterRef, Value, When
from django.db.models.functions import Cast, Concat, Substr

from webhooks.db import DatabaseNow, atomically
from webhooks.models import claims
from webhooks.models.claims import Claim, Suspicion, Taken

if TYPE_CHECKING:
    from webhooks.models import Delivery, Event, Webhook  # noqa: F401 - named in the classes' bases


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

BETWEEN_ATTEMPTS = models.Q(state=State.PENDING, next_attempt_at__gt=DatabaseNow())


# What of a webhook is encrypted.
SECRETS = ("secret", "previous_secret", "secret_headers")

# What of an Event may be long, and lists do not show.
HEAVY = ("data", "variants", "snapshots", "changed", "request", "webhook_ids")


M = TypeVar("M", bound=models.Model)


class AtHome(models.Manager[M]):
    """Reads where it writes: a replica may be behind, and cannot lock."""

    @property
    def db(self) -> str:
        return self._db or router.db_for_write(self.model)

    def get_queryset(self) -> models.QuerySet[M]:
        return super().get_queryset().using(self.db)


class WebhookQuerySet(models.QuerySet["Webhook"]):
    def enabled(self) -> WebhookQuerySet:
        return self.filter(enabled=True)

    def paused(self) -> WebhookQuerySet:
        return self.enabled().exclude(probe_at=None)

    def resume(self) -> int:
        """Send to paused ones again at once, as though they had not failed."""
        return atomically(lambda: self.paused().recover(), self.db)

    def probe(self) -> int:
        """Try paused ones at once."""
        return atomically(lambda: self.paused().update(probe_at=DatabaseNow()), self.db)

    def recover(self, **also: Any) -> int:
        """End a pause, if there is one, and forget the failures; sets ``also``, too."""
        resumed_at = Case(When(probe_at=None, then=F("resumed_at")), default=DatabaseNow())
        fine = {"probe_at": None, "probes": 0, "failures_in_a_row": 0, "failing_since": None}
        return self.update(resumed_at=resumed_at, **fine, **also)

    def deleted(self) -> WebhookQuerySet:
        """Those that are out of use, and go when the last of their deliveries has gone."""
        return self.exclude(deleted_at=None)

    def take_out_of_use(self) -> int:
        """Nobody sees them any more, nothing is sent, and their names are free. The new ones nobody can have taken."""
        end = Value(f" {secrets.token_hex(4)})")
        name = Concat(Substr("name", 1, 100), Value(" (being deleted, "), Cast("pk", models.CharField()), end)
        return self.update(enabled=False, deleted_at=DatabaseNow(), name=name)

    take_out_of_use.queryset_only = True  # type: ignore[attr-defined]  # as Django's delete(): a manager has them all

    def forget_previous_secrets(self) -> int:
        """Delete the secrets that were replaced and sign no longer."""
        over = self.filter(previous_secret_until__lte=DatabaseNow())
        return over.update(previous_secret="", previous_secret_until=None)  # nosec B106 # none


_Webhooks = AtHome.from_queryset(WebhookQuerySet)


class KeptWebhooks(_Webhooks):
    """All but those that are being deleted."""

    def get_queryset(self) -> Any:
        return super().get_queryset().filter(deleted_at=None)


class EventQuerySet(models.QuerySet["Event"]):
    def undispatched(self) -> EventQuerySet:
        return self.filter(dispatched_at=None, error="")

    def failed(self) -> EventQuerySet:
        """Those of which nothing was sent, for whichever reason (``Event.failure``), and that nobody has replayed."""
        return self.filter(dispatched_at=None).exclude(error="")

    def replayed(self) -> EventQuerySet:
        """Those that failed, and that somebody has replayed."""
        return self.exclude(dispatched_at=None).exclude(error="")

    def wanted_by(self, webhook_id: int) -> EventQuerySet:
        """Those that this webhook wanted when they happened."""
        # As text: not every database can look into a list.
        ids = Cast("webhook_ids", models.TextField())
        return self.alias(ids=ids).filter(ids__regex=rf"[^0-9]{webhook_id}[^0-9]")

    def light(self) -> EventQuerySet:
        """For lists: without what may be long, but with whether there are data, which tells the kinds of failure."""
        has_data = models.Case(models.When(data="", then=False), default=True, output_field=models.BooleanField())
        return self.annotate(has_data=has_data).defer(*HEAVY)


class DeliveryQuerySet(models.QuerySet["Delivery"]):
    def in_full(self) -> DeliveryQuerySet:
        """With the Event and the webhook of each, without the secrets, which are nobody's business."""
        return self.select_related("event", "webhook").defer(*(f"webhook__{name}" for name in SECRETS))

    def light(self) -> DeliveryQuerySet:
        """For lists: the same without what may be long of the Events."""
        return self.in_full().defer(*(f"event__{name}" for name in (*HEAVY, "error")))

    def ended(self) -> DeliveryQuerySet:
        return self.filter(state__in=ENDED_STATES)

    def of_kept_webhooks(self) -> DeliveryQuerySet:
        """Without those of webhooks that are being deleted: nothing of these is sent any more."""
        return self.filter(webhook__deleted_at=None)

    def failed(self) -> DeliveryQuerySet:
        """Those that were given up, and that an admin may want to send again."""
        return self.of_kept_webhooks().filter(state=State.FAILED)

    def between_attempts(self) -> DeliveryQuerySet:
        return self.filter(BETWEEN_ATTEMPTS)

    def retriable(self) -> DeliveryQuerySet:
        """Those that an admin can send again: given up, discarded, or not due yet."""
        is_over = models.Q(state__in=(State.FAILED, State.DISCARDED))
        return self.of_kept_webhooks().filter(is_over | BETWEEN_ATTEMPTS)

    def discardable(self) -> DeliveryQuerySet:
        return self.filter(state__in=(State.WAITING, State.PENDING, State.FAILED))

    def held(self, token: uuid.UUID) -> DeliveryQuerySet:
        """Those still claimed under this token: what a worker may record or hand back."""
        return self.filter(state=State.SENDING, claim=token)

    def abandoned(self) -> DeliveryQuerySet:
        """Those whose claim ran out: their worker died or stalled."""
        return self.filter(state=State.SENDING, lease_until__lt=DatabaseNow())

    def overstaying(self, seconds: float) -> DeliveryQuerySet:
        """Failing heads that have kept their lane for longer than ``seconds``, of webhooks that have not been stopped
        for so long: where nothing is sent, it is not the head that keeps the others waiting."""
        return self.exclude(webhook__resumed_at__gt=DatabaseNow(-seconds)).filter(
            state=State.PENDING,
            in_lane=True,
            failures__gt=0,
            head_since__lt=DatabaseNow(-seconds),
            webhook__enabled=True,
            webhook__probe_at=None,
        )

    def stranded(self) -> DeliveryQuerySet:
        """Waiting ones in lanes that have no head."""
        return self.filter(~Exists(self._heads_beside()), state=State.WAITING)

    def _heads_beside(self) -> models.QuerySet[Delivery]:
        return self.model._base_manager.filter(
            webhook=OuterRef("webhook"), lane=OuterRef("lane"), state__in=HEAD_STATES, in_lane=True
        )

    def claim(self, room: Mapping[int, int], claim: Claim, suspicion: Suspicion = Suspicion.NONE) -> list[Taken]:
        """Take due deliveries, up to ``room[webhook id]`` of each webhook."""
        return atomically(lambda: claims.claim(self.db, room, claim, suspicion), self.db)

    def renew(self, lease: float) -> int:
        return self.update(lease_until=DatabaseNow(lease))

    def release(self, **also: Any) -> int:
        """Hand claimed ones back; the attempt, if there was one, does not count. They stay due since when they were."""
        return self.filter(state=State.SENDING).update(state=State.PENDING, claim=None, lease_until=None, **also)

    def lose(self) -> int:
        """Hand back those whose lease ended without a record."""
        return self.release(lost_leases=F("lost_leases") + 1)

    def leave_lane(self) -> int:
        """Let those behind pass; the delivery itself goes on beside the lane."""
        return self.update(in_lane=False)

    def lock_heads(self, deliveries: Collection[uuid.UUID]) -> None:
        """Lock the heads of these deliveries' lanes, so that whoever ends one sees what just changed behind it."""
        claims.lock_heads(self.db, deliveries)

    def promote(self, beside: Collection[uuid.UUID]) -> None:
        """In the lanes of these deliveries, make the first waiting one the head where there is none.

        Raises IntegrityError beside another promotion in the same lane: call it ``atomically``.
        """
        claims.promote(self.db, beside)

    def retry(self) -> int:
        """Put failed or discarded ones back into their lanes, with the whole schedule before them."""
        return atomically(self._retry, self.db)

    def _retry(self) -> int:
        chosen = self.filter(state__in=(State.FAILED, State.DISCARDED)).select_for_update(of=("self",))
        ordered = dict(chosen.values_list("pk", "webhook__ordered"))
        in_lane = [pk for pk, is_ordered in ordered.items() if is_ordered]
        beside = [pk for pk, is_ordered in ordered.items() if not is_ordered]
        everything = self.model.objects.using(self.db)
        again: dict[str, Any] = {"failures": 0, "lost_leases": 0, "finished_at": None}
        everything.filter(pk__in=in_lane).update(state=State.WAITING, in_lane=True, **again)
        everything.filter(pk__in=beside).update(
            state=State.PENDING, in_lane=False, next_attempt_at=DatabaseNow(), **again
        )
        everything.lock_heads(in_lane)
        everything.promote(in_lane)
        return len(ordered)

    def hasten(self) -> int:
        """Let those that wait for their next attempt have it now; the schedule goes on from there."""
        return self.between_attempts().update(next_attempt_at=DatabaseNow())

    def discard(self) -> int:
        """End those that are not under way, without sending them; whatever waits behind them moves up."""
        return atomically(self._discard, self.db)

    discard.queryset_only = True  # type: ignore[attr-defined]  # as Django's delete(): a manager has them all

    def _discard(self) -> int:
        everything = self.model.objects.using(self.db)
        # Whoever just ends a head would make one of these the next, and neither of the two what waits behind it.
        everything.lock_heads(list(self.discardable().values_list("pk", flat=True)))
        chosen = self.discardable().select_for_update(of=("self",))
        ids = list(chosen.values_list("pk", flat=True))
        everything.filter(pk__in=ids).update(state=State.DISCARDED, finished_at=DatabaseNow())
        everything.promote(ids)
        return len(ids)
