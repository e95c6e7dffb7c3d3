"""How fast a receiver may be asked that accepts only so many requests in a time: Slack takes one a second. Pure.

It answers 429 beyond that. The answers teach its rate: so many were accepted since the last refusal, in so long.
"""

from __future__ import annotations

# Seconds. After a refusal the receiver gets nothing for as long as it asks, within these limits, or for the first. It
# gets nothing for twice as long after each refusal that follows none accepted.
REST, LONGEST_REST = 1.0, 60.0

# Each accepted request shortens the time to the next one, at least to half within so many seconds. So a rate that rises
# is found.
FASTER, HALVED_IN = 0.995, 120

# A limit refuses few requests once its rate is known. A receiver that refuses as few at random would get ever less. So
# if it usually accepts so many between two refusals, and asks for no longer rest, the time between requests grows by no
# more than this factor.
MANY_ACCEPTED, SLOWER = 30, 1.25

# The part of the last number in the usual one.
NEWEST = 0.25

# Seconds. A shorter time between requests is no limit.
NO_LIMIT = 0.001


class ReceiverRate:
    """What one worker knows of a receiver that has refused a request. Times are in seconds of a monotonic clock."""

    def __init__(self) -> None:
        self.next_at = 0.0
        """When the next request may begin."""
        self.interval = 0.0
        """Seconds between the beginnings of two requests. 0 until the second refusal, or if there is no limit."""
        # What was accepted since a time, and until when without a pause.
        self._since, self._until, self._accepted = 0.0, 0.0, 0
        self._rest = REST
        self._usually_accepted: float | None = None

    def begun(self, now: float) -> None:
        self.next_at = max(self.next_at, now + self.interval)

    def accepted(self, now: float) -> None:
        if now > self._until + self.interval + REST:  # there was nothing to send meanwhile
            self._since, self._accepted = now, 0
        self._until = now
        self._accepted += 1
        self._rest = REST
        shorter = self.interval * min(FASTER, 0.5 ** (self.interval / HALVED_IN))
        self.interval = shorter if shorter > NO_LIMIT else 0.0

    def refused(self, began: float, now: float, wait: float | None) -> bool:
        """Note an answer that there are too many requests, and that asks to ``wait``. Returns whether that is new: the
        request began after the last rest."""
        if began < self._since:
            return False
        rest = min(max(wait or 0.0, self._rest), LONGEST_REST)
        usually = self._accepted if self._usually_accepted is None else self._usually_accepted
        self._usually_accepted = usually + NEWEST * (self._accepted - usually)
        if self._accepted:  # otherwise the rest says all
            until = min(now, self._until + self.interval + REST)
            interval = min((until + rest - self._since) / self._accepted, LONGEST_REST)
            most = SLOWER if self._usually_accepted >= MANY_ACCEPTED and rest <= REST else 2
            self.interval = min(interval, most * self.interval) if self.interval else interval
        self._rest = min(2 * self._rest, LONGEST_REST)
        self._since = self._until = self.next_at = now + rest
        self._accepted = 0
        return True
