from __future__ import annotations

import json
import signal
import threading
import time
from argparse import ArgumentTypeError
from contextlib import ExitStack, suppress
from errno import EADDRINUSE
from socket import gethostname
from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser

from webhooks.ground import registry
from webhooks.ground.conf import conf
from webhooks.ground.security.signing import VerificationError, verify
from webhooks.ground.text import one_line
from webhooks.insight.alarms.causes import NO_WORKERS
from webhooks.insight.status import read_status
from webhooks.management.base import DatabaseCommand
from webhooks.models.permissions import Operator
from webhooks.operations.round_trip import temporary_webhook
from webhooks.workers.network.receiver import LOOPBACK, ReceivedRequest, serving

PORT = 9000
MAX_DELAY = 3600


def status_code(text: str) -> int:
    if not (text.isdecimal() and 200 <= int(text) <= 599):
        raise ArgumentTypeError(f"{text} is no status of HTTP: give 200 to 599")
    return int(text)


def port(text: str) -> int:
    if not (text.isdecimal() and len(text) < 6 and int(text) < 65536):
        raise ArgumentTypeError(f"{text} is no port: give 0 to 65535")
    return int(text)


def delay(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (seconds := float(text)) <= MAX_DELAY:
            return seconds
    raise ArgumentTypeError(f"{text} is no delay: give 0 to {MAX_DELAY} seconds")


class Command(DatabaseCommand):
    help = (
        "Receives webhooks on this machine and prints each as it comes. With --register it defines a webhook for "
        "itself, and deletes it at Ctrl-C. It can also fail, delay, hang or say that it is gone, to see what the app "
        "does then."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--register", nargs="+", metavar="MODEL", help="Models such as dcim.site: get their changes."
        )
        parser.add_argument("--secret", help="The secret of the webhook: verify each request with it.")
        parser.add_argument("--host", default=LOOPBACK, help=f"The address to listen on. The default is {LOOPBACK}.")
        parser.add_argument(
            "--port", type=port, default=PORT, help=f"The port. The default is {PORT}; 0 is a free one."
        )
        parser.add_argument("--body", action="store_true", help="Print the whole body, too.")
        trouble = parser.add_mutually_exclusive_group()
        trouble.add_argument("--status", type=status_code, default=204, help="Answer with this status, such as 500.")
        trouble.add_argument("--gone", action="store_const", dest="status", const=410, help="Answer 410: I am gone.")
        trouble.add_argument("--hang", action="store_true", help="Never answer.")
        parser.add_argument("--delay", type=delay, default=0, metavar="SECONDS", help="Answer only after so long.")

    def handle(self, *args: Any, **options: Any) -> None:
        self._secret, self._printing = options["secret"] or "", threading.Lock()
        self._options = options
        _handle_signals(_interrupt)
        with ExitStack() as stack:
            try:
                origin = stack.enter_context(serving(self._receive, options["host"], options["port"]))
            except OSError as error:
                remedy = "Try --port 0" if error.errno == EADDRINUSE else "Give an IPv4 address of this machine"
                place = f"{options['host']}, port {options['port']}"
                raise CommandError(f"Nothing can listen on {place}: {error.strerror}. {remedy}.") from None
            try:
                self._begin(stack, origin)
                while True:
                    time.sleep(3600)
            except KeyboardInterrupt:
                _handle_signals(signal.SIG_IGN)  # a second one must not keep the webhook
                self._print("Stopped.")

    def _begin(self, stack: ExitStack, origin: str) -> None:
        if labels := self._options["register"]:
            if not conf.enabled:
                raise CommandError('Webhooks are off. Set WEBHOOKS = {"ENABLED": True, …}.')
            # This process listens there now, so a webhook of this name belongs to none.
            operator, name = Operator("webhooks_listen"), f"webhooks_listen {origin} of {gethostname()}"
            try:
                webhook = stack.enter_context(temporary_webhook(name, f"{origin}/", _types(labels), operator))
            except ValidationError as error:
                raise CommandError(" ".join(error.messages)) from None
            self._secret = webhook.secret.reveal()
            for alarm in read_status(operator).problems:
                if alarm.problem in NO_WORKERS:
                    self._print(f"No worker runs. Start one: {alarm.command}")
            self._print(f"Change {' or '.join(labels)}: it is sent to {origin}/. Ctrl-C deletes this webhook again.")
        else:
            self._print(f"Waiting for requests to {origin}/. Ctrl-C ends it.")

    def _receive(self, request: ReceivedRequest) -> int | None:
        verdict = self._verdict(request)
        try:
            payload = json.loads(request.body)
        except ValueError:
            payload = None
        with self._printing:
            self._print(f"{time.strftime('%H:%M:%S')} {request.method} {request.path} {verdict}: {_about(payload)}")
            if self._options["body"]:
                body = request.body.decode(errors="replace") if payload is None else json.dumps(payload, indent=2)
                self.stdout.write("\n".join(map(one_line, body.splitlines())))
        if self._options["hang"]:
            threading.Event().wait()
        time.sleep(self._options["delay"])
        return int(self._options["status"])

    def _verdict(self, request: ReceivedRequest) -> str:
        if not self._secret:
            return "not verified"
        try:
            verify(request.body, request.headers, self._secret)
        except VerificationError as error:
            return f"REFUSED ({error})"
        return "verified"

    def _print(self, text: str) -> None:
        self.stdout.write(one_line(text))
        self.stdout.flush()


def _handle_signals(handler: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):  # a shell ignores the last one in the background
        signal.signal(number, handler)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _types(labels: list[str]) -> list[ContentType]:
    try:
        return registry.object_types_of([label.lower() for label in labels])
    except registry.Unregistered as error:
        registered = ", ".join(registry.registered_models()) or "none"
        raise CommandError(f"Not registered: {error}. Registered are: {registered}.") from None


def _about(payload: Any) -> str:
    """Such as "updated dcim.site 5 “Oslo” (sequence 4711)"."""
    if not isinstance(payload, dict) or "event" not in payload:
        return "the body is no payload of a webhook, such as one from a template: --body shows it"
    data = payload.get("data")
    data = data if isinstance(data, dict) else {}
    words = [payload.get("event"), payload.get("object_type"), data.get("id")]
    name = data.get("display") or data.get("name")
    title = " ".join(str(word) for word in words if word not in (None, ""))
    sequence = f" (sequence {payload['sequence']})" if payload.get("sequence") else ""
    return f"{title}{f' “{name}”' if name else ''}{sequence}"
