"""A webhook for a while, with a receiver in this process: for ``webhooks_listen`` and ``webhooks_doctor``."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from django.contrib.contenttypes.models import ContentType

from webhooks.ground.security.encryption import Secret
from webhooks.ground.security.signing import VerificationError, verify
from webhooks.models import Attempt, Delivery, State, Webhook
from webhooks.models.webhook import ACTION_FIELDS
from webhooks.operations.webhooks import delete_webhooks, ping, save_webhook
from webhooks.workers.network import connect
from webhooks.workers.network.receiver import LOOPBACK, ReceivedRequest, serving

LOOK_EVERY = 0.1  # seconds


class NotAllowed(Exception):
    """Nothing may be sent to the receiver. The text says which setting forbids it."""


def own_address() -> str:
    """The address of this machine from which it reaches others. Sends nothing. Loopback if it has no route, or if
    webhooks may be sent only there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address for examples, RFC 5737
        except OSError:
            return LOOPBACK
        found = str(probe.getsockname()[0])
    is_blocked, is_loopback_blocked = (connect.why_blocked(f"http://{host}/") for host in (found, LOOPBACK))
    return LOOPBACK if is_blocked and not is_loopback_blocked else found


@contextmanager
def temporary_webhook(name: str, url: str, object_types: Iterable[ContentType] | None, user: Any) -> Iterator[Webhook]:
    """A webhook of all changes of these models, with a new secret. It is deleted with its deliveries at the end. None:
    it gets no changes, only tests, and is not in the history.

    One of the same name is what a killed process has left, so it is deleted first. Raises what ``save_webhook`` raises,
    such as ValidationError if nothing may be sent to the URL.
    """
    secret = Secret(secrets.token_urlsafe(32))
    values: dict[str, Any] = {"name": name, "payload_url": url, "secret": secret, **dict.fromkeys(ACTION_FIELDS, True)}
    delete_webhooks(Webhook.objects.filter(name=name), user)
    if object_types is None:
        webhook = Webhook.objects.create(**values)
    else:
        webhook = save_webhook(Webhook(), values, object_types, user)
    try:
        yield webhook
    finally:
        delete_webhooks(Webhook.objects.filter(pk=webhook.pk), user if object_types is not None else None)


def make_round_trip(host: str, seconds: float, user: Any) -> str:
    """Record a test event, wait until a worker sends it to a receiver on this address of this machine, and verify its
    signature. Returns why that failed within ``seconds``; empty if it did not.

    Raises NotAllowed, and OSError if no receiver can listen there."""
    received, problems = threading.Event(), [""]
    secret = [""]

    def receive(request: ReceivedRequest) -> int:
        try:
            verify(request.body, request.headers, secret[0])
        except VerificationError as error:
            problems.append(f"The receiver cannot verify the request: {error}.")
        received.set()
        return 204

    with serving(receive, host) as origin:
        if reason := connect.why_blocked(origin):
            raise NotAllowed(reason)
        with temporary_webhook(f"webhooks_doctor {origin}", f"{origin}/", None, user) as webhook:
            secret[0] = webhook.secret.reveal()
            event = ping(webhook)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                delivery = Delivery.objects.filter(event=event).first()
                if received.is_set() and delivery and delivery.state == State.SUCCEEDED:
                    return problems[-1]
                time.sleep(LOOK_EVERY)
            return _why_late(event.pk, seconds)


def _why_late(event: int, seconds: float) -> str:
    delivery = Delivery.objects.filter(event=event).first()
    if delivery is None:
        return f"No worker took the test event within {seconds:g} s. Does one run, with the settings of this site?"
    attempt = Attempt.objects.filter(delivery=delivery).order_by("-number").first()
    if attempt is None:
        return f"A worker took the test event, and did not send it within {seconds:g} s."
    return f"A worker could not send the test event to this machine: {attempt.reason}."
