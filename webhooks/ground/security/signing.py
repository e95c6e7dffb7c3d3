"""Signatures of requests: sign them, and verify them in a receiver. Needs neither Django nor a setting.

``webhook-signature`` follows Standard Webhooks (https://www.standardwebhooks.com), "Verifying webhook authenticity".
``X-Hook-Signature`` is the header of NetBox: the hex HMAC-SHA512 of the body, keyed with the secret as text.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence

PREFIX = "whsec_"

TOLERANCE = 300  # seconds


def key_of(secret: str) -> bytes:
    """The HMAC key of a secret: base64 after ``whsec_``, otherwise the secret as UTF-8.

    The base64 may lack the padding at its end, as in the reference library of Standard Webhooks. Raises ValueError for
    a ``whsec_`` secret that is not base64 or has no key.
    """
    if not secret.startswith(PREFIX):
        return secret.encode()
    try:
        text = secret.removeprefix(PREFIX)
        padding = "" if "=" in text else "=" * (-len(text) % 4)
        key = base64.b64decode(text + padding, validate=True)
    except ValueError as error:
        raise ValueError(f"a secret that begins with {PREFIX} must go on in base64: {error}") from error
    if not key:
        # An attacker can guess the empty key.
        raise ValueError(f"a secret that begins with {PREFIX} must go on in base64: nothing follows")
    return key


def standard_signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """``v1,`` and the base64 HMAC-SHA256 of ``{id}.{timestamp}.{body}``. ``timestamp`` is in UTC seconds since 1970."""
    signature = _standard_hmac(secret).copy()
    signature.update(f"{message_id}.{timestamp}.".encode())
    signature.update(body)
    return "v1," + base64.b64encode(signature.digest()).decode()


def netbox_signature(secret: str, body: bytes) -> str:
    """The hex HMAC-SHA512 of the body."""
    signature = _netbox_hmac(secret).copy()
    signature.update(body)
    return signature.hexdigest()


# To copy an HMAC that has its key takes half as long as to start with the key. ``hmac.digest`` would also give up the
# interpreter to another thread each time.


@functools.lru_cache(maxsize=256)
def _standard_hmac(secret: str) -> hmac.HMAC:
    return hmac.new(key_of(secret), digestmod=hashlib.sha256)


@functools.lru_cache(maxsize=256)
def _netbox_hmac(secret: str) -> hmac.HMAC:
    return hmac.new(secret.encode(), digestmod=hashlib.sha512)


def headers(secret: str, message_id: str, timestamp: int, body: bytes, *, previous: str = "") -> dict[str, str]:
    """The headers that identify and sign one attempt. Without a secret there are no signatures.

    With a ``previous`` secret, ``webhook-signature`` has two signatures. ``X-Hook-Signature`` has room for one only.
    """
    identified = {"webhook-id": message_id, "webhook-timestamp": str(timestamp)}
    if not secret:
        return identified
    secrets = [secret, previous] if previous else [secret]
    return {
        **identified,
        "webhook-signature": " ".join(standard_signature(secret, message_id, timestamp, body) for secret in secrets),
        "X-Hook-Signature": netbox_signature(secret, body),
    }


class VerificationError(Exception):
    """The request is not authentic. The message is for a log: send the sender a status such as 401 only."""


def verify(
    body: bytes,
    headers: Mapping[str, str],
    secret: str | Sequence[str],
    *,
    tolerance: float = TOLERANCE,
    remember: Callable[[str, float], bool] | None = None,
) -> str:
    """Return the ``webhook-id`` of a request that is signed with ``secret``, or with one of several secrets.

    ``body`` is the body in bytes, before any parsing. The case of ``headers`` does not matter. The timestamp of the
    request may differ from this clock by ``tolerance`` seconds. ``remember`` refuses a request that an attacker
    sends again. Pass a ``ReplayWindow``, or in Django ``lambda key, seconds: cache.add(key, True, seconds)``. The
    sender's own retries have the same id but a new timestamp, so they pass: store the ids that you have handled.

    Raises VerificationError if the request is not authentic, ValueError without a secret or with a negative tolerance,
    and TypeError if the body is not bytes.
    """
    if not isinstance(body, bytes | bytearray | memoryview):
        raise TypeError("verify the body in bytes, as it was received: parsing may change it")
    secrets = [secret] if isinstance(secret, str) else list(secret)
    if not secrets or not all(secrets):
        raise ValueError("a request cannot be verified without a secret")
    if not tolerance >= 0:
        raise ValueError("the tolerance must be a number of seconds, 0 or more")
    given = {name.lower(): value for name, value in headers.items()}
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        if not given.get(name):
            raise VerificationError(f"the header {name} is missing")
    message_id = given["webhook-id"]
    if "." in message_id or not message_id.isascii():
        # The signed text joins its parts with dots. With a dot in the id, part of the body could pass as the timestamp.
        raise VerificationError("webhook-id has an invalid character")
    if not re.fullmatch("[1-9][0-9]{0,11}", given["webhook-timestamp"]):  # exactly the spelling that is signed
        raise VerificationError("webhook-timestamp is not a number of seconds")
    timestamp = int(given["webhook-timestamp"])
    if abs(time.time() - timestamp) > tolerance:
        raise VerificationError(f"the timestamp is more than {tolerance:g} s off: an old request, or a wrong clock")
    expected = [standard_signature(secret, message_id, timestamp, bytes(body)).encode() for secret in secrets]
    signatures = [signature.encode("utf-8", "replace") for signature in given["webhook-signature"].split(" ")]
    # Compare all of them, each in constant time, so that the duration reveals nothing.
    if not sum(hmac.compare_digest(candidate, other) for candidate in expected for other in signatures):
        raise VerificationError("no signature matches: the secret differs, or the body was changed")
    # A sender's clock may be ahead: until the timestamp is too old, twice the tolerance may pass.
    if remember and not remember(f"webhook:{message_id}:{timestamp}", 2 * tolerance + 1):
        raise VerificationError(f"the request {message_id} of {timestamp} was received before")
    return message_id


class ReplayWindow:
    """Remembers keys in the memory of this process. Threads may share it."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._lock = threading.Lock()

    def __call__(self, key: str, seconds: float) -> bool:
        """Remember a key for ``seconds``. Returns False if it is remembered already."""
        now = time.monotonic()
        with self._lock:
            if self._until.get(key, 0) > now:
                return False
            self._until.pop(key, None)
            self._until[key] = now + seconds
            while self._until[oldest := next(iter(self._until))] <= now:
                del self._until[oldest]
            return True
