"""Checks both signatures of a request as a receiver would, without the code that made them."""

from __future__ import annotations

import base64
import hashlib
import hmac

from demo.inbox import Post


def are_right(post: Post, secret: str) -> bool:
    """Whether ``webhook-signature`` (Standard Webhooks) and ``X-Hook-Signature`` (NetBox) fit the body."""
    body = post.body.encode()
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{post.webhook_id}.{post.headers['webhook-timestamp']}.".encode() + body
    standard = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    netbox = hmac.new(secret.encode(), body, hashlib.sha512).hexdigest()
    return (
        post.headers["webhook-signature"] == f"v1,{standard}" and post.headers["x-hook-signature"] == netbox
    )
