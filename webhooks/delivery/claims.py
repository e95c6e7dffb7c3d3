"""Claim due deliveries for one worker process, as many as it has capacity for, and renew its lease."""

from __future__ import annotations

import random
import uuid
from collections import namedtuple
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from webhooks.delivery import policy
from webhooks.delivery.known_webhooks import may_go_on, webhooks_by_id
from webhooks.delivery.large_events import LargeEvents, sizes_of_large
from webhooks.delivery.scan_floors import ScanFloors
from webhooks.ground.conf import conf
from webhooks.ground.db import DatabaseNow, QueryByKeys, atomically, elapsed
from webhooks.models.delivery import Delivery
from webhooks.models.event import SENT_COLUMNS, Event
from webhooks.models.queue import ClaimedRow, DueWebhook, QueuedDelivery
from webhooks.models.worker import Worker, begin_transaction

if TYPE_CHECKING:
    from webhooks.models.webhook import Webhook

# A worker takes a new token after so many seconds. Rows that a crash of the database has put back under the old one,
# for their records were lost, then lose their lease.
TOKEN_SECONDS = 300

# A worker with new events all the time asks again for due deliveries after so many seconds, if there were none.
ASK_EVERY = 0.25

# A worker that holds deliveries checks after so many seconds whether a user has changed or deleted their webhooks.
CHECK_EDITS_EVERY = 1.0

# How many deliveries that have lost one lease, and two, a worker holds at a time.
SUSPECTS = {1: 10, 2: 1}


@dataclass(frozen=True, slots=True, eq=False)
class ClaimedDelivery:
    """A delivery that this worker has claimed with its token. Two claims of one delivery are not equal."""

    row: ClaimedRow
    token: uuid.UUID
    webhook: Webhook
    bodies: Any
    """What its request is composed of, see ``MakeBodies``. Here only its ``timestamp`` counts, that of the event."""
    message_id: str

    @property
    def id(self) -> uuid.UUID:
        return self.row.id


# Takes an event, and returns what gives its bodies for each webhook, by its id: ``ground.payloads.bodies_by_webhook``.
MakeBodies = Callable[[Any], Callable[[int], Any]]


class Sender(Protocol):
    """What claims need of the part that sends: ``workers.sender`` has the real one."""

    send_until: float
    """Nothing is sent after this time (``elapsed``)."""

    def capacity(self, webhook: int, share: int) -> int:
        """How many more deliveries of a webhook to claim, up to ``share``."""

    def add(self, items: Iterable[tuple[int, ClaimedDelivery]]) -> None:
        """Queue deliveries, each with the id of its webhook."""

    def remove(self, is_unwanted: Callable[[ClaimedDelivery], bool]) -> list[ClaimedDelivery]:
        """Remove the waiting deliveries that are unwanted, and return them."""


class WorkerClaims:
    """The deliveries that one worker process holds. It gives them to its sender. Not thread-safe."""

    def __init__(self, sender: Sender, make_bodies: MakeBodies, avoided: Container[int] = (), name: str = "") -> None:
        """``avoided`` has the ids of webhooks of which it claims nothing."""
        self._sender, self._make_bodies, self._avoided, self._name = sender, make_bodies, avoided, name
        self.claimed: dict[uuid.UUID, ClaimedDelivery] = {}
        self.large = LargeEvents()
        self.has_early = False
        """Whether the last claim has left probes before their time."""
        self.events_at_once = self._most_events = conf.batch
        """How many Events to dispatch at once, so that about a batch of deliveries comes of them. With more, the worker
        could not claim all at once, and a claim later costs another write and reads the Event again."""
        self._token: uuid.UUID | None = None
        self._registered = 0.0
        self._renewed = -conf.lease  # the first renewal is due at once
        self._checked_edits = 0.0
        self._floors = ScanFloors()
        self._nothing_due_until = 0.0

    # The lease

    @contextmanager
    def claiming(self) -> Iterator[uuid.UUID]:
        """The token for new claims. Registers the worker at the first.

        After an error, it is unknown whether the claims were committed. So the next ones get another token, and the
        lease of this one ends after the last delivery that is claimed under it.
        """
        if self._token is None:
            self._token, self._registered = Worker.objects.register(self._name), elapsed()
        with self.in_doubt():
            yield self._token

    @contextmanager
    def in_doubt(self) -> Iterator[None]:
        """After an error in it, the next claims get another token. If the database has crashed, it may have lost the
        last records: these deliveries are claimed again, and no worker knows that it holds them."""
        try:
            yield
        except BaseException:
            self._token = None
            raise

    def renew(self) -> None:
        """Renew the lease well before it ends. Drop lost claims: the process may have been stopped for a while.

        Hand back what waits here for webhooks that a user has paused, disabled, edited or deleted meanwhile.
        """
        now = elapsed()
        if now - self._renewed >= conf.lease / 3:
            self._renew(now)
        if now - self._checked_edits >= CHECK_EDITS_EVERY:
            self._checked_edits = now
            self._hand_back_changed()

    def _renew(self, now: float) -> None:
        if self._token and now - self._registered > TOKEN_SECONDS:
            Worker.objects.filter(token=self._token).update(name="")  # its lease ends, but the worker does not
            self._token = None
        tokens = {delivery.token for delivery in self.claimed.values()} | ({self._token} if self._token else set())
        if lost := tokens - Worker.objects.renew(tokens) if tokens else set():
            self.forget(self._sender.remove(lambda delivery: delivery.token in lost))
            self._token = None if self._token in lost else self._token
        self._renewed = now
        self._sender.send_until = now + conf.lease

    def close(self) -> None:
        """Hand back all deliveries, and end the lease.

        The sweep deletes the row. If a crash of the database has lost records, it also takes their deliveries back.
        """
        self.hand_back(list(self.claimed.values()))
        if self._token:
            Worker.objects.filter(token=self._token).update(lease_until=DatabaseNow())
            self._token = None

    # Claims

    @property
    def expects_nothing(self) -> bool:
        """Whether nothing was due a moment ago, and all that was dispatched since then is claimed."""
        return elapsed() < self._nothing_due_until

    def claim_due(self, only_idle: bool = False, takes_early: bool = False) -> int:
        """Claim due deliveries; with ``only_idle`` only of webhooks that have none here. Returns how many.

        With ``takes_early``, also probes before their time. Dispatch first: a new delivery, such as a test of a user,
        is a better probe. ``has_early`` says whether there are any.

        A lease that ends without a record may be the fault of its delivery, or of an operator who killed the worker.
        So a worker holds few suspects at a time. If the worker ends again, few others lose a second lease.
        """
        due = self._due()
        self.has_early = not takes_early and any(webhook.is_early for webhook in due)
        if self.has_early:
            due = [webhook for webhook in due if not webhook.is_early]
        # A webhook that may claim nothing, such as one that hangs, leaves its share to the others.
        share = self._share(sum(self._capacity(webhook.id, conf.batch) > 0 for webhook in due))
        if only_idle:
            busy = {delivery.webhook.pk for delivery in self.claimed.values()}
            due = [webhook for webhook in due if webhook.id not in busy]
        clean = [webhook for webhook in due if webhook.has[0]]
        count = self._claim({webhook: self._capacity(webhook.id, share) for webhook in clean})
        for lost, most in SUSPECTS.items():
            free = most - sum(delivery.row.lost_leases == lost for delivery in self.claimed.values())
            # The probe of a paused webhook is a suspect only if nothing else is due.
            suspected = [webhook for webhook in due if webhook.has[lost] and not (webhook.is_probe and webhook.has[0])]
            if suspected and free > 0:
                count += self._claim({random.choice(suspected): free}, lost)  # noqa: S311 # nosec B311 # fair turns
        return count

    def claim_one(self) -> int:
        """Claim one due delivery of any webhook. Returns how many."""
        due = self._due()
        due = [webhook for webhook in due if not webhook.is_probe] or due
        if not due:
            return 0
        webhook = random.choice(due)  # noqa: S311 # nosec B311 # fair turns
        return self._claim({webhook: 1}, webhook.has.index(True))

    def _claim(self, capacity: Mapping[DueWebhook, int], lost_leases: int = 0) -> int:
        """Claim up to ``capacity`` deliveries of each webhook, and one of a paused webhook, as its probe."""
        probes = {webhook: 1 for webhook in capacity if webhook.is_probe and policy.begin_probe(webhook.id)}
        normal = {webhook: count for webhook, count in capacity.items() if not webhook.is_probe and count > 0}
        if not (probes or normal):
            return 0
        using = Delivery.objects.db

        def claim(token: uuid.UUID) -> list[ClaimedRow]:
            may_claim = begin_transaction(using, token)
            return QueuedDelivery.objects.claim(normal | probes, token, lost_leases) if may_claim else []

        with self.claiming() as token:
            rows = atomically(lambda: claim(token), using)
            self.add(rows, token)
        policy.cancel_probes({webhook.id for webhook in probes} - {row.webhook_id for row in rows})
        return len(rows)

    def _due(self) -> list[DueWebhook]:
        """The webhooks with due deliveries, unless this worker avoids them."""
        with self._floors.scan() as floors:
            due = QueuedDelivery.objects.due_webhooks(floors, self._floors.note)
        self._nothing_due_until = 0.0 if due else elapsed() + ASK_EVERY
        return [webhook for webhook in due if not self._is_left_out(webhook.id)]

    def capacity(self, webhooks: Iterable[int], among: int, batches: int = 1) -> dict[int, int]:
        """How many more deliveries of each webhook to claim, if ``among`` webhooks have some, and so many ``batches``
        are claimed at once. By the ids of webhooks that this worker does not avoid."""
        share = self._share(among, batches)
        return {pk: self._capacity(pk, share) for pk in webhooks if not self._is_left_out(pk)}

    def _capacity(self, webhook: int, share: int) -> int:
        return self._sender.capacity(webhook, self.large.limit(webhook, share))

    def _is_left_out(self, webhook: int) -> bool:
        """Whether this worker claims nothing of a webhook now."""
        return webhook in self._avoided or self.large.is_full(webhook)

    @staticmethod
    def _share(among: int, batches: int = 1) -> int:
        """How many of some batches to claim for each of so many webhooks."""
        return max(1, batches * conf.batch // max(1, among))

    def note_dispatched(self, events: int, deliveries: int, are_all_claimed: bool) -> None:
        """Expect as many deliveries of each of the next Events. If some are not claimed, they may be due."""
        if not are_all_claimed:
            self._nothing_due_until = 0.0
        self._most_events = min(2 * self._most_events, conf.batch)
        self.events_at_once = min(self._most_events, max(1, conf.batch * events // max(1, deliveries)))

    def note_cancelled(self) -> None:
        """Dispatch fewer Events at once: PostgreSQL stopped a dispatch that took too long."""
        self._most_events = self.events_at_once = max(1, self.events_at_once // 2)

    # What it holds

    def add(
        self,
        rows: Sequence[ClaimedRow],
        token: uuid.UUID,
        webhooks: Mapping[int, Webhook] | None = None,
        events: Iterable[Any] | None = None,
    ) -> None:
        """Hold rows that were just claimed, and queue them to be sent. If loading fails, their leases end. ``webhooks``
        by id and ``events`` are theirs, if the caller has just read them. Rows with large events are handed back if
        there is no room for them: other workers may have some."""
        if not rows:
            return
        events = read_events({row.event_id for row in rows}) if events is None else events
        if large := sizes_of_large(events):
            rows, left = self.large.choose(rows, large)
            if left:
                self._release([row.id for row in left], {token})
                policy.cancel_probes({row.webhook_id for row in left})
                self._nothing_due_until = 0.0
            events = self.large.read_texts(events, {row.event_id for row in rows})
        loaded = load_claimed(rows, token, self._make_bodies, webhooks, events)
        self.claimed |= {delivery.id: delivery for delivery in loaded}
        if large:
            self.large.hold((delivery.row for delivery in loaded), large)
        self._sender.add([(delivery.webhook.pk, delivery) for delivery in loaded])

    def holds(self, delivery: ClaimedDelivery) -> bool:
        """Whether this claim counts. If its lease ended, this worker may hold the delivery under a later claim."""
        return self.claimed.get(delivery.id) is delivery

    def forget(self, deliveries: Iterable[ClaimedDelivery]) -> None:
        for delivery in deliveries:
            if self.holds(delivery):
                del self.claimed[delivery.id]
                self.large.forget(delivery.id)

    def hand_back(self, deliveries: Collection[ClaimedDelivery], wait: float | None = None) -> None:
        """Hand deliveries back, to be sent in ``wait`` seconds if that is given. No attempt is counted, and the probe
        of a paused webhook is due again. If the database is away, they are lost with the lease."""
        if not deliveries:
            return
        try:
            with self.in_doubt():  # the lease must not be renewed for them
                self._release([delivery.id for delivery in deliveries], {one.token for one in deliveries}, wait)
        finally:
            self.forget(deliveries)
        policy.cancel_probes({delivery.webhook.pk for delivery in deliveries if delivery.webhook.is_paused})

    @staticmethod
    def _release(ids: Collection[uuid.UUID], tokens: Collection[uuid.UUID], wait: float | None = None) -> None:
        claimed = QueuedDelivery.objects.filter(pk__in=ids).claimed(tokens)
        atomically(lambda: claimed.release(wait), QueuedDelivery.objects.db)

    def hand_back_waiting(self, is_unwanted: Callable[[ClaimedDelivery], bool] = lambda delivery: True) -> None:
        """Hand back what waits to be sent."""
        self.hand_back(self._sender.remove(is_unwanted))

    def _hand_back_changed(self) -> None:
        held = {id(delivery.webhook): delivery.webhook for delivery in self.claimed.values()}
        if not held:
            return
        current = webhooks_by_id(Delivery.objects.db, {webhook.pk for webhook in held.values()})
        changed = {key for key, webhook in held.items() if not may_go_on(webhook, current.get(webhook.pk))}
        if changed:
            self.hand_back_waiting(lambda delivery: id(delivery.webhook) in changed)


SentEvent: Any = namedtuple("SentEvent", (*SENT_COLUMNS, "timestamp", "size"))  # type: ignore[misc]

_events_to_send = QueryByKeys(lambda: Event.objects.to_send())


def load_claimed(
    rows: Sequence[ClaimedRow],
    token: uuid.UUID,
    make_bodies: MakeBodies,
    webhooks: Mapping[int, Webhook] | None = None,
    events: Iterable[Any] | None = None,
) -> list[ClaimedDelivery]:
    """Load claimed rows with their events and webhooks, unless these are given. Leaves out rows that were deleted a
    moment ago."""
    wanted = {row.event_id for row in rows}
    if events is None:
        events = read_events(wanted)
    if webhooks is None:
        webhooks = webhooks_by_id(Delivery.objects.db, {row.webhook_id for row in rows})
    makers = {event.pk: make_bodies(event) for event in events if event.pk in wanted}
    return [
        ClaimedDelivery(row, token, webhooks[row.webhook_id], makers[row.event_id](row.webhook_id), str(row.id))
        for row in rows
        if row.event_id in makers and row.webhook_id in webhooks
    ]


def read_events(ids: Collection[int]) -> list[Any]:
    """The events with these ids, without the texts of large ones."""
    return list(map(SentEvent._make, _events_to_send.fetch(Event.objects.db, ids)))
