"""Whether a request came from there: for receivers that are written in Python. Needs neither Django nor a setting.

Follows Standard Webhooks (https://www.standardwebhooks.com), "Verifying webhook authenticity".
"""

from __future__ import annotations

import hmac
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from webhooks.security import signing

TOLERANCE = 300

# What "remember" is: a key and for how many seconds to keep it -> whether it was not there yet.
Remember = Callable[[str, float], bool]


class VerificationError(Exception):
    """The request is not to be trusted. Says why, for a log; tell a sender nothing but a status such as 401."""


def verify(
    body: bytes,
    headers: Mapping[str, str],
    secret: str | Sequence[str],
    *,
    tolerance: float = TOLERANCE,
    remember: Remember | None = None,
) -> str:
    """The ``webhook-id`` of a request that is signed with ``secret``, or with one of several.

    ``body`` are the bytes as they came. The names of ``headers`` may be written in any case. The time of the request
    may be ``tolerance`` seconds off. ``remember`` refuses the same request a second time: a ``ReplayWindow``, or in
    Django ``lambda key, seconds: cache.add(key, True, seconds)``. The sender's own attempts to deliver again have the
    same id and another time, so they pass: drop by the id what was handled already.

    Raises VerificationError for a request that does not hold, ValueError where there is no secret or no tolerance, and
    TypeError for a body that is not bytes.
    """
    if not isinstance(body, bytes | bytearray | memoryview):
        raise TypeError("verify the body as it came, in bytes: whatever parsed it may have changed it")
    secrets = [secret] if isinstance(secret, str) else list(secret)
    if not secrets or not all(secrets):
        raise ValueError("a request cannot be verified without a secret")
    if not tolerance >= 0:
        raise ValueError("the tolerance is a number of seconds, 0 at the least")
    given = {name.lower(): value for name, value in headers.items()}
    message_id, stamp, signatures = (_header(given, f"webhook-{name}") for name in ("id", "timestamp", "signature"))
    if "." in message_id or not message_id.isascii():
        # The parts are signed with dots between them: with one more, the beginning of a body might pass for the time.
        raise VerificationError("webhook-id has a character in it that no id has")
    timestamp = _timely(stamp, tolerance)
    if not _is_signed(secrets, message_id, timestamp, bytes(body), signatures):
        raise VerificationError("no signature fits: another secret, or the body was changed on its way")
    # Until it is too old by itself; it may have come from a clock that is ahead.
    if remember and not remember(f"webhook:{message_id}:{timestamp}", 2 * tolerance + 1):
        raise VerificationError(f"the request {message_id} of {timestamp} was here already")
    return message_id


def _header(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name)
    if not value:
        raise VerificationError(f"the header {name} is missing")
    return value


def _timely(stamp: str, tolerance: float) -> int:
    if not re.fullmatch("[1-9][0-9]{0,11}", stamp):  # as it is signed: no other spelling of the number
        raise VerificationError("webhook-timestamp is not a number of seconds")
    timestamp = int(stamp)
    if abs(time.time() - timestamp) > tolerance:
        raise VerificationError(f"the request is more than {tolerance:g} s old, or ahead; or a clock is wrong")
    return timestamp


def _is_signed(secrets: Sequence[str], message_id: str, timestamp: int, body: bytes, signatures: str) -> bool:
    expected = [signing.standard_signature(one, message_id, timestamp, body).encode() for one in secrets]
    given = [one.encode("utf-8", "replace") for one in signatures.split(" ")]
    # All are compared, each in constant time: how long it takes tells nothing.
    return sum(hmac.compare_digest(one, other) for one in expected for other in given) > 0


class ReplayWindow:
    """Remembers keys in this process alone. Threads may share it."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._lock = threading.Lock()

    def __call__(self, key: str, seconds: float) -> bool:
        """Whether the key was not there; it is kept for so many seconds."""
        now = time.monotonic()
        with self._lock:
            if self._until.get(key, 0) > now:
                return False
            self._until.pop(key, None)
            self._until[key] = now + seconds
            self._forget(now)
            return True

    def _forget(self, now: float) -> None:
        """Drop what is over; the oldest stand first."""
        while self._until:
            oldest = next(iter(self._until))
            if self._until[oldest] > now:
                return
            del self._until[oldest]
