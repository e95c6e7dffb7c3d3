"""Signatures of a request body. Pure: bytes in, header values out.

``webhook-signature`` follows Standard Webhooks (https://www.standardwebhooks.com), "Verifying webhook
authenticity"; ``X-Hook-Signature`` is what NetBox's receivers check.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

PREFIX = "whsec_"


def key_of(secret: str) -> bytes:
    """The key that a secret stands for: ``whsec_`` + base64 is decoded, anything else is taken as UTF-8.

    Raises ValueError for a ``whsec_`` secret that is not base64.
    """
    if not secret.startswith(PREFIX):
        return secret.encode()
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except ValueError as error:
        raise ValueError(f"a secret that begins with {PREFIX} must go on in base64: {error}") from error
    if not key:
        # Everybody knows the empty key.
        raise ValueError(f"a secret that begins with {PREFIX} must go on in base64: nothing follows")
    return key


def standard_signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """``v1,`` and the base64 HMAC-SHA256 of ``{id}.{timestamp}.{body}``; ``timestamp`` in UTC seconds since 1970."""
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    return "v1," + base64.b64encode(hmac.digest(key_of(secret), signed, hashlib.sha256)).decode()


def hook_signature(secret: str, body: bytes) -> str:
    """Hex HMAC-SHA512 of the body, keyed with the secret as it is written, as NetBox computes it."""
    return hmac.digest(secret.encode(), body, hashlib.sha512).hex()


def headers(secret: str, message_id: str, timestamp: int, body: bytes, *, previous: str = "") -> dict[str, str]:
    """The headers that identify and sign one attempt; without a secret there is an id and a time, but no signature.

    The ``previous`` secret signs, too. X-Hook-Signature has room for one signature only: the new secret's.
    """
    identified = {"webhook-id": message_id, "webhook-timestamp": str(timestamp)}
    if not secret:
        return identified
    secrets = [secret, previous] if previous else [secret]
    return {
        **identified,
        "webhook-signature": " ".join(standard_signature(one, message_id, timestamp, body) for one in secrets),
        "X-Hook-Signature": hook_signature(secret, body),
    }
