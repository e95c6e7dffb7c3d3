"""Delivers for one worker process: claims, collects, records and renews, turn by turn.

The thread that calls the courier is the only one to touch the database, in short transactions, and never
sends. The senders' threads only send.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from django.db import DataError, Error

from webhooks.conf import conf
from webhooks.db import atomically, elapsed
from webhooks.delivery import health
from webhooks.delivery.outcomes import Claimed, Recorded, load, record, request_for
from webhooks.delivery.sender import MANY, Senders
from webhooks.delivery.suspects import ALONE_FROM, FEW, Solitude
from webhooks.logs import get_logger
from webhooks.models import Delivery
from webhooks.models.claims import Claim, ClaimedRow, DueWebhook, Suspicion, due_webhooks
from webhooks.models.claims import claim as claim_due
from webhooks.network.outcome import Outcome
from webhooks.payloads.templates import QUICK, SLOW, Renderer

logger = get_logger(__name__)

# Outcomes are recorded together: at the latest after this many seconds, or when many have come.
RECORD_EVERY = 0.02

# How many requests may be made of templates at once. More would only wait for the process that renders, and keep
# threads from webhooks without templates.
RENDERED_AT_ONCE = {QUICK: 2, SLOW: 1}


class Courier:
    """Delivers for one worker process. Not thread-safe."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._renderer = Renderer()
        request_of = partial(request_for, renderer=self._renderer)
        self._senders: Senders[Claimed] = Senders(conf.senders, request_of, self._group_of, RENDERED_AT_ONCE)
        self._held: dict[uuid.UUID, Claimed] = {}
        self._outcomes: list[tuple[Claimed, Outcome]] = []
        self._solitude = Solitude()
        self._renewed = -conf.lease  # renewing is due at once
        self._recorded = time.monotonic()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is claimed, under way, or waiting to be recorded."""
        return not self._held

    def held(self) -> set[Claimed]:
        """The deliveries that this worker has claimed and not recorded yet; one that is claimed again is another."""
        return set(self._held.values())

    def turn(self, wait: float, claim: bool = True, only_free: bool = False) -> bool:
        """Claim what there is room for, wait up to ``wait`` seconds for what the senders bring, and record that.
        ``only_free`` claims for webhooks alone that have nothing under way here.

        Returns whether anything was done. Raises django.db.Error, after which it may be called again.
        """
        self.renew()
        claimed = self.claim(only_free) if claim else 0
        collected = self.collect(wait, take_next=claim and not only_free)
        return bool(claimed or collected)

    def offer(self, coming: Mapping[int, int]) -> Claim:
        """A claim on what is just coming up, so many of each webhook, for those that there is room for."""
        share = _share(len(coming))
        fitting = {
            webhook
            for webhook, count in coming.items()
            if count <= self._senders.room(webhook, share) and not self._solitude.has_begun
        }
        return Claim(uuid.uuid4(), conf.lease, frozenset(fitting))

    def hand_back_waiting(self) -> None:
        """Hand back, uncounted, what no thread has begun to send."""
        self._release(self._senders.remove(lambda claimed: True))

    def close(self, grace: float) -> None:
        """Give what is under way ``grace`` seconds to end, record that, and hand the rest back uncounted.

        Raises django.db.Error when the database is away; what was held comes back when its lease ends.
        """
        try:
            self.hand_back_waiting()
            deadline = time.monotonic() + grace
            while self._senders.is_busy and (left := deadline - time.monotonic()) > 0:
                self.collect(min(left, RECORD_EVERY), take_next=False)
                self.renew()
            self._record()
            self._release(list(self._held.values()))
        finally:
            self._senders.close()
            self._renderer.close()

    def claim(self, only_free: bool = False) -> int:
        """Take what is due and what there is room for. Returns how many."""
        due = due_webhooks(Delivery.objects.db)
        goes_alone = [] if only_free else [webhook for webhook in due if webhook.lost_leases >= ALONE_FROM]
        others = any(webhook.has_clean or webhook not in goes_alone for webhook in due)
        self._solitude.look(time.monotonic(), bool(goes_alone), others, self.is_idle)
        if self._solitude.has_begun:
            return self._claim_alone(goes_alone) if self.is_idle else 0
        busy = {claimed.webhook.pk for claimed in self._held.values()} if only_free else set()
        free = [webhook for webhook in due if webhook.id not in busy]
        share = _share(len(due))
        clean = {webhook: self._senders.room(webhook.id, share) for webhook in free if webhook.has_clean}
        return self._claim(clean, Suspicion.NONE) + self._claim(self._room_for_suspects(free), Suspicion.SOME)

    def _room_for_suspects(self, due: list[DueWebhook]) -> dict[DueWebhook, int]:
        suspected = [webhook for webhook in due if webhook.lost_leases]
        held = Counter(claimed.webhook.pk for claimed in self._held.values() if claimed.lost_leases)
        share = max(1, FEW // max(1, len(suspected)))
        # A probe that goes alone is begun when its turn has come.
        return {
            webhook: share - held[webhook.id]
            for webhook in suspected
            if not (webhook.is_probe and webhook.lost_leases >= ALONE_FROM)
        }

    def _claim_alone(self, due: list[DueWebhook]) -> int:
        for webhook in due:
            if self._claim({webhook: 1}, Suspicion.STRONG):
                self._solitude.took()
                return 1
        return 0

    def _claim(self, most: Mapping[DueWebhook, int], suspicion: Suspicion) -> int:
        """Claim up to ``most`` deliveries of each webhook. A paused webhook gets one, as its probe."""
        probes = {webhook.id: 1 for webhook in most if webhook.is_probe and health.begin_probe(webhook.id)}
        capacity = {webhook.id: count for webhook, count in most.items() if not webhook.is_probe and count > 0} | probes
        if not capacity:
            return 0
        claim = Claim(uuid.uuid4(), conf.lease)
        taken = claim_due(Delivery.objects.db, capacity, claim, suspicion)
        health.take_back_probes(probes.keys() - {one.webhook_id for one in taken})
        return self.take(taken, claim.token)

    def take(self, taken: Sequence[ClaimedRow], token: uuid.UUID) -> int:
        """Line up what was claimed."""
        if taken:
            ids = [one.id for one in taken]
            try:
                claims = load(taken, token)
            except Error:
                Delivery.objects.filter(pk__in=ids).held(token).release()
                raise
            for claimed in claims:
                self._held[claimed.id] = claimed
                self._senders.add(claimed.webhook.pk, claimed)
        return len(taken)

    def collect(self, wait: float, take_next: bool = True) -> int:
        """Wait up to ``wait`` seconds for what is under way, and record it when it is time. Returns how many ended."""
        ended = self._senders.outcomes(min(wait, RECORD_EVERY) if self._senders.is_busy else 0)
        self._outcomes += [(claimed, outcome) for claimed, outcome in ended if outcome]
        if too_late := [claimed for claimed, outcome in ended if not outcome]:
            self._release(too_late)
        is_time = (
            len(self._outcomes) >= MANY or not self._senders.is_busy or time.monotonic() - self._recorded > RECORD_EVERY
        )
        if is_time:
            self._record(take_next)
        return len(ended)

    def _record(self, take_next: bool = False) -> None:
        """Write down what came of the attempts that are still this worker's to record.

        ``take_next`` claims whatever comes up behind them at once: it spares a lane a claim for each delivery.
        """
        # A claim that was taken back may have been followed by another one of this very worker: that counts, not both.
        outcomes = [(claimed, outcome) for claimed, outcome in self._outcomes if self._held.get(claimed.id) is claimed]
        self._outcomes = []
        if not outcomes:
            return
        claim = Claim(uuid.uuid4(), conf.lease) if take_next and not self._solitude.has_begun else None
        try:
            recorded = _recorded(outcomes, self._worker, claim)
        except Exception:
            self._outcomes = outcomes + self._outcomes
            raise
        self._forget(claimed for claimed, _ in outcomes)
        self._recorded = time.monotonic()
        if recorded.stopped:
            self._release([claimed for webhook in recorded.stopped for claimed in self._senders.drop(webhook)])
        if claim:
            self.take(recorded.taken, claim.token)

    def _group_of(self, claimed: Claimed) -> str:
        return self._renderer.pace(claimed.webhook.pk) if claimed.webhook.has_templates else ""

    def _forget(self, claims: Iterable[Claimed]) -> None:
        for claimed in claims:
            if self._held.get(claimed.id) is claimed:
                del self._held[claimed.id]

    def renew(self) -> None:
        """Prolong the leases, well before they end. What was taken away meanwhile is not sent any more: this
        process may have been stopped for longer than a lease."""
        now = elapsed()
        if now - self._renewed < conf.lease / 3:
            return
        lost: set[uuid.UUID] = set()
        for token, ids in _by_token(self._held.values()).items():
            held = Delivery.objects.filter(pk__in=ids).held(token)
            if held.renew(conf.lease) < len(ids):
                lost |= set(ids) - set(held.values_list("pk", flat=True))
        self._forget(self._senders.remove(lambda claimed: claimed.id in lost))
        self._renewed = now
        self._senders.good_until = now + conf.lease

    def _release(self, claims: list[Claimed]) -> None:
        if not claims:
            return  # asks nothing of a database that may be away
        try:
            atomically(lambda: _hand_back(claims), Delivery.objects.db)
        finally:
            self._forget(claims)  # where that failed: a lease that nobody renews ends by itself


def _share(webhooks: int) -> int:
    """How many deliveries of each of so many webhooks to take at once."""
    return max(1, conf.batch // max(1, webhooks))


def _hand_back(claims: list[Claimed]) -> None:
    for token, ids in _by_token(claims).items():
        Delivery.objects.filter(pk__in=ids).held(token).release()


def _recorded(outcomes: list[tuple[Claimed, Outcome]], worker: str, claim: Claim | None) -> Recorded:
    try:
        return atomically(lambda: record(outcomes, worker, claim), Delivery.objects.db)
    except DataError as error:
        # Something in an answer that the database will not take must not keep the delivery from its end.
        logger.exception("An answer could not be stored")
        plain = [
            (claimed, outcome.without_response(f"; its answer could not be stored: {error}"))
            for claimed, outcome in outcomes
        ]
        return atomically(lambda: record(plain, worker, claim), Delivery.objects.db)


def _by_token(claims: Iterable[Claimed]) -> dict[uuid.UUID, list[uuid.UUID]]:
    grouped = defaultdict(list)
    for claimed in claims:
        grouped[claimed.token].append(claimed.id)
    return grouped
