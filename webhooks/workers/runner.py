"""One worker's work: dispatch, deliver and sweep, in slices of a few seconds.

The thread that calls the runner is the only one that uses the database, in short transactions, and it never sends.
The thread of the sender only sends.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from django.db import DataError

from webhooks import hooks
from webhooks.delivery.claims import ClaimedDelivery, WorkerClaims
from webhooks.delivery.dispatch import Beyond, dispatch
from webhooks.delivery.next_turn import Aim, Step, WorkerState, next_turn, skips_scan
from webhooks.delivery.outcomes import Recorded, record
from webhooks.delivery.runs.steps import Runs
from webhooks.delivery.scan_floors import ScanFloors
from webhooks.delivery.sweep import Sweeper
from webhooks.ground.conf import conf
from webhooks.ground.db import atomically, elapsed
from webhooks.ground.db.clock import DatabaseClock
from webhooks.ground.error_kinds import ErrorKind, FaultOf
from webhooks.ground.errors import about, get_logger
from webhooks.ground.outcome import Outcome
from webhooks.ground.payloads import bodies_by_webhook
from webhooks.ground.payloads.templates import NEW, QUICK, SLOW, Renderer, is_template
from webhooks.models import Delivery, QueuedDelivery, Run, Undispatched, Webhook
from webhooks.workers.breaker import AvoidedWebhooks, Breaker, Fault
from webhooks.workers.compose import compose, credentials, has_templates
from webhooks.workers.fair_queue import FairQueue
from webhooks.workers.network.attempt import Request
from webhooks.workers.network.auth import waits
from webhooks.workers.network.loop import usable_descriptors
from webhooks.workers.sender import MANY, Sender

logger = get_logger(__name__)

# Outcomes are recorded together, at the latest after this many seconds.
RECORD_EVERY = 0.02

# Outcomes that cannot be recorded, because another session has locked their webhook or object, are tried again after so
# many seconds, each time after twice as many. A process that ends hands their deliveries back for a while.
KEPT_WAIT, LONGEST_KEPT_WAIT, KEPT_AT_END = 0.02, 1.0, 60

# Seconds to wait for outcomes if the caller waits for wake-ups meanwhile, or if new events must pass a run.
SHORT_WAIT = 0.005

# A template may name another host for each delivery. If one cannot be looked up, only its delivery waits (seconds).
LOOKED_UP_AGAIN_AFTER = 60

# How many requests may be made at once, by what makes them slow. More with templates would wait for the process that
# renders. The project's code for credentials, and its hooks, may wait for another server.
PROJECT_CODE = "project_code"
TEMPLATES = "templates"  # one of the other three, by how fast they are now
RENDERED_WITHIN = 60  # seconds, the start of the process included
MADE_AT_ONCE = {NEW: 1, QUICK: 2, SLOW: 1, PROJECT_CODE: 4}


class DeliveryRunner:
    """Dispatches and delivers for one worker process. It keeps requests in flight from one slice to the next."""

    def __init__(self, worker: str = "") -> None:
        """``worker`` is the name that attempts and claims get. Default: host and process, as the status page shows
        workers."""
        self._worker = (worker or f"{socket.gethostname()}:{os.getpid()}")[:100]
        self._renderer = Renderer()
        self._has_hooks = bool(hooks.listed("request_prepared"))
        self._makers: dict[int, tuple[Webhook, str]] = {}
        most = min(conf.senders, usable_descriptors())  # each request in flight has a descriptor
        queue = FairQueue(most, self._slow_group, MADE_AT_ONCE)
        self._clock = DatabaseClock()
        self._sender = Sender(queue, self._compose, self._clock.now, _longest, _about, _receiver)
        self._avoided = AvoidedWebhooks()
        self._claims = WorkerClaims(self._sender, bodies_by_webhook, self._avoided, self._worker)
        self._runs = Runs(self._claims)
        self._breaker: Breaker[ClaimedDelivery] = Breaker()
        self._floors, self._beyond = ScanFloors(), Beyond()
        self._sweeper = Sweeper()
        self._outcomes: list[tuple[ClaimedDelivery, Outcome]] = []
        self._kept: list[tuple[ClaimedDelivery, Outcome]] = []
        """Outcomes that could not be recorded, see ``Recorded``."""
        self._kept_wait = self._kept_until = 0.0
        self.attempted = 0
        """The attempts that it has recorded."""
        self._stopping = self._is_hurried = self._was_idle = self._is_behind = False
        self._is_woken = self._expects_new = False
        self._recorded = time.monotonic()
        self._done = self._ended = 0
        """What the steps of this turn have done, and the requests that ended in the last wait."""

    @property
    def is_busy(self) -> bool:
        """Whether the worker holds any delivery."""
        return bool(self._claims.claimed)

    @property
    def is_only_recording(self) -> bool:
        """Whether all that the worker holds are outcomes that could not be recorded yet."""
        return bool(self._kept) and not self._without_outcome

    @property
    def is_idle(self) -> bool:
        """Whether the last ``run`` ended because there was nothing to do, and no request is in flight."""
        return self._was_idle and not self.is_busy

    def has_more(self) -> bool:
        """Whether something is due now that this worker can send."""
        return not self._breaker.fault and has_more(self._avoided.__contains__)

    @property
    def can_send(self) -> bool:
        """Whether the thread that sends is alive. If not, end the process: its leases must end, too."""
        return self._sender.is_alive

    @property
    def clock_offset(self) -> float:
        """Seconds that the clock of this machine is ahead of the database's."""
        return self._clock.offset

    @property
    def faults(self) -> list[Fault]:
        """The faults of our own that this worker meets now."""
        shared = [self._breaker.fault] if self._breaker.fault else []
        return shared + self._avoided.faults

    def run(self, seconds: float, wait: bool = True, is_woken: bool = False) -> None:
        """Work until there is nothing to do, or ``seconds`` are over. Requests in flight then stay in flight.

        Without ``wait``, return as soon as requests in flight are all that is left. ``is_woken`` says that there
        probably is a new event. Raises django.db.Error if the database is away; call it again later.
        """
        deadline = time.monotonic() + seconds
        self._is_woken, self._expects_new = is_woken, is_woken or self._was_idle
        self._was_idle, self._ended = False, 0
        with self._sender.core:
            while not self._stopping and not self._was_idle and time.monotonic() < deadline:
                has_worked = self._take_turn(Aim.WORK, wait)
                self._sender.core.note(is_busy=has_worked)
                self._was_idle = not has_worked and not (wait and (self.is_busy or self.faults))

    def _take_turn(self, aim: Aim, wait: bool = True) -> bool:
        """Take the steps of a turn, see ``next_turn``. Returns whether there was something to do.

        Without ``wait``, wait only if there was something to do a moment ago. If all that is in flight hangs, the
        caller had better wait: a wake-up then ends the wait.
        """
        with self._claims.in_doubt():
            self._clock.compare(Delivery.objects.db)
            self._claims.renew()  # claims below are sent at once, so leases must be fresh
            self._done = 0
            try:
                self._take_steps(aim, Step.BEGIN, until=Step.WAIT)
            finally:  # a dispatch that fails must not stop recording and the sweep
                self._ended = self._wait(RECORD_EVERY if wait else SHORT_WAIT if self._done or self._ended else 0)
                self._take_steps(aim, Step.WAIT, until=Step.END)
        return bool(self._done or self._ended)

    def _take_steps(self, aim: Aim, last: Step, until: Step) -> None:
        """Take the steps of a turn between these two."""
        while True:
            for step in next_turn(self._state(aim, last)):
                if step is until:
                    return
                self._take(step)
                last = step

    def _state(self, aim: Aim, last: Step) -> WorkerState:
        has_fault = self._breaker.fault is not None
        is_late = time.monotonic() - self._recorded > RECORD_EVERY
        return WorkerState(
            last,
            aim,
            expects_new=self._expects_new,
            has_dispatched=self._done > 0,
            is_behind=self._is_behind,
            has_room=self._sender.ready() < conf.batch,
            expects_nothing=self._claims.expects_nothing,
            has_early=self._claims.has_early,
            has_fault=has_fault,
            may_probe=has_fault and self._breaker.may_probe(elapsed()),
            is_beside_live=self._runs.are_beside_live,
            is_record_due=is_late or len(self._outcomes) >= MANY or not self._sender.is_busy,
        )

    def _take(self, step: Step) -> None:
        match step:
            case Step.CLAIM | Step.CLAIM_IDLE | Step.CLAIM_EARLY:
                self._done += self._claims.claim_due(step is Step.CLAIM_IDLE, step is Step.CLAIM_EARLY)
            case Step.CLAIM_ONE:
                self._breaker.begin_probe(elapsed())
                self._done += self._claims.claim_one()
            case Step.STEP_RUN | Step.STEP_UNSENT_RUN:
                self._done += self._runs.step(may_send=step is Step.STEP_RUN)
            case Step.RECORD | Step.RECORD_AND_CLAIM:
                self._record(step is Step.RECORD_AND_CLAIM)
            case Step.SWEEP:
                idle = time.monotonic() - self._recorded
                self._sweeper.run_due(idle, is_busy=bool(self._done or self._ended))
            case _:
                self._done += self._dispatch()

    def finish(self) -> None:
        """Wait for the requests in flight, and meanwhile serve webhooks that have none in flight.

        For a process that ends with its slice: a receiver that hangs must not keep the others waiting. It takes at most
        as long as two requests.
        """
        self._sweeper.run_due(idle=0)  # the rest of a sweep that has begun
        self._claims.hand_back_waiting()
        in_flight = set(self._claims.claimed.values())
        while not self._stopping and not in_flight.isdisjoint(self._without_outcome):
            self._take_turn(Aim.FINISH)
        self.pause(float("inf"))
        self._give_up_kept()

    def pause(self, grace: float) -> None:
        """Hand back what waits, and give requests in flight ``grace`` seconds to end. Slower ones stay in flight:
        call ``poll`` until ``run`` goes on."""
        self._claims.hand_back_waiting()
        deadline = time.monotonic() + grace
        while self._without_outcome and not self._stopping and time.monotonic() < deadline:
            self.poll()

    @property
    def _without_outcome(self) -> set[ClaimedDelivery]:
        """What this worker holds, except for the outcomes that it must keep."""
        return set(self._claims.claimed.values()).difference(delivery for delivery, _ in self._kept)

    def _give_up_kept(self) -> None:
        """Record the kept outcomes if their locks become free in a moment. Hand the other deliveries back."""
        deadline = time.monotonic() + LONGEST_KEPT_WAIT
        while self._kept and time.monotonic() < deadline:
            time.sleep(KEPT_WAIT)
            self._record()
        self._claims.hand_back([delivery for delivery, _ in self._kept], KEPT_AT_END)
        self._kept = []

    def poll(self) -> None:
        """Record the requests that have ended and renew the leases of the others. Claims nothing."""
        self._take_turn(Aim.RECORD)

    def stop(self) -> None:
        """Claim nothing more. Safe to call from a signal handler."""
        self._stopping = True

    def hurry(self) -> None:
        """Let ``close`` wait no longer for requests in flight. Safe to call from a signal handler."""
        self._is_hurried = True

    def close(self, grace: float) -> None:
        """Give requests in flight ``grace`` seconds to end, record them, and hand the rest back; no attempt is counted.

        Raises django.db.Error if the database is away; then the leases end.
        """
        try:
            self._claims.hand_back_waiting()
            deadline = time.monotonic() + grace
            while self._sender.is_busy and not self._is_hurried and time.monotonic() < deadline:
                self.poll()
            self._record()
            self._give_up_kept()
            self._claims.close()
        finally:
            self._sender.close()
            self._renderer.close()

    def _wait(self, seconds: float) -> int:
        """Wait up to so many seconds for requests in flight, and judge those that ended. Returns how many ended."""
        if not self._sender.is_busy:
            if self.is_busy or self.faults:
                time.sleep(seconds)  # failures are in doubt, or a fault of our own stops the sending
            seconds = 0
        is_hurried = self._runs.are_beside_live
        most = SHORT_WAIT if is_hurried else RECORD_EVERY
        ended = self._sender.outcomes(min(seconds, most), collects=not is_hurried, only_new=seconds <= SHORT_WAIT)
        self._judge([(delivery, outcome) for delivery, outcome in ended if outcome])
        self._claims.hand_back([delivery for delivery, outcome in ended if not outcome])  # too late to be sent
        return len(ended)

    def _dispatch(self) -> int:
        skips = skips_scan(self._is_woken, self._is_behind, self._floors.is_full_scan_due)
        self._is_woken = self._expects_new = False
        most = self._claims.events_at_once
        new = dispatch(None if self._breaker.fault else self._claims, self._floors, skips, self._beyond)
        self._is_behind = new >= most  # then there probably are more
        if new:
            self._runs.saw_new(new)
        return new

    def _judge(self, ended: Sequence[tuple[ClaimedDelivery, Outcome]]) -> None:
        """Keep outcomes to be recorded. Hand deliveries back that failed by a fault of our own."""
        before = self._breaker.fault
        counted, handed_back = self._breaker.judge(ended, elapsed(), uses_proxy=bool(conf.proxy))
        postponed, is_avoiding = [], False
        for delivery, outcome in counted:
            if outcome.kind == ErrorKind.RESOLVER and _host_is_from_template(delivery, outcome):
                postponed.append(delivery)
            elif outcome.fault == FaultOf.OURS_FOR_WEBHOOK:
                is_avoiding |= self._avoided.add(delivery.webhook, outcome)
                handed_back.append(delivery)
            else:
                self._avoided.discard(delivery.webhook)
                self._outcomes.append((delivery, outcome))
        if is_avoiding:
            self._claims.hand_back_waiting(lambda delivery: delivery.webhook.pk in self._avoided)
        self._claims.hand_back(handed_back)
        self._claims.hand_back(postponed, LOOKED_UP_AGAIN_AFTER)
        if (fault := self._breaker.fault) and fault != before:
            self._claims.hand_back_waiting()
            logger.error("%s. Deliveries wait, and no attempt is counted", fault.text, extra=about(kind=fault.kind))
        elif before and not fault:
            logger.warning("Deliveries are sent again. This is over: %s", before.text, extra=about(kind=before.kind))

    def _record(self, claim_next: bool = False) -> None:
        """Record outcomes. With ``claim_next``, claim what waits behind them in the same transaction."""
        if self._outcomes or elapsed() >= self._kept_until:
            self._outcomes, self._kept = [*self._kept, *self._outcomes], []
        self._outcomes = [(delivery, outcome) for delivery, outcome in self._outcomes if self._claims.holds(delivery)]
        if not self._outcomes:
            return
        recorded = Recorded([], set(), [], set())
        try:
            with self._claims.claiming() as token:
                recorded = atomically(
                    lambda: record(self._outcomes, self._worker, token if claim_next else None), Delivery.objects.db
                )
                self._forget_recorded(recorded)
                self._claims.add(recorded.claimed, token)
            self.attempted += len(self._outcomes) - len(recorded.kept)
        except DataError:
            # Not to stop other deliveries. The leases end, and a third lost lease is a failed attempt.
            logger.exception("Attempts could not be stored; their deliveries are sent again")
        self._forget_recorded(recorded)
        self._keep(recorded)
        self._outcomes = []
        self._recorded = time.monotonic()
        if recorded.stopped:
            self._runs.forget(recorded.stopped)
        if unsendable := recorded.stopped | recorded.busy:
            self._claims.hand_back_waiting(lambda delivery: delivery.webhook.pk in unsendable)

    def _forget_recorded(self, recorded: Recorded) -> None:
        kept = {delivery.id for delivery, _ in recorded.kept}
        self._claims.forget(delivery for delivery, _ in self._outcomes if delivery.id not in kept)

    def _keep(self, recorded: Recorded) -> None:
        """Keep outcomes for later, and claim nothing more of their webhooks meanwhile."""
        has_progress = len(recorded.kept) < len(self._outcomes)
        self._kept_wait = KEPT_WAIT if has_progress else min(max(KEPT_WAIT, 2 * self._kept_wait), LONGEST_KEPT_WAIT)
        self._kept_until = elapsed() + self._kept_wait
        self._kept, self._avoided.busy = recorded.kept, recorded.busy

    def _compose(self, delivery: ClaimedDelivery) -> Request:
        is_redelivery = bool(delivery.row.requested_by)
        request = compose(
            delivery.webhook,
            delivery.bodies,
            delivery.message_id,
            self._renderer,
            self._clock.now,
            is_redelivery,
            number=delivery.row.attempts + 1,
        )
        # During a fault, this is a probe. Over a kept connection it would say nothing about name servers and routes.
        return replace(request, connects=True) if self._breaker.fault else request

    def _slow_group(self, delivery: ClaimedDelivery) -> str:
        """Called several times for each delivery. Those that were loaded together share the object of their webhook."""
        webhook = delivery.webhook
        known, maker = self._makers.get(webhook.pk, (None, ""))
        if known is not webhook:
            maker = self._slow_maker(webhook)
            self._makers[webhook.pk] = webhook, maker
        return self._renderer.pace(webhook.pk) if maker == TEMPLATES else maker

    def _slow_maker(self, webhook: Webhook) -> str:
        if has_templates(webhook):
            return TEMPLATES
        return PROJECT_CODE if self._has_hooks or waits(credentials(webhook, webhook.payload_url)) else ""


def _about(delivery: ClaimedDelivery) -> dict[str, Any]:
    return about(webhook=delivery.webhook, delivery=delivery.id, event=delivery.row.event_id)


def _receiver(delivery: ClaimedDelivery) -> str:
    return delivery.webhook.payload_url


def _longest(delivery: ClaimedDelivery) -> float:
    """Seconds within which the project's code must have made a request, and sent it if it wants to see the answer."""
    rendering = RENDERED_WITHIN if has_templates(delivery.webhook) else 0
    return 2 * (delivery.webhook.timeout or conf.timeout) + rendering


def _host_is_from_template(delivery: ClaimedDelivery, outcome: Outcome) -> bool:
    host = (urlsplit(outcome.request.url).hostname if outcome.request else None) or ""
    return is_template(delivery.webhook.payload_url) and host not in delivery.webhook.payload_url.lower()


def has_more(is_avoided: Callable[[int], bool] = lambda webhook_id: False) -> bool:
    """Whether something is due now, except deliveries of webhooks that are avoided, by their ids."""
    if Undispatched.objects.exists() or Run.objects.due().exists():
        return True
    return not all(is_avoided(webhook.id) for webhook in QueuedDelivery.objects.due_webhooks())
