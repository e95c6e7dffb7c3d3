"""One worker's work: dispatch, deliver and sweep, in slices of a few seconds."""

from __future__ import annotations

import time

from webhooks.conf import conf
from webhooks.delivery import dispatch, maintenance
from webhooks.delivery.dispatch_sql import has_undispatched
from webhooks.delivery.runner import Courier
from webhooks.models import Event, Sweep
from webhooks.models.claims import due_webhooks

# Seconds that a turn waits for what is under way.
PATIENT = 0.02
IMPATIENT = 0.005

# Seconds between two sweeps of what nobody waits for.
SWEEP_ALL_EVERY = 30


class Drain:
    """Lives as long as its worker process, and keeps what is under way from one slice to the next."""

    def __init__(self, worker: str) -> None:
        self._courier = Courier(worker[:100])
        self._swept = self._swept_all = 0.0
        self._stopping = False

    @property
    def is_under_way(self) -> bool:
        """Whether anything is claimed."""
        return not self._courier.is_idle

    def run(self, seconds: float, patient: bool = True) -> None:
        """Work until there is nothing to do, or ``seconds`` are over; what is under way then stays so.

        One that is not ``patient`` returns as soon as there is nothing to do but wait for what is under way, for a
        caller that waits for wake-ups meanwhile. Raises django.db.Error when the database is away; call it again
        later.
        """
        deadline = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < deadline:
            self._courier.renew()  # what is taken here is sent at once
            done = self._courier.claim()  # first: what is due already goes before what is new
            try:
                done += self._dispatch()
            finally:  # what is under way is recorded, and sweeping goes on, whatever becomes of new Events
                done += self._courier.collect(wait=PATIENT if patient else IMPATIENT)
                self._sweep()  # last: what has just been committed does not wait for it
            if not done and not (patient and self.is_under_way):
                return

    def finish(self) -> None:
        """Wait for what is under way, and meanwhile serve the webhooks that are not kept waiting.

        For a process that ends with its slice: a receiver that hangs must not keep the others from theirs. It takes
        no longer than two requests may: what has only been lined up is handed back.
        """
        self._courier.hand_back_waiting()
        under_way = self._courier.held()
        while not self._stopping and under_way & self._courier.held():
            self._courier.turn(PATIENT, only_free=True)
        self._courier.hand_back_waiting()
        while not self._courier.is_idle and not self._stopping:
            self.tend()

    def pause(self, grace: float) -> None:
        """Hand back what waits, and give what is under way ``grace`` seconds to end. What takes longer stays under way:
        ``tend`` it until ``run`` goes on."""
        self._courier.hand_back_waiting()
        deadline = time.monotonic() + grace
        while self.is_under_way and not self._stopping and time.monotonic() < deadline:
            self.tend()

    def tend(self) -> None:
        """Record what has ended and keep the leases of the rest, for a moment. Claims nothing."""
        self._courier.turn(PATIENT, claim=False)

    def stop(self) -> None:
        """Claim nothing more. Safe to call from a signal handler."""
        self._stopping = True

    def close(self, grace: float) -> None:
        """Finish what is under way, within ``grace`` seconds, and hand back the rest."""
        self._courier.close(grace)

    def _dispatch(self) -> int:
        dispatched = dispatch.dispatch(self._courier.offer)
        if dispatched.token:
            self._courier.take(dispatched.taken, dispatched.token)
        return dispatched.events

    def _sweep(self) -> None:
        if time.monotonic() - self._swept < conf.sweep_interval:
            return
        self._swept = time.monotonic()
        if not Sweep.begin(conf.sweep_interval):
            return
        if time.monotonic() - self._swept_all > SWEEP_ALL_EVERY:
            is_done = maintenance.sweep() < maintenance.MOST
            if is_done:  # else more has to go than one sweep takes: the next one goes on with it
                self._swept_all = time.monotonic()
        else:
            maintenance.mend()


def has_more() -> bool:
    """Whether something is due now."""
    using = Event.objects.db
    return has_undispatched(using) or bool(due_webhooks(using))
