"""One worker's work: dispatch, deliver and maintain, in slices of a few seconds.

The thread that calls the runner is the only one that uses the database, in short transactions, and it never sends.
The threads of the sender pool only send.
"""

from __future__ import annotations

import time

from django.db import DataError

from webhooks.conf import conf
from webhooks.db import atomically
from webhooks.delivery import maintenance
from webhooks.delivery.claims import Claimed, WorkerClaims
from webhooks.delivery.dispatch import dispatch, has_undispatched
from webhooks.delivery.fair_queue import FairQueue
from webhooks.delivery.outcomes import record
from webhooks.delivery.request import compose
from webhooks.delivery.sender import MANY, SenderPool
from webhooks.logs import get_logger
from webhooks.models import Delivery, Event, Sweep
from webhooks.models.claims import due_webhooks
from webhooks.network.outcome import Outcome
from webhooks.network.transport import Request
from webhooks.payloads.templates import QUICK, SLOW, Renderer

logger = get_logger(__name__)

# Outcomes are recorded together, at the latest after this many seconds.
RECORD_EVERY = 0.02

# Seconds to wait for outcomes if the caller waits for wake-ups meanwhile.
SHORT_WAIT = 0.005

# Seconds between two runs of the maintenance that no delivery waits for.
SWEEP_ALL_EVERY = 30

# How many requests may be rendered at once. More would wait for the process that renders, and keep threads from
# webhooks without templates.
RENDERED_AT_ONCE = {QUICK: 2, SLOW: 1}


class DeliveryRunner:
    """Dispatches and delivers for one worker process. It keeps requests in flight from one slice to the next."""

    def __init__(self, worker: str) -> None:
        self._worker = worker[:100]
        self._renderer = Renderer()
        queue = FairQueue(conf.senders, self._render_group, RENDERED_AT_ONCE)
        self._pool = SenderPool(conf.senders, queue, self._request)
        self._claims = WorkerClaims(self._pool)
        self._outcomes: list[tuple[Claimed, Outcome]] = []
        self._stopping = False
        self._recorded = time.monotonic()
        self._swept = self._swept_all = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether the worker holds any delivery."""
        return bool(self._claims.held)

    def run(self, seconds: float, wait: bool = True) -> None:
        """Work until there is nothing to do, or ``seconds`` are over. Requests in flight then stay in flight.

        Without ``wait``, return as soon as requests in flight are all that is left. Raises django.db.Error if the
        database is away; call it again later.
        """
        deadline = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < deadline:
            self._claims.renew()  # claims below are sent at once, so leases must be fresh
            done = self._claims.claim_due()  # before new events: it has waited for longer
            try:
                done += dispatch(self._claims)
            finally:  # a dispatch that fails must not stop recording and maintenance
                done += self._collect(RECORD_EVERY if wait else SHORT_WAIT, claim_next=True)
                self._maintain()
            if not done and not (wait and self.is_busy):
                return

    def finish(self) -> None:
        """Wait for the requests in flight, and meanwhile serve webhooks that have none in flight.

        For a process that ends with its slice: a receiver that hangs must not keep the others waiting. It takes at most
        as long as two requests.
        """
        self._claims.release_waiting()
        in_flight = set(self._claims.held.values())
        while not self._stopping and not in_flight.isdisjoint(self._claims.held.values()):
            self._claims.renew()
            self._claims.claim_due(only_free=True)
            self._collect(RECORD_EVERY)
        self.pause(float("inf"))

    def pause(self, grace: float) -> None:
        """Hand back what waits, and give requests in flight ``grace`` seconds to end. Slower ones stay in flight:
        call ``poll`` until ``run`` goes on."""
        self._claims.release_waiting()
        deadline = time.monotonic() + grace
        while self.is_busy and not self._stopping and time.monotonic() < deadline:
            self.poll()

    def poll(self) -> None:
        """Record the requests that have ended and renew the leases of the others. Claims nothing."""
        self._claims.renew()
        self._collect(RECORD_EVERY)

    def stop(self) -> None:
        """Claim nothing more. Safe to call from a signal handler."""
        self._stopping = True

    def close(self, grace: float) -> None:
        """Give requests in flight ``grace`` seconds to end, record them, and hand the rest back; no attempt is counted.

        Raises django.db.Error if the database is away; then the leases end.
        """
        try:
            self._claims.release_waiting()
            deadline = time.monotonic() + grace
            while self._pool.is_busy and (left := deadline - time.monotonic()) > 0:
                self._collect(left)
                self._claims.renew()
            self._record()
            self._claims.release(list(self._claims.held.values()))
        finally:
            self._pool.close()
            self._renderer.close()

    def _collect(self, wait: float, claim_next: bool = False) -> int:
        """Wait up to ``wait`` seconds for requests in flight, and record them if it is time. Returns how many ended."""
        ended = self._pool.outcomes(min(wait, RECORD_EVERY) if self._pool.is_busy else 0)
        self._outcomes += [(claimed, outcome) for claimed, outcome in ended if outcome]
        self._claims.release([claimed for claimed, outcome in ended if not outcome])  # too late to be sent
        is_late = time.monotonic() - self._recorded > RECORD_EVERY
        if is_late or len(self._outcomes) >= MANY or not self._pool.is_busy:
            self._record(claim_next)
        return len(ended)

    def _record(self, claim_next: bool = False) -> None:
        """Record outcomes. With ``claim_next``, claim what waits behind them in the same transaction."""
        self._outcomes = [(claimed, outcome) for claimed, outcome in self._outcomes if self._claims.holds(claimed)]
        if not self._outcomes:
            return
        claim = self._claims.claim_for_promoted() if claim_next else None
        recorded = None
        try:
            recorded = atomically(lambda: record(self._outcomes, self._worker, claim), Delivery.objects.db)
        except DataError:
            # Not to stop other deliveries. The leases end, and a third lost lease is a failed attempt.
            logger.exception("Attempts could not be stored; their deliveries are sent again")
        self._claims.forget(claimed for claimed, _ in self._outcomes)
        self._outcomes = []
        self._recorded = time.monotonic()
        if recorded and recorded.stopped:
            self._claims.release_waiting(lambda claimed: claimed.webhook.pk in recorded.stopped)
        if recorded and claim:
            self._claims.add(recorded.claimed, claim)

    def _maintain(self) -> None:
        if time.monotonic() - self._swept < conf.sweep_interval:
            return
        self._swept = time.monotonic()
        if not Sweep.begin(conf.sweep_interval):
            return
        if time.monotonic() - self._swept_all < SWEEP_ALL_EVERY:
            maintenance.expire_and_unblock()
        elif maintenance.sweep() < maintenance.MOST:  # else there is more, and the next sweep goes on with it
            self._swept_all = time.monotonic()

    def _render_group(self, claimed: Claimed) -> str:
        return self._renderer.pace(claimed.webhook.pk) if claimed.webhook.has_templates else ""

    def _request(self, claimed: Claimed) -> Request:
        return compose(claimed.webhook, claimed.event, str(claimed.id), self._renderer)


def has_more() -> bool:
    """Whether something is due now."""
    using = Event.objects.db
    return has_undispatched(using) or bool(due_webhooks(using))
