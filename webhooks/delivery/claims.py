"""Claim due deliveries for one worker process, as many as it has capacity for, and renew their leases."""

from __future__ import annotations

import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from webhooks import payloads
from webhooks.conf import conf
from webhooks.db import atomically, elapsed
from webhooks.delivery import health
from webhooks.delivery.sender import SenderPool
from webhooks.models import Delivery, Webhook
from webhooks.models.claims import Claim, ClaimedRow, DueWebhook, Suspicion, due_webhooks
from webhooks.models.claims import claim as claim_rows
from webhooks.models.event import EventRow
from webhooks.payloads import Bodies

# Suspects that lost one lease: a worker holds this many at once, shared by their webhooks.
FEW_SUSPECTS = 10

# A suspect that lost this many leases goes alone.
ALONE_FROM = 2


@dataclass(frozen=True, slots=True, eq=False)
class Claimed:
    """A delivery that this worker holds, under the token of its claim. Two claims of one delivery are not equal."""

    id: uuid.UUID
    token: uuid.UUID
    webhook: Webhook
    event: Bodies
    attempt_count: int
    failures: int
    lost_leases: int = 0


def load(rows: Sequence[ClaimedRow], token: uuid.UUID) -> list[Claimed]:
    """Load the events and the webhooks of claimed rows. Without the rows that were deleted a moment ago."""
    events = {event.pk: event for event in EventRow.load(Delivery.objects.db, {row.event_id for row in rows})}
    webhooks = Webhook.objects.in_bulk({row.webhook_id for row in rows})
    bodies: dict[tuple[int, str], Bodies] = {}  # shared by all webhooks that get the same
    found = []
    for row in rows:
        event, webhook = events.get(row.event_id), webhooks.get(row.webhook_id)
        if event is None or webhook is None:
            continue
        serializer = payloads.serializer_for(event, row.webhook_id) if event.serializers else ""
        body = bodies.get((event.pk, serializer))
        if body is None:
            body = bodies[event.pk, serializer] = Bodies(payloads.as_serialized_by(event, serializer))
        found.append(Claimed(row.id, token, webhook, body, row.attempt_count, row.failures, row.lost_leases))
    return found


class SoloTurn:
    """Whether the worker holds one suspect and nothing else. Afterwards the others get as much time as it took. Pure.

    A lease that ends without a record may be the fault of its delivery, or of an operator who killed the worker. So
    the first lost lease costs little: a worker holds a few such suspects at once. After the second one a delivery goes
    alone. If the worker ends again, the delivery is to blame, and took no others with it.
    """

    def __init__(self) -> None:
        self.is_on = False
        self._is_claimed = False
        self._began = self._next = 0.0

    def update(self, now: float, is_due: bool, are_others_due: bool, is_idle: bool) -> None:
        """Begin or end a turn. ``is_due``: a suspect waits for its turn; ``is_idle``: the worker holds nothing."""
        if not self.is_on:
            self.is_on = is_due and (now >= self._next or not are_others_due)
            self._began, self._is_claimed = now, False
        elif self._is_claimed and is_idle:
            self.is_on, self._next = False, now + (now - self._began)
        elif not self._is_claimed and not is_due:  # another worker has it
            self.is_on = False

    def claimed(self) -> None:
        self._is_claimed = True


class WorkerClaims:
    """The deliveries that one worker process holds. It queues them in its sender pool. Not thread-safe."""

    def __init__(self, pool: SenderPool[Claimed]) -> None:
        self._pool = pool
        self.held: dict[uuid.UUID, Claimed] = {}
        self._solo = SoloTurn()
        self._renewed = -conf.lease  # the first renewal is due at once

    def holds(self, claimed: Claimed) -> bool:
        """Whether this claim counts. If its lease ended, this worker may hold the delivery under a later claim."""
        return self.held.get(claimed.id) is claimed

    def forget(self, claims: Iterable[Claimed]) -> None:
        for claimed in claims:
            if self.holds(claimed):
                del self.held[claimed.id]

    def claim_due(self, only_free: bool = False) -> int:
        """Claim due deliveries; with ``only_free`` only of webhooks that have none here. Returns how many."""
        due = due_webhooks(Delivery.objects.db)
        alone = [] if only_free else [webhook for webhook in due if webhook.lost_leases >= ALONE_FROM]
        others = any(webhook.has_clean or webhook not in alone for webhook in due)
        self._solo.update(time.monotonic(), bool(alone), others, is_idle=not self.held)
        if self._solo.is_on:
            return 0 if self.held else self._claim_alone(alone)
        busy = {claimed.webhook.pk for claimed in self.held.values()} if only_free else set()
        free = [webhook for webhook in due if webhook.id not in busy]
        share = _share(len(due))
        clean = {webhook: self._pool.capacity(webhook.id, share) for webhook in free if webhook.has_clean}
        return self._claim(clean, Suspicion.NONE) + self._claim(self._suspect_capacity(free), Suspicion.SOME)

    def claim_for(self, counts: Mapping[int, int]) -> Claim | None:
        """The claim to put on new heads of lanes, given how many each webhook gets. None: there is no capacity."""
        share = _share(len(counts))
        fitting = frozenset(pk for pk, count in counts.items() if count <= self._pool.capacity(pk, share))
        return None if self._solo.is_on or not fitting else Claim(uuid.uuid4(), conf.lease, fitting)

    def claim_for_promoted(self) -> Claim | None:
        """The claim to put on what waits behind deliveries that have ended."""
        return None if self._solo.is_on else Claim(uuid.uuid4(), conf.lease)

    def add(self, rows: Sequence[ClaimedRow], claim: Claim) -> int:
        """Hold rows that were just claimed, and queue them to be sent. If loading fails, their leases end."""
        for claimed in load(rows, claim.token) if rows else ():
            self.held[claimed.id] = claimed
            self._pool.add(claimed.webhook.pk, claimed)
        return len(rows)

    def renew(self) -> None:
        """Renew the leases well before they end. Drop lost claims: the process may have been stopped for a while."""
        now = elapsed()
        if now - self._renewed < conf.lease / 3:
            return
        lost: set[uuid.UUID] = set()
        for token, ids in _by_token(self.held.values()).items():
            held = Delivery.objects.filter(pk__in=ids).held(token)
            if held.renew(conf.lease) < len(ids):
                lost |= set(ids) - set(held.values_list("pk", flat=True))
        self.forget(self._pool.remove(lambda claimed: claimed.id in lost))
        self._renewed = now
        self._pool.send_until = now + conf.lease

    def release(self, claims: Collection[Claimed]) -> None:
        """Hand claims back; no attempt is counted. If the database is away, their leases end."""
        if not (tokens := _by_token(claims)):
            return

        def release() -> None:
            for token, ids in tokens.items():
                Delivery.objects.filter(pk__in=ids).held(token).release()

        try:
            atomically(release, Delivery.objects.db)
        finally:
            self.forget(claims)

    def release_waiting(self, is_unwanted: Callable[[Claimed], bool] = lambda claimed: True) -> None:
        """Hand back what waits to be sent."""
        self.release(self._pool.remove(is_unwanted))

    def _suspect_capacity(self, due: list[DueWebhook]) -> dict[DueWebhook, int]:
        suspected = [webhook for webhook in due if webhook.lost_leases]
        held = Counter(claimed.webhook.pk for claimed in self.held.values() if claimed.lost_leases)
        share = max(1, FEW_SUSPECTS // max(1, len(suspected)))
        # A probe that goes alone begins with its solo turn.
        return {
            webhook: share - held[webhook.id]
            for webhook in suspected
            if not (webhook.is_probe and webhook.lost_leases >= ALONE_FROM)
        }

    def _claim_alone(self, due: list[DueWebhook]) -> int:
        for webhook in due:
            if self._claim({webhook: 1}, Suspicion.STRONG):
                self._solo.claimed()
                return 1
        return 0

    def _claim(self, capacity: Mapping[DueWebhook, int], suspicion: Suspicion) -> int:
        """Claim up to ``capacity`` deliveries of each webhook, and one of a paused webhook, as its probe."""
        probes = {webhook.id: 1 for webhook in capacity if webhook.is_probe and health.begin_probe(webhook.id)}
        normal = {webhook.id: count for webhook, count in capacity.items() if not webhook.is_probe and count > 0}
        if not (probes or normal):
            return 0
        claim = Claim(uuid.uuid4(), conf.lease)
        rows = claim_rows(Delivery.objects.db, normal | probes, claim, suspicion)
        health.cancel_probes(probes.keys() - {row.webhook_id for row in rows})
        return self.add(rows, claim)


def _share(webhooks: int) -> int:
    """How many deliveries of each webhook to claim at once."""
    return max(1, conf.batch // max(1, webhooks))


def _by_token(claims: Iterable[Claimed]) -> dict[uuid.UUID, list[uuid.UUID]]:
    grouped = defaultdict(list)
    for claimed in claims:
        grouped[claimed.token].append(claimed.id)
    return grouped
