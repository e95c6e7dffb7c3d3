"""Connections go only to judged addresses, directly and through a proxy."""

from __future__ import annotations

import errno
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.certificates import Certificate, make_certificate
from tests.support.inbox import Inbox, ReceiverProcess
from tests.support.json_process import run_module
from tests.support.proxy import Proxy, proxy
from tests.support.sending import Transport
from tests.support.servers import free_port
from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.outcome import Outcome
from webhooks.workers.network import connect
from webhooks.workers.network.attempt import Request
from webhooks.workers.network.loop import Socket

Change = Callable[..., None]
Names = dict[str, Any]

BODY = b'{"a":1}'


def send(transport: Transport, url: str, timeout: float = 5, **fields: Any) -> Outcome:
    return transport.send(Request(url, {"Content-Type": "application/json"}, BODY, timeout, **fields))


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that the app tries to connect to. All refuse, so no packet leaves this machine."""
    addresses: list[str] = []

    def connect(sock: socket.socket, address: Any) -> None:
        addresses.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(Socket, "connect", connect)
    return addresses


# Addresses and policy


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1/", "127.0.0.1 is loopback, where nothing is sent"),
        ("http://localhost/", "localhost resolves to a forbidden address: "),
        ("http://LOCALHOST./", "the name does not resolve"),
        ("http://2130706433/", "2130706433 resolves to a forbidden address: 127.0.0.1 is loopback"),
        ("http://0x7f.1/", "0x7f.1 resolves to a forbidden address: 127.0.0.1 is loopback"),
        ("http://0177.0.0.1/", "0177.0.0.1 resolves to a forbidden address: 127.0.0.1 is loopback"),
        ("http://127.1/", "127.1 resolves to a forbidden address: 127.0.0.1 is loopback"),
        ("http://0/", "0 resolves to a forbidden address: 0.0.0.0 is unspecified"),
        ("http://0xa9fea9fe/", "0xa9fea9fe resolves to a forbidden address: 169.254.169.254 is a cloud metadata"),
        ("http://[::1]/", "::1 is loopback"),
        ("http://[::]/", ":: is unspecified"),
        ("http://[::ffff:127.0.0.1]/", "means 127.0.0.1, which is loopback"),
        ("http://[::ffff:7f00:1]/", "means 127.0.0.1, which is loopback"),
        ("http://[64:ff9b::a9fe:a9fe]/", "means 169.254.169.254, which is a cloud metadata address"),
        ("http://[2002:7f00:1::]/", "2002:7f00:1:: is reserved"),
        ("http://[fe80::1%25lo]/", "fe80::1 is link-local"),
        ("http://user:password@127.0.0.1/", "127.0.0.1 is loopback"),
        ("http://example.com@127.0.0.1/", "127.0.0.1 is loopback"),
        ("https://169.254.169.254/", "169.254.169.254 is a cloud metadata address"),
    ],
)
def test_a_forbidden_destination_fails_without_a_connection(
    transport: Transport, webhooks_settings: Change, dialled: list[str], url: str, reason: str
) -> None:
    webhooks_settings(ALLOW_NETWORKS=[])
    outcome = send(transport, url)
    assert reason in outcome.reason
    assert (outcome.status, outcome.timed_out, dialled) == (None, False, [])


@pytest.mark.parametrize(
    "address", ["10.1.2.3", "192.168.0.1", "172.16.0.1", "100.64.0.1", "fd12::1", "8.8.8.8", "::ffff:10.1.2.3"]
)
def test_private_networks_are_allowed_unless_denied(
    transport: Transport, webhooks_settings: Change, names: Names, dialled: list[str], address: str
) -> None:
    names["hooks.example"] = [address]
    assert send(transport, "http://hooks.example/").reason == "connection refused"
    assert len(dialled) == 1
    webhooks_settings(DENY_PRIVATE=True)
    outcome = send(transport, "http://hooks.example/")
    assert (address == "8.8.8.8") == (outcome.reason == "connection refused")
    assert len(dialled) == 1 + (address == "8.8.8.8")


@pytest.mark.parametrize("bad", ["127.0.0.1", "::1", "169.254.169.254", "fe80::1", "0.0.0.0", "fd00:ec2::254"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_name_with_one_forbidden_address_is_refused(
    transport: Transport, webhooks_settings: Change, names: Names, dialled: list[str], bad: str, place: int
) -> None:
    webhooks_settings(ALLOW_NETWORKS=[])
    names["hooks.example"] = ["10.0.0.1", "fd12::1"]
    names["hooks.example"].insert(place, bad)
    outcome = send(transport, "http://hooks.example/")
    assert outcome.reason.startswith(f"hooks.example resolves to a forbidden address: {bad} is ")
    assert dialled == []


def test_every_address_of_a_name_is_tried_in_turn(transport: Transport, names: Names, inbox: Inbox) -> None:
    names["hooks.example"] = ["127.9.9.9", "127.0.0.1"]
    assert send(transport, inbox.url().replace("127.0.0.1", "hooks.example")).succeeded


def test_a_dead_address_leaves_time_for_the_next_one(transport: Transport, names: Names, inbox: Inbox) -> None:
    port = urlsplit(inbox.url()).port
    with socket.create_server(("127.9.9.9", port or 0), backlog=0) as full, ExitStack() as fillers:
        for _ in range(4):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        names["hooks.example"] = ["127.9.9.9", "127.0.0.1"]
        outcome = send(transport, inbox.url().replace("127.0.0.1", "hooks.example"), timeout=4)
        names["dead.example"] = ["127.9.9.9", "127.9.9.9"]
        dead = send(transport, inbox.url().replace("127.0.0.1", "dead.example"), timeout=0.5)
    assert outcome.succeeded, outcome.reason
    assert 1900 < outcome.duration_ms < 4000
    assert (dead.reason, dead.timed_out) == ("no connection within 0.5 s", True)
    assert 450 < dead.duration_ms < 20_000


def test_a_dead_address_is_tried_last_for_a_while(
    transport: Transport, names: Names, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    dead = {"127.9.9.7"}
    real = Socket.connect

    def dial(sock: socket.socket, address: Any) -> None:
        tried.append(address[0])
        if address[0] in dead:
            raise TimeoutError("timed out")
        real(sock, address)

    monkeypatch.setattr(Socket, "connect", dial)
    names["hooks.example"] = ["127.9.9.7", "127.0.0.1"]
    url = inbox.url().replace("127.0.0.1", "hooks.example")
    assert [send(transport, url, connects=True).succeeded for _ in range(3)] == [True] * 3
    assert tried == ["127.9.9.7", *["127.0.0.1"] * 3]
    tried.clear()
    monkeypatch.setattr(connect, "_dead", dict.fromkeys(connect._dead, 0.0))
    assert send(transport, url, connects=True).succeeded
    assert tried == ["127.9.9.7", "127.0.0.1"], "later, it is tried first again"
    dead.add("127.0.0.1")
    tried.clear()
    assert send(transport, url, connects=True).kind == ErrorKind.CONNECT_TIMEOUT
    assert tried == ["127.0.0.1", "127.9.9.7"], "if all are dead, all are tried"


def test_if_no_address_accepts_the_error_of_the_last_one_counts(
    transport: Transport, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = {
        "127.9.9.1": TimeoutError("timed out"),
        "127.9.9.2": ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
    }

    def connect(sock: socket.socket, address: Any) -> None:
        raise errors[address[0]]

    monkeypatch.setattr(Socket, "connect", connect)
    for names["hooks.example"], kind in (
        (["127.9.9.1", "127.9.9.2"], ErrorKind.REFUSED),
        (["127.9.9.2", "127.9.9.1"], ErrorKind.CONNECT_TIMEOUT),
    ):
        outcome = send(transport, "http://hooks.example/")
        assert (outcome.kind, outcome.timed_out) == (kind, kind == ErrorKind.CONNECT_TIMEOUT)


def test_a_machine_without_ipv6_takes_the_ipv4_address(
    transport: Transport, names: Names, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WithoutIPv6(Socket):
        def __init__(self, family: int = socket.AF_INET, *args: Any, **kwargs: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *args, **kwargs)

    monkeypatch.setattr(connect, "Socket", WithoutIPv6)
    names["hooks.example"] = ["::1", "127.0.0.1"]
    assert send(transport, inbox.url().replace("127.0.0.1", "hooks.example")).succeeded


@pytest.mark.parametrize(
    ("rules", "url", "reason"),
    [
        ({"DENY_NETWORKS": ["127.0.0.0/30"]}, "http://127.0.0.1/", "is in 127.0.0.0/30"),
        ({"DENY_HOSTS": ["*.example"]}, "http://hooks.example./", 'hooks.example is denied by "*.example"'),
        ({"ALLOW_HOSTS": ["*.example"]}, "http://127.0.0.1/", "127.0.0.1 matches nothing in"),
        ({"ALLOW_PORTS": [443, "8000-8999"]}, "http://127.0.0.1/", "port 80 is not in"),
        ({"DENY_PORTS": ["1-1023"]}, "https://127.0.0.1/", "port 443 is denied by"),
        ({"ALLOW_SCHEMES": ["https"]}, "http://127.0.0.1/", "http:// is not in"),
        ({"ALLOW_PORTS": []}, "http://127.0.0.1/", "port 80 is not in"),
    ],
)
def test_settings_allow_and_deny_destinations(
    transport: Transport, webhooks_settings: Change, dialled: list[str], rules: dict[str, Any], url: str, reason: str
) -> None:
    webhooks_settings(**rules)
    outcome = send(transport, url)
    assert reason in outcome.reason
    assert dialled == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DENY_NETWORKS", ["10.0.0.0/33"]),
        ("ALLOW_NETWORKS", "127.0.0.0/8"),
        ("DENY_PRIVATE", "yes"),
        ("ALLOW_HOSTS", "*"),
        ("DENY_PORTS", [0]),
        ("ALLOW_SCHEMES", ["ftp"]),
        ("PROXY", "socks5://127.0.0.1:1080"),
    ],
)
def test_invalid_guard_settings_block_everything(
    transport: Transport, webhooks_settings: Change, inbox: Inbox, key: str, value: Any
) -> None:
    webhooks_settings(**{key: value})
    outcome = send(transport, inbox.url())
    assert outcome.reason == f'WEBHOOKS["{key}"] cannot be used, so nothing is sent: see manage.py check'
    assert inbox.received() == []


def test_a_changed_setting_counts_at_once_despite_the_cache(
    webhooks_settings: Change, transport: Transport, inbox: Inbox, settings: Any
) -> None:
    webhooks_settings(DENY_NETWORKS=["10.0.0.0/8"])
    assert connect.why_blocked(inbox.url()) == ""
    settings.WEBHOOKS["DENY_NETWORKS"].append("127.0.0.0/8")
    assert "is in 127.0.0.0/8" in connect.why_blocked(inbox.url())
    assert "is in 127.0.0.0/8" in send(transport, inbox.url()).reason


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
def test_a_system_that_gives_no_socket_is_a_fault_of_our_own(
    transport: Transport, inbox: Inbox, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def connect(sock: socket.socket, address: Any) -> None:
        raise OSError(number, "no more")

    monkeypatch.setattr(Socket, "connect", connect)
    assert send(transport, inbox.url()).kind == ErrorKind.RESOURCES


# DNS rebinding


def test_dns_rebinding_between_two_lookups_reaches_nothing_forbidden(
    transport: Transport, webhooks_settings: Change, inbox: Inbox, names: Names
) -> None:
    webhooks_settings(ALLOW_NETWORKS=["127.0.0.1"])
    url = inbox.url().replace("127.0.0.1", "rebind.example")
    lookups = iter([["127.0.0.1"], ["127.0.0.2"]])
    names["rebind.example"] = lambda: next(lookups)
    # One lookup serves the check and the connection.
    assert send(transport, url).succeeded
    # A kept connection needs no new lookup.
    assert send(transport, url).succeeded
    outcome = send_once(url)
    assert outcome.reason.startswith("rebind.example resolves to a forbidden address: 127.0.0.2 is loopback")
    assert len(inbox.received()) == 2


def test_dns_rebinding_after_saving_is_refused(
    transport: Transport, webhooks_settings: Change, dialled: list[str], names: Names
) -> None:
    webhooks_settings(ALLOW_NETWORKS=[])
    lookups = iter([["10.0.0.1"], ["127.0.0.1", "10.0.0.1"]])
    names["rebind.example"] = lambda: next(lookups)
    assert connect.why_blocked("http://rebind.example/") == ""
    outcome = send(transport, "http://rebind.example/")
    assert "127.0.0.1 is loopback" in outcome.reason
    assert dialled == []


# When a webhook is saved


def test_a_name_with_a_forbidden_address_is_refused_when_saved(webhooks_settings: Change, names: Names) -> None:
    names["hooks.example"] = ["10.0.0.1", "169.254.169.254"]
    assert connect.why_blocked("https://hooks.example/in").startswith("hooks.example resolves to a forbidden address: ")
    webhooks_settings(DENY_PRIVATE=True)
    assert "10.0.0.1 is private" in connect.why_blocked("https://hooks.example/in")


def test_a_name_that_does_not_resolve_may_be_saved() -> None:
    assert connect.why_blocked("https://not-yet.example/") == ""


def test_a_silent_name_server_delays_saving_only_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(connect, "RESOLVE_SECONDS", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: over.wait(10) and [])
    started = time.monotonic()
    assert connect.why_blocked("https://slow.example/") == ""
    assert time.monotonic() - started < 8
    over.set()


def test_a_too_long_label_fails_at_once(transport: Transport) -> None:
    started = time.monotonic()
    outcome = send(transport, f"http://{'a' * 64}.example/")
    assert time.monotonic() - started < 4
    assert not outcome.timed_out
    assert outcome.reason


def test_saving_judges_a_url_like_sending_does(webhooks_settings: Change) -> None:
    assert connect.why_blocked("http://127.0.0.1:8000/") == ""
    webhooks_settings(ALLOW_NETWORKS=[])
    assert connect.why_blocked("http://127.0.0.1:8000/").startswith("127.0.0.1 is loopback")
    assert connect.why_blocked("http://0x7f.1/").startswith('"0x7f.1" is an odd way')
    webhooks_settings(DENY_NETWORKS=["no network"])
    assert "cannot be used" in connect.why_blocked("https://1.1.1.1/")


# The environment


def test_environment_proxies_and_netrc_passwords_are_ignored(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("default login root password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    with proxy() as server:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, server.url)
        fresh = Transport()
        assert send(fresh, inbox.url()).succeeded
        fresh.close()
        assert server.requests == []
    assert "authorization" not in inbox.received()[0].headers


# TLS


class TLSReceiver:
    """Answers each request on a new connection. ``names`` has the names from SNI."""

    def __init__(self, certificate: Certificate) -> None:
        self.names: list[str | None] = []
        self.heads: list[bytes] = []
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate.certificate, certificate.key)
        self._context.sni_callback = lambda sock, name, context: self.names.append(name)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._server.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(plain, server_side=True) as connection:
                    request = connection.recv(65536)
                    while not request.endswith(BODY):
                        request += connection.recv(65536)
                    self.heads.append(request)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            except OSError:
                plain.close()


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[Callable[..., tuple[TLSReceiver, str]]]:
    """Start a receiver with a certificate. Gives the receiver and the CA file."""
    started: list[TLSReceiver] = []

    def start(host: str | None, **options: Any) -> tuple[TLSReceiver, str]:
        certificate = make_certificate(tmp_path, host, **options)
        started.append(TLSReceiver(certificate))
        return started[-1], certificate.authority

    yield start
    for one in started:
        one.close()


@pytest.mark.parametrize(
    ("host", "sni", "header"),
    [
        ("hooks.example", "hooks.example", b"hooks.example"),
        ("HOOKS.Example", "hooks.example", b"hooks.example"),
        ("hooks.example.", "hooks.example", b"hooks.example"),
        ("bücher.example", "xn--bcher-kva.example", b"xn--bcher-kva.example"),
        ("127.0.0.1", None, b"127.0.0.1"),
    ],
)
def test_host_header_sni_and_certificate_use_the_name(
    transport: Transport, names: Names, tls: Any, host: str, sni: str | None, header: bytes
) -> None:
    receiver, authority = tls(sni or host)
    names |= {name: ["127.0.0.1"] for name in ("hooks.example", "hooks.example.", "xn--bcher-kva.example")}
    outcome = send(transport, f"https://{host}:{receiver.port}/", verify=authority)
    assert outcome.succeeded, outcome.reason
    assert receiver.names == [sni]
    assert b"\r\nHost: " + header + b":%d\r\n" % receiver.port in receiver.heads[0]


def test_a_certificate_for_another_name_is_refused(transport: Transport, names: Names, tls: Any) -> None:
    receiver, authority = tls("other.example")
    names["hooks.example"] = ["127.0.0.1"]
    outcome = send(transport, f"https://hooks.example:{receiver.port}/", verify=authority)
    assert outcome.reason.startswith("TLS certificate not trusted: ")
    assert "hooks.example" in outcome.reason
    assert receiver.heads == []


def test_a_certificate_for_the_address_is_not_enough_for_the_name(transport: Transport, names: Names, tls: Any) -> None:
    receiver, authority = tls("127.0.0.1")
    names["hooks.example"] = ["127.0.0.1"]
    outcome = send(transport, f"https://hooks.example:{receiver.port}/", verify=authority)
    assert outcome.reason.startswith("TLS certificate not trusted: ")


def test_a_common_name_is_no_name_of_a_certificate(transport: Transport, names: Names, tls: Any) -> None:
    """RFC 9525. A certificate authority may not have checked it."""
    receiver, authority = tls(None, common_name="hooks.example")
    names["hooks.example"] = ["127.0.0.1"]
    outcome = send(transport, f"https://hooks.example:{receiver.port}/", verify=authority)
    assert outcome.reason.startswith("TLS certificate not trusted: ")
    assert receiver.heads == []


def test_an_expired_certificate_is_refused(transport: Transport, names: Names, tls: Any) -> None:
    receiver, authority = tls("hooks.example", not_after=datetime(2020, 1, 1, tzinfo=UTC))
    names["hooks.example"] = ["127.0.0.1"]
    outcome = send(transport, f"https://hooks.example:{receiver.port}/", verify=authority)
    assert outcome.reason == "TLS certificate not trusted: certificate has expired"
    assert receiver.heads == []


# Through a proxy


def send_once(url: str, timeout: float = 5, **fields: Any) -> Outcome:
    with closing(Transport()) as transport:
        return send(transport, url, timeout, **fields)


@pytest.fixture
def through(webhooks_settings: Callable[..., None]) -> Iterator[Proxy]:
    with proxy() as server:
        webhooks_settings(PROXY=server.url)
        yield server


def named(url: str, name: str) -> str:
    return url.replace("127.0.0.1", name)


def test_the_proxy_gets_the_address_and_the_receiver_the_name(through: Proxy, inbox: Inbox, names: Names) -> None:
    names["hooks.example"] = ["127.0.0.1"]
    assert send_once(named(inbox.url(), "hooks.example")).succeeded
    port = inbox.url().split(":")[2].split("/")[0]
    assert through.requests == [f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"]
    [received] = inbox.received()
    assert (received.headers["host"], received.json) == (f"hooks.example:{port}", {"a": 1})
    assert "proxy-authorization" not in received.headers


def test_a_tunnel_is_kept_open(through: Proxy, inbox: Inbox) -> None:
    transport = Transport()
    for _ in range(3):
        assert transport.send(Request(inbox.url(), {}, b"{}", 5)).succeeded
    transport.close()
    assert len(through.requests) == 1
    assert len({one.connection for one in inbox.received()}) == 1


def test_a_connection_without_the_proxy_is_not_used_through_it(
    transport: Transport, inbox: Inbox, webhooks_settings: Callable[..., None]
) -> None:
    assert send(transport, inbox.url()).succeeded
    with proxy() as server:
        webhooks_settings(PROXY=server.url)
        assert send(transport, inbox.url()).succeeded
        assert len(server.requests) == 1


def test_the_certificate_is_checked_through_the_tunnel(through: Proxy, names: Names, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, "hooks.example")
    process = ReceiverProcess(certificate.certificate, certificate.key)
    try:
        names["hooks.example"] = names["other.example"] = ["127.0.0.1"]
        url = Inbox(process).url()
        right = send_once(named(url, "hooks.example"), verify=certificate.authority)
        wrong = send_once(named(url, "other.example"), verify=certificate.authority)
    finally:
        process.stop()
    assert right.succeeded, right.reason
    assert wrong.reason.startswith("TLS certificate not trusted: ")
    assert "other.example" in wrong.reason
    assert through.targets == [f"127.0.0.1:{process.port}"] * 2


@pytest.mark.parametrize("address", ["169.254.169.254", "0.0.0.0", "::1", "::ffff:169.254.169.254"])
def test_the_proxy_never_gets_a_forbidden_address(
    through: Proxy, names: Names, webhooks_settings: Callable[..., None], address: str
) -> None:
    webhooks_settings(ALLOW_NETWORKS=["127.0.0.0/8"])
    names["hooks.example"] = [address]
    outcome = send_once("http://hooks.example/")
    assert outcome.reason.startswith("hooks.example resolves to a forbidden address: ")
    assert "where nothing is sent" in outcome.reason
    assert through.requests == []


def test_dns_rebinding_does_not_pass_the_proxy(through: Proxy, inbox: Inbox, names: Names) -> None:
    lookups = iter([["127.0.0.1"], ["169.254.169.254"]])
    names["rebind.example"] = lambda: next(lookups)
    assert send_once(named(inbox.url(), "rebind.example")).succeeded
    outcome = send_once(named(inbox.url(), "rebind.example"))
    assert outcome.reason.startswith(
        "rebind.example resolves to a forbidden address: 169.254.169.254 is a cloud metadata address"
    )
    assert [target.split(":")[0] for target in through.targets] == ["127.0.0.1"]


def test_the_next_address_is_tried_if_the_proxy_fails(through: Proxy, inbox: Inbox, names: Names) -> None:
    names["hooks.example"] = ["127.1.2.3", "127.0.0.1"]  # the receiver listens on the second one only
    assert send_once(named(inbox.url(), "hooks.example")).succeeded
    assert [target.split(":")[0] for target in through.targets] == ["127.1.2.3", "127.0.0.1"]


class Deaf(Proxy):
    """Never answers for one address."""

    def _tunnel(self, client: socket.socket, target: str) -> None:
        if target.startswith("127.9.9.9:"):
            client.recv(1)
        else:
            super()._tunnel(client, target)


def test_a_dead_address_behind_a_proxy_leaves_time_for_the_next_one(
    webhooks_settings: Callable[..., None], inbox: Inbox, names: Names
) -> None:
    names["hooks.example"] = ["127.9.9.9", "127.0.0.1"]
    names["dead.example"] = ["127.9.9.9", "127.9.9.9"]
    with closing(Deaf()) as server:
        webhooks_settings(PROXY=server.url)
        outcome = send_once(named(inbox.url(), "hooks.example"), timeout=4)
        dead = send_once(named(inbox.url(), "dead.example"), timeout=0.5)
    assert outcome.succeeded, outcome.reason
    assert dead.timed_out


def test_an_ipv6_address_has_brackets_in_connect(through: Proxy) -> None:
    port = free_port()
    outcome = send_once(f"http://[::1]:{port}/")
    assert through.targets == [f"[::1]:{port}"]
    assert outcome.reason.endswith("it answers: HTTP/1.1 502 Bad Gateway")


def test_only_the_proxy_gets_its_credentials(webhooks_settings: Callable[..., None], inbox: Inbox) -> None:
    with proxy() as server:
        webhooks_settings(PROXY=f"http://me:p%40ss@127.0.0.1:{server.port}/")
        assert send_once(inbox.url()).succeeded
    assert "Proxy-Authorization: Basic bWU6cEBzcw==\r\n" in server.requests[0]
    assert "proxy-authorization" not in inbox.received()[0].headers


def test_a_proxy_that_repeats_its_credentials_does_not_get_them_stored(
    webhooks_settings: Callable[..., None], inbox: Inbox
) -> None:
    echo = b"HTTP/1.1 407 Not bWU6cEBzcw== nor p@ss\r\n\r\n"
    with proxy(lambda client: client.sendall(echo)) as server:
        webhooks_settings(PROXY=f"http://me:p%40ss@127.0.0.1:{server.port}/")
        assert send_once(inbox.url()).reason.endswith("it answers: HTTP/1.1 407 Not ******** nor ********")


@pytest.mark.parametrize(
    ("answer", "actual"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nno!!", "HTTP/1.1 403 Forbidden"),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "HTTP/1.1 407 Proxy Authentication Required"),
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", "HTTP/1.1 401 Unauthorized"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\n\r\n", "HTTP/1.1 302 Found"),
        (b"", "nothing"),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "SSH-2.0-OpenSSH_9.9"),
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nx", "HTTP/1.1 200 OK"),
        (b"HTTP/1.1 200 " + b"x" * 100_000, "HTTP/1.1 200 " + "x" * 187),
        (b"\xff\x00\xfe" * 9 + b"\r\n\r\n", ""),
    ],
)
def test_the_reason_quotes_the_proxys_answer(
    webhooks_settings: Callable[..., None], inbox: Inbox, answer: bytes, actual: str
) -> None:
    with proxy(lambda client: client.sendall(answer)) as server:
        webhooks_settings(PROXY=server.url)
        outcome = send_once(inbox.url())
    does = "refuses the worker" if answer[9:12] in (b"401", b"407") else "does not connect to 127.0.0.1:"
    start = f"the proxy 127.0.0.1:{server.port} {does}"
    assert outcome.reason.startswith(start), outcome.reason
    assert outcome.reason.partition("it answers: ")[2].startswith(actual)
    assert outcome.kind == (ErrorKind.PROXY if "refuses" in does else ErrorKind.PROXY_TARGET)
    assert inbox.received() == []


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\n\n",
        b"HTTP/1.1  204\nVia: tests\n\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_the_tunnel_of_an_odd_proxy_is_used(
    through: Proxy, inbox: Inbox, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr(through, "opened", answer)
    assert send_once(inbox.url()).reason == ""


@pytest.mark.parametrize("answer", [b"HTTP/1.1 2000 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n0\r\n\r\n"])
def test_no_tunnel_is_used_after_other_answers(
    through: Proxy, inbox: Inbox, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr(through, "opened", answer)
    assert send_once(inbox.url()).kind == ErrorKind.PROXY_TARGET
    assert inbox.received() == []


def test_an_unreachable_proxy_is_named_in_the_reason(webhooks_settings: Callable[..., None], inbox: Inbox) -> None:
    port = free_port()
    webhooks_settings(PROXY=f"http://127.0.0.1:{port}")
    outcome = send_once(inbox.url())
    assert outcome.reason == f"the proxy 127.0.0.1:{port} refuses connections"


def test_an_unresolvable_proxy_is_named_in_the_reason(webhooks_settings: Callable[..., None], inbox: Inbox) -> None:
    webhooks_settings(PROXY="http://proxy.example:3128")
    outcome = send_once(inbox.url())
    assert outcome.reason == "the proxy proxy.example:3128 cannot be reached: Name or service not known"


def test_a_hanging_or_dripping_proxy_ends_at_the_deadline(webhooks_settings: Callable[..., None], inbox: Inbox) -> None:
    def drip(client: Any) -> None:
        for _ in range(100):
            client.sendall(b"H")
            time.sleep(0.1)

    for answer in (lambda client: time.sleep(10), drip):
        with proxy(answer) as server:
            webhooks_settings(PROXY=server.url)
            started = time.monotonic()
            outcome = send_once(inbox.url(), timeout=0.5)
        assert time.monotonic() - started < 8
        assert outcome.timed_out


# The system's own resolver and real sockets, in a network where every forbidden address would answer


UNSHARE = ["unshare", "--map-root-user", "--mount", "--net"]


def is_possible() -> bool:
    try:
        return subprocess.run([*UNSHARE, "true"], capture_output=True, timeout=60, check=False).returncode == 0
    except OSError:
        return False


needs_own_network = pytest.mark.skipif(not is_possible(), reason="this system does not allow unshare")


@dataclass
class Case:
    """``zone`` has the addresses of each lookup; ``reached`` and ``reasons`` are the expected results."""

    title: str
    url: str
    reached: list[str]
    reasons: list[str]
    zone: dict[str, list[list[str]]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


META = "is a cloud metadata address"
LOOP = "is loopback"


def name(*lookups: list[str]) -> dict[str, list[list[str]]]:
    return {"hooks.example": list(lookups)}


URL = "http://hooks.example/"
CASES = [
    Case("a private address is reached", URL, ["10.0.0.1"], [""], name(["10.0.0.1"])),
    Case("and by IPv6", URL, ["fd12::1"], [""], name(["fd12::1"])),
    Case("private ones may be denied", URL, [], ["is private"], name(["10.0.0.1"]), {"DENY_PRIVATE": True}),
    Case("public ones then are not", URL, ["8.8.8.8"], [""], name(["8.8.8.8"]), {"DENY_PRIVATE": True}),
    Case("rebinding to metadata", URL, ["10.0.0.1"], ["", META, META], name(["10.0.0.1"], ["169.254.169.254"])),
    Case("rebinding to loopback", URL, ["10.0.0.1"], ["", LOOP], name(["10.0.0.1"], ["127.0.0.1"])),
    Case("rebinding to IPv6", URL, ["10.0.0.1"], ["", LOOP], name(["10.0.0.1"], ["::1"])),
    Case("rebinding back", URL, ["10.0.0.1"], [LOOP, ""], name(["127.0.0.1"], ["10.0.0.1"])),
    Case("one bad address among good ones", URL, [], [META], name(["10.0.0.1", "10.0.0.2", "169.254.169.254"])),
    Case("a bad IPv6 beside a good IPv4", URL, [], [LOOP], name(["10.0.0.1", "::1"])),
    Case("a bad IPv4 beside a good IPv6", URL, [], [LOOP], name(["fd12::1", "127.0.0.1"])),
    Case("AWS by IPv6", URL, [], [META], name(["fd00:ec2::254"])),
    Case("Alibaba", URL, [], [META], name(["100.100.100.200"])),
    Case("mapped loopback", URL, [], [LOOP], name(["::ffff:127.0.0.1"])),
    Case("metadata behind NAT64", URL, [], [META], name(["64:ff9b::a9fe:a9fe"])),
    Case("a private one behind NAT64", URL, ["64:ff9b::a00:1"], [""], name(["64:ff9b::a00:1"])),
    Case("local NAT64", URL, [], ["is reserved"], name(["64:ff9b:1::7f00:1"])),
    Case("6to4", URL, [], ["is reserved"], name(["2002:7f00:1::1"])),
    Case("unspecified", URL, [], ["is unspecified"], name(["0.0.0.0"])),
    Case("unspecified by IPv6", URL, [], ["is unspecified"], name(["::"])),
    Case("no such name", URL, [], ["the name does not resolve"]),
    Case("a redirect to metadata", URL + "redirect", ["10.0.0.1"], ["HTTP 302: redirects"], name(["10.0.0.1"])),
    Case("metadata that is allowed", URL, ["169.254.169.254"], [""], name(["169.254.169.254"]),
         {"ALLOW_NETWORKS": ["169.254.169.254"]}),
    Case("the address itself", "http://169.254.169.254/latest/meta-data/", [], [META]),
    Case("a number", "http://2852039166/", [], [META]),
    Case("hexadecimal", "http://0xa9.0xfe.0xa9.0xfe/", [], [META]),
    Case("octal and short", "http://0177.1/", [], [LOOP]),
    Case("octal and short, allowed", "http://0177.1/", ["127.0.0.1"], [""], settings={"ALLOW_NETWORKS": ["127.0.0.1"]}),
    Case("mapped", "http://[::ffff:169.254.169.254]/", [], [META]),
    Case("in full-width digits", "http://１６９.254.169.254/", [], ["InvalidURL"]),
    Case("with user info", "http://hooks.example@169.254.169.254/", [], [META], name(["10.0.0.1"])),
]  # fmt: skip


@needs_own_network
def test_only_judged_addresses_are_reached() -> None:
    given = [
        {"url": case.url, "zone": case.zone, "settings": case.settings, "times": len(case.reasons)} for case in CASES
    ]
    results = run_module("tests.support.isolated_network", given, *UNSHARE)
    wrong = [
        f"{case}: {result}" for case, result in zip(CASES, results, strict=True) if not is_as_expected(case, result)
    ]
    assert not wrong, "\n".join(wrong)


def is_as_expected(case: Case, result: dict[str, Any]) -> bool:
    given = zip(result["reasons"], case.reasons, strict=True)
    are_reasons_right = all((wanted in actual) if wanted else actual == "" for actual, wanted in given)
    # One lookup for each attempt, of each type: the check and the connection share it.
    asks = bool(case.zone) and "@" not in case.url
    once = {"hooks.example 1": len(case.reasons), "hooks.example 28": len(case.reasons)}
    return result["reached"] == case.reached and are_reasons_right and (not asks or result["asked"] == once)
