"""Tell faults of our own proxy, route, system and settings from faults of receivers.

A fault of our own must not use up the retries of deliveries, nor pause their webhooks. Their outcomes are not counted,
and the deliveries are handed back.

======================================  ================================================
fault                                   shown by
======================================  ================================================
the proxy itself, a setting, resources  one failure
route, behind the proxy                 failures of two hosts, while no other host works
======================================  ================================================

During a fault, the worker sends one delivery every ``PROBE_EVERY`` seconds. The first one that works ends the fault.

A name server that fails is no fault of this kind: other names may resolve, and kept connections need none. Nor is a
secret that this worker cannot decrypt. The worker avoids the webhooks that have such a fault, each for a while.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar
from urllib.parse import urlsplit

from django.utils.text import capfirst
from django.utils.translation import gettext_noop as _

from webhooks.ground.db import elapsed
from webhooks.ground.error_kinds import KINDS, ErrorKind, FaultOf
from webhooks.ground.errors import about, get_logger
from webhooks.ground.outcome import Outcome
from webhooks.ground.security import encryption

if TYPE_CHECKING:
    from webhooks.models import Webhook

logger = get_logger(__name__)

T = TypeVar("T")

PROBE_EVERY = 5.0

# A failure that may be our own is in doubt for at most so many seconds. Then it counts as the receiver's.
DOUBT = 10.0

# Two hosts show a fault after so many seconds. Meanwhile another host may show that there is none.
PATIENCE = 1.0

# Failures in doubt beyond this number count at once.
MAX_DOUBTFUL = 250

# The kinds that a fault of our own may have, but for those of one webhook.
DOUBTFUL = {kind for kind in ErrorKind if kind.fault == FaultOf.OURS_IF_MANY}
SHARED = DOUBTFUL | {kind for kind in ErrorKind if kind.fault == FaultOf.OURS}

# How the sentence about a fault begins. It goes on with "since 12:04". For others it is the reason of the failure.
TEXTS = {
    ErrorKind.RESOURCES: _("The system of the worker has no resources left"),
    ErrorKind.SETTINGS: _("The worker sends nothing because a setting is invalid"),
    ErrorKind.UNREACHABLE: _("The worker's machine has no route to the receivers"),
    ErrorKind.PROXY_TARGET: _("The proxy connects to no receiver"),
}

# A worker avoids a webhook for so many seconds, each time for longer. That is a fault no longer after so many seconds
# without another try.
AVOID_SECONDS = (5.0, 15.0, 60.0)
FORGOTTEN_AFTER = 600

# The faults for which a worker avoids a webhook (``FaultOf.OURS_FOR_WEBHOOK``), as the first part of "… since 12:04".
AVOIDED_TEXTS = {
    ErrorKind.SECRET: _("The worker cannot decrypt the secrets of some webhooks"),
    ErrorKind.RESOLVER: _("The worker cannot look up the names of some receivers"),
}


@dataclass(frozen=True)
class Fault:
    """A fault of our own. ``text`` goes on with "since 12:04"."""

    kind: ErrorKind
    text: str
    since: datetime


class _Doubt(NamedTuple, Generic[T]):
    """A failure that may be our own. The times are in seconds of the monotonic clock."""

    item: T
    outcome: Outcome
    started: float
    ended: float


class Breaker(Generic[T]):
    """Judges the outcomes of one worker, and says when it may send. ``now`` is in seconds of a monotonic clock."""

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self._opened = self._next_probe = 0.0
        self._doubts: list[_Doubt[T]] = []
        self._worked: dict[ErrorKind, float] = {}
        """By the kind of fault, when the last request started that showed that there is none."""

    def may_probe(self, now: float) -> bool:
        """Whether one delivery may be sent now, during a fault."""
        return now >= self._next_probe

    def begin_probe(self, now: float) -> None:
        self._next_probe = now + PROBE_EVERY

    def judge(
        self, ended: Sequence[tuple[T, Outcome]], now: float, uses_proxy: bool = False
    ) -> tuple[list[tuple[T, Outcome]], list[T]]:
        """Return the outcomes to record, and the items to hand back. Others stay in doubt: call it often."""
        counted, handed_back = [], []
        for item, outcome in ended:
            started = now - outcome.duration_ms / 1000
            self._learn(outcome, started)
            if outcome.fault == FaultOf.OURS:
                self._open(outcome, now)
                handed_back.append(item)
            elif self.fault and outcome.fault == FaultOf.RECEIVER_OR_CUT_OFF:
                handed_back.append(item)
            elif outcome.fault == FaultOf.OURS_IF_MANY or (uses_proxy and outcome.kind == ErrorKind.CLOSED):
                self._doubts.append(_Doubt(item, outcome, started, now))
            else:
                counted.append((item, outcome))
        for kind in DOUBTFUL:
            alike = [one for one in self._doubts if one.outcome.kind == kind and not self._counts(one, now)]
            requests = [one.outcome.request for one in alike]
            hosts = {(urlsplit(request.url).hostname or "") if request else "" for request in requests}
            if len(hosts) > 1 and now - alike[0].ended >= PATIENCE:
                self._open(alike[0].outcome, now)
        doubts, self._doubts = self._doubts, []
        for place, one in enumerate(doubts):
            if self.fault:
                handed_back.append(one.item)
            elif self._counts(one, now) or place < len(doubts) - MAX_DOUBTFUL:
                counted.append((one.item, one.outcome))
            else:
                self._doubts.append(one)
        return counted, handed_back

    def _learn(self, outcome: Outcome, started: float) -> None:
        """Note what the outcome shows to work: nothing over a kept connection, or from the beginning of a fault."""
        has_arrived = outcome.has_connected and outcome.kind not in SHARED
        working = SHARED if has_arrived else set()
        if outcome.kind in (ErrorKind.REFUSED, ErrorKind.CONNECT_TIMEOUT):
            working |= {ErrorKind.UNREACHABLE}
        if self.fault is None or started >= self._opened + PATIENCE:
            self._worked |= dict.fromkeys(working, started)
            if self.fault and self.fault.kind in working:
                self.fault = None

    def _counts(self, doubt: _Doubt[T], now: float) -> bool:
        """Whether this failure is the receiver's: it is old, or a request that started later worked."""
        is_refuted = doubt.started < self._worked.get(KINDS[doubt.outcome.kind], -math.inf)
        return is_refuted or now - doubt.ended >= DOUBT

    def _open(self, outcome: Outcome, now: float) -> None:
        if self.fault:
            return
        kind = KINDS[outcome.kind]
        self.fault = Fault(kind, TEXTS.get(kind) or capfirst(outcome.reason), outcome.started_at)
        self._opened, self._next_probe = now, now + PROBE_EVERY


@dataclass(frozen=True)
class Avoided:
    kind: ErrorKind
    since: datetime
    until: float
    times: int


class AvoidedWebhooks:
    """The webhooks that one worker avoids, by their ids, each for a while."""

    def __init__(self) -> None:
        self._by_id: dict[int, Avoided] = {}
        self.busy: Collection[int] = ()
        """Those whose outcomes it cannot record now, because another session has locked their rows."""

    def __contains__(self, webhook_id: object) -> bool:
        if webhook_id in self.busy:
            return True
        return webhook_id in self._by_id and elapsed() < self._by_id[webhook_id].until

    def add(self, webhook: Webhook, outcome: Outcome) -> bool:
        """Avoid a webhook, each time for longer. Returns whether it was not avoided just now."""
        if webhook.pk in self:
            return False
        known = self._by_id.get(webhook.pk)
        kind, times = KINDS[outcome.kind], known.times if known else 0
        reason, extra = outcome.reason, about(webhook=webhook, kind=kind)
        if not known and kind == ErrorKind.SECRET:
            keys = ", ".join(encryption.key_names())
            logger.error(
                "%s. This worker has these keys: %s. It leaves the webhook to others", reason, keys, extra=extra
            )
        elif not known:
            logger.error("Webhook %s: %s. Its deliveries wait, and no attempt is counted", webhook, reason, extra=extra)
        until = elapsed() + AVOID_SECONDS[min(times, len(AVOID_SECONDS) - 1)]
        self._by_id[webhook.pk] = Avoided(kind, known.since if known else outcome.started_at, until, times + 1)
        return True

    def discard(self, webhook: Webhook) -> None:
        """An attempt shows that the fault is over. If name servers failed, the other names may resolve, too."""
        over = self._by_id.pop(webhook.pk, None)
        if over:
            text, extra = over.kind.english, about(webhook=webhook, kind=over.kind)
            logger.warning("Webhook %s gets its deliveries again. This is over: %s", webhook, text, extra=extra)
        if over and over.kind == ErrorKind.RESOLVER:
            for pk, one in self._by_id.items():
                if one.kind == ErrorKind.RESOLVER:
                    self._by_id[pk] = replace(one, until=elapsed())

    @property
    def faults(self) -> list[Fault]:
        """One for each kind that this worker meets now."""
        now, found = elapsed(), list[Fault]()
        for kind, text in AVOIDED_TEXTS.items():
            alike = [one for one in self._by_id.values() if one.kind == kind and now < one.until + FORGOTTEN_AFTER]
            if alike:
                found.append(Fault(kind, text, min(one.since for one in alike)))
        return found
