"""Authentication that looks at the answer, and sends the request again."""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import threading
import time
from asyncio import CancelledError
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import requests
from requests.auth import AuthBase, HTTPBasicAuth, HTTPDigestAuth
from requests.utils import parse_dict_header

from tests.support.draining import drain, states
from tests.support.inbox import Inbox
from tests.support.makers import make_event, make_webhook
from tests.support.servers import free_port
from tests.testapp.models import Thing
from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.outcome import Outcome
from webhooks.ground.text.redaction import REDACTED
from webhooks.models import Attempt, Event, Webhook
from webhooks.operations import trial
from webhooks.workers.network import loop
from webhooks.workers.network.answer import Answer
from webhooks.workers.network.attempt import Request
from webhooks.workers.network.auth import STRATEGIES, Credentials, authenticate, exchange, strategies
from webhooks.workers.network.auth.strategies import Strategy, with_secrets

PAGE = Path(__file__).resolve().parents[2] / "docs" / "webhooks.md"
EXAMPLE = re.compile(r"^```python\n([^`]*HTTPDigestAuth[^`]*)^```", re.MULTILINE)
CHALLENGE = 'Digest realm="hooks", nonce="%s", qop="auth", algorithm=SHA-256'


class Sent(NamedTuple):
    headers: Message
    body: bytes
    client: tuple[str, int]


class Receiver(ThreadingHTTPServer):
    """Answers each request as ``answer`` does, which gets the handler and the number of the request. ``server_close``
    waits until everything that was sent has been read."""

    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[Sent] = []
        self.answer: Callable[[Handler, int], None] = verify_digest
        self.url = f"http://127.0.0.1:{self.server_port}/hook?a=1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Receiver

    def handle(self) -> None:
        with suppress(OSError):  # the worker closed the connection
            super().handle()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(Sent(self.headers, body, self.client_address))
        self.server.answer(self, len(self.server.requests))

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def verify_digest(request: Handler, number: int) -> None:
    """RFC 7616 for the user jane with the password "digest password"."""
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    sent = parse_dict_header(text) if scheme == "Digest" else {}
    user, path = sha256("jane:hooks:digest password"), sha256(f"{request.command}:{request.path}")
    if sent:
        proof = sha256(f"{user}:{sent['nonce']}:{sent['nc']}:{sent['cnonce']}:auth:{path}")
        if sent["response"] == proof:
            request.reply(200, b"welcome")
            return
    request.reply(401, b"who are you?", WWW_Authenticate=CHALLENGE % secrets.token_hex(8))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as opened:
        threading.Thread(target=opened.serve_forever, daemon=True).start()
        yield opened
        opened.shutdown()


basic = HTTPBasicAuth("jane", "pw")


def digest(password: str = "digest password") -> HTTPDigestAuth:
    """A new one: it remembers the nonce of its receiver."""
    return HTTPDigestAuth("jane", password)


def with_hook(hook: Callable[..., Any]) -> Any:
    def auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.register_hook("response", hook)
        return request

    return auth


def again(response: requests.Response, **headers: str) -> requests.Response:
    """Send the same request with more headers."""
    request = response.request.copy()
    request.headers.update(headers)
    sent: requests.Response = response.connection.send(request)  # type: ignore[attr-defined]
    return sent


def origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def add_auth(request: Request) -> Request:
    """The request with credentials, of a webhook without secret headers."""
    return authenticate(request, Credentials(request.url, str, True))


@pytest.fixture
def send(webhooks_settings: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Send to the receiver with code for its host."""

    def send(auth: Any, timeout: float = 20, **headers: str) -> Outcome:
        monkeypatch.setitem(globals(), "chosen", auth)
        webhooks_settings(AUTH={origin_of(receiver.url): f"{__name__}.chosen"})
        return exchange(add_auth(Request(receiver.url, {"X-A": "1", **headers}, b'{"a":1}', timeout)))

    return send


@pytest.mark.usefixtures("database")
def test_the_digest_of_the_page_is_sent_in_one_attempt(
    receiver: Receiver, webhooks_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    [example] = EXAMPLE.findall(PAGE.read_text())
    monkeypatch.setenv("CMDB_PASSWORD", "digest password")
    module: dict[str, Any] = {}
    exec(example, module)
    monkeypatch.setitem(globals(), "chosen", module["digest"])
    webhooks_settings(AUTH={origin_of(receiver.url): f"{__name__}.chosen"})
    make_event(make_webhook(Thing, url=receiver.url))
    drain()
    assert states() == ["succeeded"]
    first, second = receiver.requests
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert ("Authorization" in first.headers, "Authorization" in second.headers) == (False, True)
    attempt = Attempt.objects.get()
    assert (attempt.status, attempt.response_body) == (200, "welcome")
    assert attempt.request_headers["Authorization"] == REDACTED
    assert bytes.fromhex(attempt.body_sha256) == hashlib.sha256(second.body).digest()
    assert second.headers["Authorization"] not in str(list(Attempt.objects.values()))


class Tokens(Strategy):
    """Gets another token after a 401, as OAuth 2 does."""

    name = "tokens"

    def applies(self, credentials: Credentials) -> bool:
        return credentials.url.startswith("http://127.0.0.1")

    def auth_flow(self, request: Request, credentials: Credentials) -> Generator[Request, Answer, None]:
        answer = yield with_secrets(request, "Authorization: Bearer an-old-token")
        if answer.status == 401:
            yield with_secrets(request, "Authorization: Bearer a-new-token")


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("valid", ["an-old-token", "a-new-token"])
def test_a_strategy_is_a_class_and_a_row(receiver: Receiver, monkeypatch: pytest.MonkeyPatch, valid: str) -> None:
    monkeypatch.setitem(STRATEGIES, Tokens.name, Tokens())
    receiver.answer = lambda request, number: request.reply(
        200 if request.headers["Authorization"] == f"Bearer {valid}" else 401
    )
    make_event(make_webhook(Thing, url=receiver.url, secret_headers="X-Key: a-long-key"))
    drain()
    assert states() == ["succeeded"]
    tokens = ["an-old-token", "a-new-token"]
    assert [one.headers["Authorization"] for one in receiver.requests] == [
        f"Bearer {token}" for token in tokens[: tokens.index(valid) + 1]
    ]
    assert {one.headers["X-Key"] for one in receiver.requests} == {"a-long-key"}
    attempt = Attempt.objects.get()
    assert (attempt.request_headers["Authorization"], attempt.request_headers["X-Key"]) == (REDACTED, REDACTED)


@pytest.mark.usefixtures("database")
def test_receivers_that_hang_keep_no_template_and_no_token_waiting(
    receiver: Receiver, inbox: Inbox, webhooks_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setitem(globals(), "chosen", digest())
    quick = inbox.url().replace("127.0.0.1", "localhost")
    webhooks_settings(AUTH={origin_of(receiver.url): f"{__name__}.chosen", origin_of(quick): f"{__name__}.basic"})
    receiver.answer = lambda request, number: released.wait(60) and verify_digest(request, number)
    slow = [make_webhook(Thing, url=receiver.url, body_template="{{ sequence }}", timeout=30) for _ in range(6)]
    make_event(*slow, make_webhook(Thing, url=quick), make_webhook(Thing, url=quick, body_template="{{ sequence }}"))
    release = threading.Thread(target=lambda: inbox.wait_for(2) and released.set())
    release.start()
    drain()
    release.join()
    assert states() == ["succeeded"] * 8
    assert {one.headers["authorization"] for one in inbox.received()} == {"Basic amFuZTpwdw=="}


def test_a_test_of_a_webhook_sees_the_answer(
    receiver: Receiver, webhooks_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "chosen", digest())
    webhooks_settings(AUTH={origin_of(receiver.url): f"{__name__}.chosen"})
    request = add_auth(Request(receiver.url, {}, b"{}", 20))
    outcome = trial.send(trial.Trial(Event(), True, "", request), Webhook(), user=None)
    assert (outcome.status, outcome.body, len(receiver.requests)) == (200, "welcome", 2)


def test_a_handshake_keeps_its_connection(receiver: Receiver, send: Any) -> None:
    """As NTLM: three requests, and the connection is authenticated."""

    def answer(request: Handler, number: int) -> None:
        status = 200 if request.headers.get("Authorization") == "Steps 2" else 401
        request.reply(status, b"x" * 5000, WWW_Authenticate=f"Steps {number}", Set_Cookie=f"step={number}; Path=/")

    def hook(response: requests.Response, **_: Any) -> requests.Response:
        history = [response]
        while history[-1].status_code == 401:
            assert history[-1].content == b"x" * 5000
            history[-1].raw.release_conn()
            history.append(again(history[-1], Authorization=history[-1].headers["www-authenticate"]))
        assert [one.cookies["step"] for one in history] == ["1", "2", "3"]
        return history[-1]

    receiver.answer = answer
    outcome = send(with_hook(hook))
    assert (outcome.succeeded, outcome.body, outcome.has_connected) == (True, "x" * 5000, True)
    assert len(receiver.requests) == 3
    assert len({one.client for one in receiver.requests}) == 1
    assert outcome.request.headers["Authorization"] == REDACTED


def test_a_receiver_that_refuses_for_ever_is_asked_twice(receiver: Receiver, send: Any) -> None:
    outcome = send(digest("wrong"))
    assert (outcome.status, outcome.kind, outcome.body) == (401, ErrorKind.HTTP_401, "who are you?")
    assert len(receiver.requests) == 2


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [
        (302, {"Location": "/other"}, ErrorKind.REDIRECT),
        (410, {}, ErrorKind.HTTP_410),
        (429, {"Retry_After": "7"}, ErrorKind.HTTP_429),
        (503, {"Retry_After": "7"}, ErrorKind.HTTP_503),
    ],
)
def test_the_last_answer_counts(receiver: Receiver, send: Any, status: int, headers: Any, kind: ErrorKind) -> None:
    def answer(request: Handler, number: int) -> None:
        if number == 1:
            verify_digest(request, number)
        else:
            request.reply(status, b"no", **headers)

    receiver.answer = answer
    outcome = send(digest())
    assert (outcome.status, outcome.kind, len(receiver.requests)) == (status, kind, 2)
    assert outcome.retry_after == (7 if "Retry_After" in headers else None)


class Clock:
    """The monotonic clock of the deadlines. A test may put it forward."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead

    def skip(self, seconds: float) -> None:
        self._ahead += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (loop, strategies):
        monkeypatch.setattr(module, "time", made)
    return made


def test_all_requests_share_one_deadline(receiver: Receiver, send: Any, clock: Clock) -> None:
    released = threading.Event()

    def answer(request: Handler, number: int) -> None:
        verify_digest(request, number) if number == 1 else released.wait(60)

    class Late(HTTPDigestAuth):
        def handle_401(self, r: requests.Response, **kwargs: Any) -> requests.Response:
            clock.skip(59)
            return super().handle_401(r, **kwargs)  # type: ignore[no-any-return]

    receiver.answer = answer
    began = time.monotonic()
    outcome = send(Late("jane", "digest password"), timeout=60)
    assert time.monotonic() - began < 30, "the second request has a second left, not a minute of its own"
    released.set()
    assert (outcome.kind, outcome.reason, outcome.timed_out) == (
        ErrorKind.ANSWER_TIMEOUT, "no answer within 60 s", True,
    )  # fmt: skip
    assert outcome.request.headers["Authorization"] == REDACTED, "the second request was the last one"


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_receiver_that_drips_ends_at_the_deadline(receiver: Receiver, send: Any, part: str) -> None:
    def answer(request: Handler, number: int) -> None:
        if number == 1:
            verify_digest(request, number)
            return
        request.wfile.write(
            b"HTTP/1.1 200 OK\r\n" + (b"Content-Length: 9000\r\n\r\n" if part == "body" else b"X-Long: ")
        )
        while True:
            request.wfile.write(b"x")
            time.sleep(0.1)

    receiver.answer = answer
    outcome = send(digest(), timeout=2)
    assert (outcome.timed_out, outcome.succeeded) == (True, False)
    assert outcome.status == (200 if part == "body" else None)


def test_code_that_sends_for_ever_ends_at_the_deadline(receiver: Receiver, send: Any) -> None:
    def hook(response: requests.Response, **_: Any) -> requests.Response:
        while True:
            again(response)
            time.sleep(0.01)  # or a fast machine reads too many bytes before the deadline

    outcome = send(with_hook(hook), timeout=1)
    assert (outcome.reason, outcome.timed_out) == ("no answer within 1 s", True)


def test_nothing_is_sent_after_the_deadline(receiver: Receiver, send: Any, clock: Clock) -> None:
    def hook(response: requests.Response, **_: Any) -> requests.Response:
        clock.skip(60)
        with pytest.raises(requests.RequestException):
            again(response)
        return response

    outcome = send(with_hook(hook), timeout=60)
    receiver.server_close()
    assert (outcome.status, len(receiver.requests)) == (401, 1)


def test_huge_answers_are_cut_off_for_code_too(receiver: Receiver, send: Any) -> None:
    def answer(request: Handler, number: int) -> None:
        body = b"x" * 30_000_000
        request.reply(401 if number == 1 else 200, body, WWW_Authenticate=CHALLENGE % "huge")

    seen = []

    class Digest(HTTPDigestAuth):
        def handle_401(self, r: requests.Response, **kwargs: Any) -> requests.Response:
            seen.append(len(r.content))
            return super().handle_401(r, **kwargs)  # type: ignore[no-any-return]

    receiver.answer = answer
    outcome = send(Digest("jane", "digest password"))
    assert (outcome.succeeded, outcome.body, seen) == (True, "x" * 8192, [8192])


def test_a_flood_of_headers_is_too_large(receiver: Receiver, send: Any) -> None:
    def answer(request: Handler, number: int) -> None:
        if number == 1:
            verify_digest(request, number)
            return
        request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while True:
            request.wfile.write(b"x" * 65536)

    receiver.answer = answer
    assert send(digest()).kind == ErrorKind.ANSWER_TOO_LARGE


def test_bytes_behind_an_answer_are_not_the_next_answer(receiver: Receiver, send: Any) -> None:
    is_read, is_written = threading.Event(), threading.Event()

    def answer(request: Handler, number: int) -> None:
        verify_digest(request, number)
        if number == 1:
            assert is_read.wait(30)
            request.reply(201, b"evil")
            is_written.set()

    class SlowDigest(HTTPDigestAuth):
        def handle_401(self, r: requests.Response, **kwargs: Any) -> requests.Response:
            is_read.set()
            assert is_written.wait(30)
            return super().handle_401(r, **kwargs)  # type: ignore[no-any-return]

    receiver.answer = answer
    outcome = send(SlowDigest("jane", "digest password"))
    assert (outcome.status, outcome.body) == (200, "welcome")
    assert len({one.client for one in receiver.requests}) == 2


def leave(response: requests.Response, **_: Any) -> requests.Response:
    """Send the request to another host."""
    request = response.request.copy()
    request.url = "http://127.0.0.2:9/elsewhere"
    sent: requests.Response = response.connection.send(request)  # type: ignore[attr-defined]
    return sent


def fail(response: requests.Response, **_: Any) -> None:
    raise LookupError(f"a secret: {response.headers}")


def time_out(response: requests.Response, **_: Any) -> None:
    """As code does that waits in vain for a token."""
    raise TimeoutError


def cancel(response: requests.Response, **_: Any) -> None:
    raise CancelledError


REPLACES = "it may only set headers, and changed the method, URL or body"


@pytest.mark.parametrize(
    ("hook", "reason"),
    [
        (fail, "LookupError, see the worker's log"),
        (time_out, "TimeoutError, see the worker's log"),
        (cancel, "CancelledError, see the worker's log"),
        (leave, REPLACES),
        (lambda response, **_: "a text", "its hook must return a response to the request"),
        (lambda response, **_: requests.Response(), "its hook must return a response to the request"),
        (lambda response, **_: again(response, Host="other.example.com"), "ValueError, see the worker's log"),
        (lambda response, **_: again(response, X_B="1\r\nX-C: 2"), "it sets a header with a line break in it"),
    ],
    ids=["raises", "times out", "cancelled", "other host", "text", "other response", "reserved header", "two lines"],
)
def test_a_hook_that_fails_or_does_more_is_refused(
    receiver: Receiver, send: Any, caplog: pytest.LogCaptureFixture, hook: Any, reason: str
) -> None:
    with caplog.at_level(logging.ERROR):
        outcome = send(with_hook(hook))
    assert (outcome.kind, outcome.status, outcome.timed_out) == (ErrorKind.AUTH, None, False)
    assert outcome.reason == f"{__name__}.chosen failed: {reason}"
    assert len(receiver.requests) == 1
    [record] = caplog.records
    assert record.getMessage().startswith(f"The authentication by {__name__}.chosen failed for http://127.0.0.1:")


def test_a_forbidden_address_is_blocked(receiver: Receiver, send: Any, webhooks_settings: Any) -> None:
    webhooks_settings(ALLOW_NETWORKS=[])
    outcome = send(digest())
    assert (outcome.kind, receiver.requests) == (ErrorKind.BLOCKED, [])


def test_a_receiver_that_is_down_is_the_reason(receiver: Receiver, send: Any) -> None:
    receiver.url = f"http://127.0.0.1:{free_port()}/"
    outcome = send(digest())
    assert (outcome.kind, outcome.reason) == (ErrorKind.REFUSED, "connection refused")


def test_credentials_that_the_receiver_repeats_are_hidden(receiver: Receiver, send: Any) -> None:
    def answer(request: Handler, number: int) -> None:
        if number == 1:
            verify_digest(request, number)
        else:
            request.reply(403, request.headers["Authorization"].encode())

    receiver.answer = answer
    outcome = send(digest())
    assert outcome.status == 403
    assert 'response="' not in outcome.body


class KeepAlive(AuthBase):
    """Asks to keep the connection, as NTLM does."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Connection"] = "Keep-Alive"
        request.register_hook("response", lambda response, **_: None)
        return request


def test_a_hook_may_only_look(receiver: Receiver, send: Any) -> None:
    outcome = send(KeepAlive())
    assert (outcome.status, outcome.kind) == (401, ErrorKind.HTTP_401)
    assert "Connection" not in receiver.requests[0].headers
