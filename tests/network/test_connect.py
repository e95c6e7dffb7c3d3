"""Names, addresses and connections: what was judged is what is dialled."""

from __future__ import annotations

import errno
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.certificates import Certificate, make_certificate
from tests.support.inbox import Inbox
from tests.support.nameserver import AAAA, A, name_server, resolve_at
from tests.support.proxy import proxy
from webhooks.network import connect, sockets
from webhooks.network.outcome import Outcome
from webhooks.network.transport import Request, Transport

Change = Callable[..., None]
Names = dict[str, list[str]]

BODY = b'{"a":1}'


@pytest.fixture
def transport() -> Iterator[Transport]:
    opened = Transport()
    yield opened
    opened.close()


def send(transport: Transport, url: str, timeout: float = 5, **fields: Any) -> Outcome:
    return transport.send(Request(url, {"Content-Type": "application/json"}, BODY, timeout, **fields))


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that are dialled; nobody is there, so no packet leaves this machine."""
    addresses: list[str] = []

    def connect(sock: socket.socket, address: Any) -> None:
        addresses.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(sockets.TimedSocket, "connect", connect)
    return addresses


# What is dialled


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
        ("http://[::ffff:127.0.0.1]/", "stands for 127.0.0.1, which is loopback"),
        ("http://[::ffff:7f00:1]/", "stands for 127.0.0.1, which is loopback"),
        ("http://[64:ff9b::a9fe:a9fe]/", "stands for 169.254.169.254, which is a cloud metadata address"),
        ("http://[2002:7f00:1::]/", "2002:7f00:1:: is reserved"),
        ("http://[fe80::1%25lo]/", "fe80::1 is link-local"),
        ("http://user:password@127.0.0.1/", "127.0.0.1 is loopback"),
        ("http://example.com@127.0.0.1/", "127.0.0.1 is loopback"),
        ("https://169.254.169.254/", "169.254.169.254 is a cloud metadata address"),
    ],
)
def test_a_forbidden_destination_is_a_failed_attempt_and_nothing_is_dialled(
    transport: Transport, webhooks_settings: Change, dialled: list[str], url: str, reason: str
) -> None:
    webhooks_settings(ALLOW_NETWORKS=[])
    outcome = send(transport, url)
    assert reason in outcome.reason
    assert (outcome.status, outcome.timed_out, dialled) == (None, False, [])


@pytest.mark.parametrize(
    "address", ["10.1.2.3", "192.168.0.1", "172.16.0.1", "100.64.0.1", "fd12::1", "8.8.8.8", "::ffff:10.1.2.3"]
)
def test_private_networks_are_dialled_unless_the_setting_denies_them(
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
def test_a_name_is_refused_when_any_of_its_addresses_is_forbidden(
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


@pytest.mark.alone
def test_a_dead_address_leaves_time_for_the_next_one(transport: Transport, names: Names, inbox: Inbox) -> None:
    port = urlsplit(inbox.url()).port
    with socket.create_server(("127.9.9.9", port or 0), backlog=0) as full, ExitStack() as fillers:
        for _ in range(4):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        names["hooks.example"] = ["127.9.9.9", "127.0.0.1"]
        outcome = send(transport, inbox.url().replace("127.0.0.1", "hooks.example"), timeout=2)
        names["dead.example"] = ["127.9.9.9", "127.9.9.9"]
        dead = send(transport, inbox.url().replace("127.0.0.1", "dead.example"), timeout=1)
    assert outcome.succeeded, outcome.reason
    assert 900 < outcome.duration_ms < 2000
    assert (dead.reason, dead.timed_out) == ("no answer within 1 s", True)
    assert 900 < dead.duration_ms < 2000


def test_a_machine_without_ipv6_takes_the_ipv4_address(
    transport: Transport, names: Names, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WithoutIPv6(sockets.TimedSocket):
        def __init__(self, family: int = socket.AF_INET, *args: Any, **kwargs: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *args, **kwargs)

    monkeypatch.setattr(sockets, "TimedSocket", WithoutIPv6)
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
def test_the_setting_allows_and_denies(
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
def test_nothing_is_sent_while_a_guard_cannot_be_used(
    transport: Transport, webhooks_settings: Change, inbox: Inbox, key: str, value: Any
) -> None:
    webhooks_settings(**{key: value})
    outcome = send(transport, inbox.url())
    assert outcome.reason == f'WEBHOOKS["{key}"] cannot be used, so nothing is sent: see manage.py check'
    assert inbox.received() == []


def test_the_setting_is_read_live_although_it_is_kept_as_it_was_read(
    webhooks_settings: Change, transport: Transport, inbox: Inbox, settings: Any
) -> None:
    webhooks_settings(DENY_NETWORKS=["10.0.0.0/8"])
    assert connect.objection(inbox.url()) == ""
    settings.WEBHOOKS["DENY_NETWORKS"].append("127.0.0.0/8")
    assert "is in 127.0.0.0/8" in connect.objection(inbox.url())
    assert "is in 127.0.0.0/8" in send(transport, inbox.url()).reason


# Names that change their mind


def test_a_name_that_changes_between_two_lookups_gets_nothing_to_where_it_points_then(
    transport: Transport, webhooks_settings: Change, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhooks_settings(ALLOW_NETWORKS=["127.0.0.1"])
    url = inbox.url().replace("127.0.0.1", "rebind.example")
    with name_server({"rebind.example": [["127.0.0.1"], ["127.0.0.2"]]}) as server:
        monkeypatch.setattr(socket, "getaddrinfo", resolve_at(server))
        # The first answer is the one that is judged and dialled: there is no other question in between.
        assert send(transport, url).succeeded
        assert server.questions == {("rebind.example", A): 1, ("rebind.example", AAAA): 1}
        # A kept connection leads where it was judged to lead.
        assert send(transport, url).succeeded
        assert sum(server.questions.values()) == 2
        transport.close()
        outcome = send(transport, url)
        assert sum(server.questions.values()) == 4
    assert outcome.reason.startswith("rebind.example resolves to a forbidden address: 127.0.0.2 is loopback")
    assert len(inbox.received()) == 2


def test_what_was_fine_when_saved_is_refused_when_it_is_dialled(
    transport: Transport, webhooks_settings: Change, dialled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    webhooks_settings(ALLOW_NETWORKS=[])
    with name_server({"rebind.example": [["10.0.0.1"], ["127.0.0.1", "10.0.0.1"]]}) as server:
        monkeypatch.setattr(socket, "getaddrinfo", resolve_at(server))
        assert connect.objection("http://rebind.example/") == ""
        outcome = send(transport, "http://rebind.example/")
    assert "127.0.0.1 is loopback" in outcome.reason
    assert dialled == []


def test_a_transport_that_was_refused_sends_again_once_the_name_points_elsewhere(
    transport: Transport, webhooks_settings: Change, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhooks_settings(ALLOW_NETWORKS=["127.0.0.1"])
    url = inbox.url().replace("127.0.0.1", "rebind.example")
    with name_server({"rebind.example": [["127.0.0.2"], ["169.254.169.254"], ["127.0.0.1"]]}) as server:
        monkeypatch.setattr(socket, "getaddrinfo", resolve_at(server))
        assert [send(transport, url).succeeded for _ in range(4)] == [False, False, True, True]


# When a webhook is saved


def test_a_name_with_a_forbidden_address_is_refused_when_saved(webhooks_settings: Change, names: Names) -> None:
    names["hooks.example"] = ["10.0.0.1", "169.254.169.254"]
    assert connect.objection("https://hooks.example/in").startswith("hooks.example resolves to a forbidden address: ")
    webhooks_settings(DENY_PRIVATE=True)
    assert "10.0.0.1 is private" in connect.objection("https://hooks.example/in")


def test_a_name_that_does_not_resolve_may_be_saved() -> None:
    assert connect.objection("https://not-yet.example/") == ""


def test_a_name_server_that_does_not_answer_holds_up_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(connect, "PATIENCE", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: over.wait(10) and [])
    started = time.monotonic()
    assert connect.objection("https://slow.example/") == ""
    assert time.monotonic() - started < 8
    over.set()


def test_a_label_that_is_too_long_is_told_at_once(transport: Transport) -> None:
    started = time.monotonic()
    outcome = send(transport, f"http://{'a' * 64}.example/")
    assert time.monotonic() - started < 4
    assert not outcome.timed_out
    assert outcome.reason


def test_a_url_is_judged_when_saved_as_when_dialled(webhooks_settings: Change) -> None:
    assert connect.objection("http://127.0.0.1:8000/") == ""
    webhooks_settings(ALLOW_NETWORKS=[])
    assert connect.objection("http://127.0.0.1:8000/").startswith("127.0.0.1 is loopback")
    assert connect.objection("http://0x7f.1/").startswith('"0x7f.1" is an odd way')
    webhooks_settings(DENY_NETWORKS=["no network"])
    assert "cannot be used" in connect.objection("https://1.1.1.1/")


# Redirects, proxies and passwords that nobody asked for


def test_a_redirect_to_the_metadata_service_is_not_followed(transport: Transport) -> None:
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                request = connection.recv(65536)
                while not request.endswith(BODY):
                    request += connection.recv(65536)
                asked.append(request)
                connection.sendall(
                    b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://169.254.169.254/latest/meta-data/\r\n"
                    b"Content-Length: 0\r\n\r\n"
                )

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        outcome = send(transport, f"http://127.0.0.1:{server.getsockname()[1]}/")
        thread.join(5)
    assert outcome.reason == ("HTTP 307: redirects to http://169.254.169.254/latest/meta-data/, which is not followed")
    assert len(asked) == 1


def test_no_proxy_and_no_password_comes_from_the_environment(
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
    """Answers one request after another, each on its own connection; ``names`` has what SNI asked for."""

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
    """Start a receiver with a certificate; gives it, and the file of who has signed that."""
    started: list[TLSReceiver] = []

    def start(host: str, **options: Any) -> tuple[TLSReceiver, str]:
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
def test_host_sni_and_certificate_have_the_name_although_an_address_is_dialled(
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


def test_a_certificate_for_the_address_does_not_do_for_the_name(transport: Transport, names: Names, tls: Any) -> None:
    receiver, authority = tls("127.0.0.1")
    names["hooks.example"] = ["127.0.0.1"]
    outcome = send(transport, f"https://hooks.example:{receiver.port}/", verify=authority)
    assert outcome.reason.startswith("TLS certificate not trusted: ")


def test_an_expired_certificate_is_refused(transport: Transport, names: Names, tls: Any) -> None:
    receiver, authority = tls("hooks.example", not_after=datetime(2020, 1, 1, tzinfo=UTC))
    names["hooks.example"] = ["127.0.0.1"]
    outcome = send(transport, f"https://hooks.example:{receiver.port}/", verify=authority)
    assert outcome.reason == "TLS certificate not trusted: certificate has expired"
    assert receiver.heads == []
