"""When a failed delivery is sent again, or given up. Pure.

===========================  ============================================
outcome                      the delivery
===========================  ============================================
2xx                          has succeeded
429, no answer in time       is retried after a minute at least
any other, redirects too     is retried by the schedule
failure after the schedule   has failed: only a user can retry it
===========================  ============================================

``Retry-After`` is obeyed between the planned wait and twice that. The schedule is ``RETRY_SCHEDULE``.
``pause_policy`` says what follows for the webhook.
"""

from __future__ import annotations

from collections.abc import Sequence

# A receiver that is overloaded, or did not answer in time, gets at least a minute, as with Svix.
OVERLOAD_WAIT = 60.0


def next_wait(
    schedule: Sequence[float],
    attempts: int,
    *,
    jitter: float = 0.0,
    chance: float = 0.5,
    overloaded: bool = False,
    retry_after: float | None = None,
) -> float | None:
    """Seconds to wait after the ``attempts``-th failed attempt (1 for the first), or None to give up.

    ``chance`` (0 to 1, drawn at random by the caller) picks the place within ``±jitter`` (a fraction) of the
    planned wait. ``overloaded``: the receiver timed out or answered 429, so no wait is shorter than ``OVERLOAD_WAIT``.
    ``retry_after``: the seconds that the receiver asked for.
    """
    if attempts > len(schedule):
        return None
    planned = schedule[attempts - 1]
    if overloaded:
        planned = max(planned, OVERLOAD_WAIT)
    if retry_after is not None:
        return min(max(planned, retry_after), 2 * planned)
    return max(OVERLOAD_WAIT if overloaded else 0.0, planned * (1 + jitter * (2 * chance - 1)))
