"""Through a proxy of the tests' own: it is asked for addresses that were judged, and for nothing else."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import make_certificate
from tests.support.inbox import Inbox, ReceiverProcess
from tests.support.nameserver import name_server, resolve_at
from tests.support.proxy import Proxy, proxy
from tests.support.servers import free_port
from webhooks.network.outcome import Outcome
from webhooks.network.transport import Request, Transport

Names = dict[str, list[str]]


def send(url: str, timeout: float = 5, **fields: Any) -> Outcome:
    transport = Transport()
    try:
        return transport.send(Request(url, {"Content-Type": "application/json"}, b'{"a":1}', timeout, **fields))
    finally:
        transport.close()


@pytest.fixture
def through(webhooks_settings: Callable[..., None]) -> Iterator[Proxy]:
    with proxy() as server:
        webhooks_settings(PROXY=server.url)
        yield server


def named(url: str, name: str) -> str:
    return url.replace("127.0.0.1", name)


def test_a_name_is_asked_for_by_its_address_and_the_receiver_sees_the_name(
    through: Proxy, inbox: Inbox, names: Names
) -> None:
    names["hooks.example"] = ["127.0.0.1"]
    assert send(named(inbox.url(), "hooks.example")).succeeded
    port = inbox.url().split(":")[2].split("/")[0]
    assert through.requests == [f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"]
    [received] = inbox.received()
    assert (received.headers["host"], received.json) == (f"hooks.example:{port}", {"a": 1})
    assert "proxy-authorization" not in received.headers


def test_a_tunnel_is_kept_like_any_connection(through: Proxy, inbox: Inbox) -> None:
    transport = Transport()
    for _ in range(3):
        assert transport.send(Request(inbox.url(), {}, b"{}", 5)).succeeded
    transport.close()
    assert len(through.requests) == 1
    assert len({one.connection for one in inbox.received()}) == 1


def test_a_certificate_is_checked_for_the_name_through_the_tunnel(through: Proxy, names: Names, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, "hooks.example")
    process = ReceiverProcess(certificate.certificate, certificate.key)
    try:
        names["hooks.example"] = names["other.example"] = ["127.0.0.1"]
        url = Inbox(process).url()
        right = send(named(url, "hooks.example"), verify=certificate.authority)
        wrong = send(named(url, "other.example"), verify=certificate.authority)
    finally:
        process.stop()
    assert right.succeeded, right.reason
    assert wrong.reason.startswith("TLS certificate not trusted: ")
    assert "other.example" in wrong.reason
    assert through.targets == [f"127.0.0.1:{process.port}"] * 2


@pytest.mark.parametrize("address", ["169.254.169.254", "0.0.0.0", "::1", "::ffff:169.254.169.254"])
def test_the_proxy_is_not_asked_for_what_is_forbidden(
    through: Proxy, names: Names, webhooks_settings: Callable[..., None], address: str
) -> None:
    webhooks_settings(ALLOW_NETWORKS=["127.0.0.0/8"])
    names["hooks.example"] = [address]
    outcome = send("http://hooks.example/")
    assert outcome.reason.startswith("hooks.example resolves to a forbidden address: ")
    assert "where nothing is sent" in outcome.reason
    assert through.requests == []


def test_a_name_that_changes_meanwhile_makes_no_difference_to_the_proxy(
    through: Proxy, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    with name_server({"rebind.example": [["127.0.0.1"], ["169.254.169.254"]]}) as server:
        monkeypatch.setattr("socket.getaddrinfo", resolve_at(server))
        assert send(named(inbox.url(), "rebind.example")).succeeded
        outcome = send(named(inbox.url(), "rebind.example"))
    assert outcome.reason.startswith(
        "rebind.example resolves to a forbidden address: 169.254.169.254 is a cloud metadata address"
    )
    assert [target.split(":")[0] for target in through.targets] == ["127.0.0.1"]


def test_the_next_address_is_tried_where_the_proxy_does_not_get_through(
    through: Proxy, inbox: Inbox, names: Names
) -> None:
    names["hooks.example"] = ["127.1.2.3", "127.0.0.1"]  # the receiver listens on the second one only
    assert send(named(inbox.url(), "hooks.example")).succeeded
    assert [target.split(":")[0] for target in through.targets] == ["127.1.2.3", "127.0.0.1"]


class Deaf(Proxy):
    """Says nothing about one address, for as long as it is asked."""

    def _tunnel(self, client: socket.socket, target: str) -> None:
        if target.startswith("127.9.9.9:"):
            client.recv(1)
        else:
            super()._tunnel(client, target)


@pytest.mark.alone
def test_a_proxy_that_waits_for_a_dead_address_is_asked_for_the_next_one_in_time(
    webhooks_settings: Callable[..., None], inbox: Inbox, names: Names
) -> None:
    names["hooks.example"] = ["127.9.9.9", "127.0.0.1"]
    names["dead.example"] = ["127.9.9.9", "127.9.9.9"]
    with closing(Deaf()) as server:
        webhooks_settings(PROXY=server.url)
        outcome = send(named(inbox.url(), "hooks.example"), timeout=2)
        dead = send(named(inbox.url(), "dead.example"), timeout=1)
    assert outcome.succeeded, outcome.reason
    assert (dead.timed_out, dead.duration_ms < 2000) == (True, True)


def test_an_ipv6_address_is_asked_for_in_brackets(through: Proxy) -> None:
    port = free_port()
    outcome = send(f"http://[::1]:{port}/")
    assert through.targets == [f"[::1]:{port}"]
    assert outcome.reason.endswith("it answers: HTTP/1.1 502 Bad Gateway")


def test_user_and_password_go_to_the_proxy_alone(webhooks_settings: Callable[..., None], inbox: Inbox) -> None:
    with proxy() as server:
        webhooks_settings(PROXY=f"http://me:p%40ss@127.0.0.1:{server.port}/")
        assert send(inbox.url()).succeeded
    assert "Proxy-Authorization: Basic bWU6cEBzcw==\r\n" in server.requests[0]
    assert "proxy-authorization" not in inbox.received()[0].headers


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nno!!", "HTTP/1.1 403 Forbidden"),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "HTTP/1.1 407 Proxy Authentication Required"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\n\r\n", "HTTP/1.1 302 Found"),
        (b"", "nothing"),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "SSH-2.0-OpenSSH_9.9"),
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nx", "HTTP/1.1 200 OK"),
        (b"HTTP/1.1 200 " + b"x" * 100_000, "HTTP/1.1 200 " + "x" * 187),
        (b"\xff\x00\xfe" * 9 + b"\r\n\r\n", ""),
    ],
)
def test_what_a_proxy_answers_is_the_reason(
    webhooks_settings: Callable[..., None], inbox: Inbox, answer: bytes, told: str
) -> None:
    with proxy(lambda client: client.sendall(answer)) as server:
        webhooks_settings(PROXY=server.url)
        outcome = send(inbox.url())
    start = f"the proxy 127.0.0.1:{server.port} does not connect to 127.0.0.1:"
    assert outcome.reason.startswith(start), outcome.reason
    assert outcome.reason.partition("it answers: ")[2].startswith(told)
    assert inbox.received() == []


def test_a_proxy_that_is_not_there_is_a_reason(webhooks_settings: Callable[..., None], inbox: Inbox) -> None:
    port = free_port()
    webhooks_settings(PROXY=f"http://127.0.0.1:{port}")
    outcome = send(inbox.url())
    assert outcome.reason == f"the proxy 127.0.0.1:{port} cannot be reached: Connection refused"


def test_a_proxy_whose_name_does_not_resolve_is_a_reason(webhooks_settings: Callable[..., None], inbox: Inbox) -> None:
    webhooks_settings(PROXY="http://proxy.example:3128")
    outcome = send(inbox.url())
    assert outcome.reason == "the proxy proxy.example:3128 cannot be reached: Name or service not known"


@pytest.mark.alone
def test_a_proxy_that_hangs_or_drips_ends_in_time(webhooks_settings: Callable[..., None], inbox: Inbox) -> None:
    def drip(client: Any) -> None:
        for _ in range(100):
            client.sendall(b"H")
            time.sleep(0.1)

    for answer in (lambda client: time.sleep(10), drip):
        with proxy(answer) as server:
            webhooks_settings(PROXY=server.url)
            started = time.monotonic()
            outcome = send(inbox.url(), timeout=1)
        assert time.monotonic() - started < 2
        assert outcome.timed_out
