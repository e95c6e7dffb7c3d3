"""Each failure over real sockets has its kind, with a cause and a remedy."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from tests.support.inbox import Inbox, flood, raw
from tests.support.proxy import proxy
from tests.support.sending import Transport
from tests.support.servers import free_port
from tests.support.threads import Beside
from webhooks.ground.error_kinds import KINDS, ErrorKind, kind_of_status
from webhooks.workers.network.attempt import Request
from webhooks.workers.network.loop import Socket


def kind_of(url: str, timeout: float = 5, **fields: Any) -> str:
    """The kind of a request, which must have failed exactly if there is one."""
    transport = Transport()
    outcome = transport.send(Request(url, {}, b"{}", timeout, **fields))
    transport.close()
    assert bool(outcome.kind) == bool(outcome.reason) != outcome.succeeded
    return outcome.kind


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        ("ok", ""),
        ("status/401", ErrorKind.HTTP_401),
        ("status/403", ErrorKind.HTTP_403),
        ("status/404", ErrorKind.HTTP_404),
        ("status/410", ErrorKind.HTTP_410),
        ("status/413", ErrorKind.HTTP_413),
        ("status/418", ErrorKind.HTTP_4XX),
        ("status/429", ErrorKind.HTTP_429),
        ("status/500", ErrorKind.HTTP_500),
        ("status/503", ErrorKind.HTTP_503),
        ("status/599", ErrorKind.HTTP_5XX),
        ("redirect/302/ok", ErrorKind.REDIRECT),
        (raw(b"HTTP/1.1 304 Not Modified\r\n\r\n"), ErrorKind.HTTP_OTHER),
        ("garbage", ErrorKind.INVALID_HTTP),
        (flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), ErrorKind.ANSWER_TOO_LARGE),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnone"), ""),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"), ErrorKind.INVALID_HTTP),
        (raw(b"HTTP/1.1 410 Gone\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n"), ErrorKind.HTTP_410),
    ],
)
def test_an_answer_has_its_kind(inbox: Inbox, behaviour: str, kind: str) -> None:
    assert kind_of(inbox.url(behaviour)) == kind


def test_a_late_answer_and_a_late_body_are_answer_timeouts(inbox: Inbox) -> None:
    assert {kind_of(inbox.url(one), timeout=2) for one in ("hang", "drip-body")} == {ErrorKind.ANSWER_TIMEOUT}


def test_connections_that_fail_have_their_kinds(inbox: Inbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    assert kind_of(f"http://127.0.0.1:{free_port()}/") == ErrorKind.REFUSED
    assert kind_of("http://169.254.169.254/") == ErrorKind.BLOCKED
    assert kind_of(inbox.url().replace("http:", "https:"), verify=str(tmp_path)) == ErrorKind.CA_FILE
    assert kind_of_answer("http", b"") == ErrorKind.CLOSED
    assert kind_of_answer("https", b"HTTP/1.1 400 Bad Request\r\n\r\n") == ErrorKind.TLS
    for number, kind in (
        (errno.EHOSTUNREACH, ErrorKind.UNREACHABLE),
        (errno.EMFILE, ErrorKind.RESOURCES),
        (errno.EADDRNOTAVAIL, ErrorKind.CONNECTION_FAILED),
    ):
        monkeypatch.setattr(Socket, "connect", lambda *args, number=number: raise_error(number))
        assert kind_of(inbox.url()) == kind


def kind_of_answer(scheme: str, answer: bytes) -> str:
    """The kind of a request to a server that answers the first bytes with these, and closes the connection."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        serving = Beside(serve)
        kind = kind_of(f"{scheme}://127.0.0.1:{server.getsockname()[1]}/")
        serving.join()
    return kind


def raise_error(number: int) -> None:
    raise OSError(number, "no")


def fail_to_look_up() -> list[str]:
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


def test_a_name_that_does_not_exist_is_not_a_resolver_that_fails(names: dict[str, Any]) -> None:
    assert kind_of("http://nothing.example/") == ErrorKind.NAME_UNKNOWN
    names["nothing.example"] = fail_to_look_up
    assert kind_of("http://nothing.example/") == ErrorKind.RESOLVER


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", ErrorKind.PROXY),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", ErrorKind.PROXY_TARGET),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", ErrorKind.PROXY_TARGET),
        (b"", ErrorKind.PROXY_TARGET),
    ],
)
def test_a_proxy_that_refuses_the_worker_is_not_one_that_cannot_reach_the_receiver(
    webhooks_settings: Any, inbox: Inbox, answer: bytes, kind: ErrorKind
) -> None:
    with proxy(lambda client: client.sendall(answer)) as server:
        webhooks_settings(PROXY=server.url)
        assert kind_of(inbox.url()) == kind


def test_a_proxy_that_cannot_be_reached_has_its_kind(webhooks_settings: Any, inbox: Inbox) -> None:
    for url in (f"http://127.0.0.1:{free_port()}", "http://proxy.invalid:3128"):
        webhooks_settings(PROXY=url)
        assert kind_of(inbox.url()) == ErrorKind.PROXY


@pytest.mark.parametrize("kind", ErrorKind)
def test_a_kind_has_a_short_text_and_two_sentences_that_name_the_receiver(kind: ErrorKind) -> None:
    assert KINDS[kind.value] is kind
    assert len(kind.value) <= 30
    for sentence in (kind.cause(), kind.remedy(), kind.cause("https://h.example"), kind.remedy("https://h.example")):
        assert sentence.endswith(".")
        assert "{" not in sentence
    assert not kind.label.endswith(".")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (101, "http_other"),
        (304, "http_other"),
        (400, "http_4xx"),
        (404, "http_404"),
        (502, "http_502"),
        (501, "http_5xx"),
    ],
)
def test_a_status_has_its_own_kind_or_that_of_its_class(status: int, kind: str) -> None:
    assert kind_of_status(status).value == kind
