"""Tables of URLs and addresses, plain and hostile."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any
from unittest import mock

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter

from tests.support.addresses import ADDRESSES, is_forbidden
from tests.support.figures import Figures
from tests.support.sending import Transport
from webhooks.ground.security import url_policy
from webhooks.ground.security.url_policy import BadURL, Destination, Policy, address_of, networks, parse, targets_of
from webhooks.workers.network.attempt import Request
from webhooks.workers.network.loop import Socket
from webhooks.workers.network.transport import _target

# Spellings

# Newer Pythons write ::ffff:127.0.0.1, older ones ::ffff:7f00:1.
MAPPED = str(ipaddress.IPv6Address("::ffff:127.0.0.1"))

PLAIN = [
    ("http://127.0.0.1/", ("http", "127.0.0.1", 80)),
    ("https://127.0.0.1:8443/a?b#c", ("https", "127.0.0.1", 8443)),
    ("HTTPS://CMDB.Example.COM/Hook", ("https", "cmdb.example.com", 443)),
    ("http://receiver:8000", ("http", "receiver", 8000)),
    ("http://my_service.internal/x", ("http", "my_service.internal", 80)),
    ("http://localhost/", ("http", "localhost", 80)),
    ("http://cmdb.example./", ("http", "cmdb.example", 80)),
    ("http://[::1]/", ("http", "::1", 80)),
    ("http://[::1]:8000?x", ("http", "::1", 8000)),
    ("http://[0:0:0:0:0:0:0:1]/", ("http", "::1", 80)),
    ("http://[::ffff:127.0.0.1]/", ("http", MAPPED, 80)),
    ("http://[::FFFF:7F00:1]/", ("http", MAPPED, 80)),
    ("http://[64:ff9b::127.0.0.1]/", ("http", "64:ff9b::7f00:1", 80)),
    ("http://bücher.example/", ("http", "xn--bcher-kva.example", 80)),
    ("http://BÜCHER.Example./", ("http", "xn--bcher-kva.example", 80)),
    ("http://例え.テスト/", ("http", "xn--r8jz45g.xn--zckzah", 80)),
    ("http://cmdb.example/ü/%20@x:1", ("http", "cmdb.example", 80)),
    ("http://1.2.3.4.example/", ("http", "1.2.3.4.example", 80)),
    ("http://0x7f.1.example/", ("http", "0x7f.1.example", 80)),
    ("http://4chan.example/", ("http", "4chan.example", 80)),
    ("http://xn--bcher-kva.example/", ("http", "xn--bcher-kva.example", 80)),
]


@pytest.mark.parametrize(("url", "expected"), PLAIN)
def test_a_plain_url_is_parsed(url: str, expected: tuple[str, str, int]) -> None:
    assert parse(url) == Destination(*expected)


@pytest.mark.parametrize(("url", "expected"), PLAIN)
def test_requests_connects_to_the_parsed_destination(url: str, expected: tuple[str, str, int]) -> None:
    assert dialled_by_requests(url) == expected


@pytest.mark.parametrize(("url", "expected"), PLAIN)
def test_the_transport_connects_to_the_parsed_destination(url: str, expected: tuple[str, str, int]) -> None:
    target = _target("POST", url)
    host, address = target.host.removesuffix("."), address_of(target.host)
    assert (target.scheme, str(address) if address else host, target.port) == expected


def dialled_by_requests(url: str) -> tuple[str, str, int]:
    """The destination that requests and urllib3 read from a URL."""
    prepared = requests.Request("POST", url).prepare()
    adapter = HTTPAdapter()
    pool: Any = adapter.get_connection_with_tls_context(prepared, True)
    connection = pool._new_conn()
    adapter.close()
    host = connection._dns_host.removesuffix(".").lower()
    address = address_of(host)
    return pool.scheme, str(address) if address else host, connection.port


SCHEME = "Enter an http:// or https:// URL."
UNSEEN = "The URL has a space, a backslash or an invisible character in it."
USER = "The URL has a user name or a password in it, which everybody would see: leave them out."
PORT = "The port of the URL must be a number from 1 to 65535."


def odd(text: str, plain: str) -> str:
    return f'"{text}" is an odd way to write {plain}: write that.'


def no_name(text: str) -> str:
    return f'"{text}" is no name of a host.'


REFUSED = [
    ("", SCHEME),
    ("nonsense", SCHEME),
    ("//127.0.0.1/", SCHEME),
    ("http:127.0.0.1", SCHEME),
    ("http:/127.0.0.1/", SCHEME),
    ("ftp://cmdb.example/", SCHEME),
    ("file:///etc/passwd", SCHEME),
    ("gopher://127.0.0.1:6379/_FLUSHALL", SCHEME),
    ("javascript:alert(1)", SCHEME),
    (" http://cmdb.example/", SCHEME),
    ("ｈttp://cmdb.example/", SCHEME),
    ("http://", no_name("")),
    ("http:///path", no_name("")),
    ("http://:80/", no_name("")),
    ("http://?x", no_name("")),
    # user info and similar spellings
    ("http://user@cmdb.example/", USER),
    ("http://user:password@cmdb.example/", USER),
    ("http://cmdb.example@127.0.0.1/", USER),
    ("http://@127.0.0.1/", USER),
    ("http://cmdb.example:80@127.0.0.1:8000/", USER),
    ("http://127.0.0.1\\@cmdb.example/", UNSEEN),
    ("http://cmdb.example\\.127.0.0.1/", UNSEEN),
    ("http://cmdb.example＠127.0.0.1/", no_name("cmdb.example＠127.0.0.1")),
    # spaces, control characters, invisible characters
    ("http://cmdb.example /", UNSEEN),
    ("http://cmdb.example/a b", UNSEEN),
    ("http://cmdb.example/\r\nX-Evil: 1", UNSEEN),
    ("http://cmdb.example/\t", UNSEEN),
    ("http://127.0.0.1\x00.cmdb.example/", UNSEEN),
    ("http://cm\u200bdb.example/", UNSEEN),
    ("http://cm\u00addb.example/", UNSEEN),
    ("http://\u202eelpmaxe.bdmc/", UNSEEN),
    ("http://cmdb.example\u3000/", UNSEEN),
    ("http://cmdb.example/\ud800", UNSEEN),
    # ports
    ("http://cmdb.example:/", PORT),
    ("http://cmdb.example:0/", PORT),
    ("http://cmdb.example:65536/", PORT),
    ("http://cmdb.example:99999/", PORT),
    ("http://cmdb.example:-1/", PORT),
    ("http://cmdb.example:+80/", PORT),
    ("http://cmdb.example:８０/", PORT),
    ("http://cmdb.example:80:81/", PORT),
    ("http://cmdb.example:http/", PORT),
    ("http://[::1]:x/", PORT),
    ("http://[::1]:/", PORT),
    # addresses in odd spellings
    ("http://2130706433/", odd("2130706433", "127.0.0.1")),
    ("http://0x7f.1/", odd("0x7f.1", "127.0.0.1")),
    ("http://0x7f000001/", odd("0x7f000001", "127.0.0.1")),
    ("http://0X7F.0.0.1/", odd("0X7F.0.0.1", "127.0.0.1")),
    ("http://0177.0.0.1/", odd("0177.0.0.1", "127.0.0.1")),
    ("http://127.1/", odd("127.1", "127.0.0.1")),
    ("http://127.0.1/", odd("127.0.1", "127.0.0.1")),
    ("http://0/", odd("0", "0.0.0.0")),
    ("http://127.000.000.001/", odd("127.000.000.001", "127.0.0.1")),
    ("http://2852039166/", odd("2852039166", "169.254.169.254")),
    ("http://0xa9.0xfe.0xa9.0xfe/", odd("0xa9.0xfe.0xa9.0xfe", "169.254.169.254")),
    ("http://127.0.0.1./", odd("127.0.0.1.", "127.0.0.1")),
    ("http://ｃｍｄｂ.example/", no_name("ｃｍｄｂ.example")),
    ("http://cmdb。example/", no_name("cmdb。example")),
    ("http://0x7f.1./", odd("0x7f.1.", "127.0.0.1")),
    ("http://256.0.0.1/", odd("256.0.0.1", "an address")),
    ("http://1.2.3.4.5/", odd("1.2.3.4.5", "an address")),
    ("http://4294967296/", odd("4294967296", "an address")),
    ("http://example.0x/", odd("example.0x", "an address")),
    ("http://１２７.０.０.１/", no_name("１２７.０.０.１")),
    ("http://①②⑦.⓪.⓪.①/", no_name("①②⑦.⓪.⓪.①")),
    ("http://127。0。0。1/", no_name("127。0。0。1")),
    ("http://１６９.254.169.254/", no_name("１６９.254.169.254")),
    ("http://١٢٧.0.0.1/", None),
    ("http://%31%32%37.0.0.1/", no_name("%31%32%37.0.0.1")),
    ("http://127.0.0.1%2f@cmdb.example/", USER),
    # IPv6
    ("http://[::1/", no_name("[")),
    ("http://::1/", no_name("")),
    ("http://[fe80::1%25eth0]/", no_name("[fe80")),
    ("http://[fe80::1%eth0]/", no_name("[fe80")),
    ("http://[127.0.0.1]/", "[127.0.0.1] is no IPv6 address."),
    ("http://[:]/", "[:] is no IPv6 address."),
    ("http://[::ffff:0177.0.0.1]/", "[::ffff:0177.0.0.1] is no IPv6 address."),
    ("http://[1::2::3]/", "[1::2::3] is no IPv6 address."),
    ("http://[v1.x]/", no_name("[v1.x]")),
    ("http://[::1].example/", no_name("[")),
    ("http://[::1]x/", no_name("[")),
    # names
    ("http://./", no_name(".")),
    ("http://../", no_name("..")),
    ("http://cmdb..example/", no_name("cmdb..example")),
    ("http://cmdb.example../", no_name("cmdb.example..")),
    ("http://.cmdb.example/", no_name(".cmdb.example")),
    ("http://-cmdb.example/", no_name("-cmdb.example")),
    ("http://*.example/", no_name("*.example")),
    ("http://cmdb,example/", no_name("cmdb,example")),
    ("http://$(id).example/", no_name("$(id).example")),
    ("http://{cmdb}.example/", no_name("{cmdb}.example")),
    (f"http://{'a' * 64}.example/", no_name(f"{'a' * 64}.example")),
    (f"http://{'a.' * 127}aa/", no_name(f"{'a.' * 127}aa")),
    ("http://℀.example/", no_name("℀.example")),
    ("http://☃☃\u0338.example/", None),
    ("http://xn--\uffff.example/", None),
]  # fmt: skip


@pytest.mark.parametrize(("url", "reason"), REFUSED)
def test_an_odd_url_is_refused_with_a_reason(url: str, reason: str | None) -> None:
    with pytest.raises(BadURL) as caught:
        parse(url)
    assert str(caught.value) == reason or reason is None
    assert url_policy.problem(url) == str(caught.value) != ""


# Addresses


@pytest.mark.parametrize("kind", ADDRESSES)
def test_an_address_is_blocked_by_its_kind(kind: str) -> None:
    for text in ADDRESSES[kind]:
        reason = Policy().why_address_blocked(ipaddress.ip_address(text))
        assert (f" {kind}, where nothing is sent" in reason) if kind else reason == "", text
        assert is_forbidden(text) == bool(kind), text


def test_a_reason_says_what_to_do() -> None:
    judge = Policy().why_address_blocked
    assert judge(ipaddress.ip_address("127.0.0.1")) == (
        '127.0.0.1 is loopback, where nothing is sent; to allow it, add "127.0.0.1" to WEBHOOKS["ALLOW_NETWORKS"]'
    )
    assert judge(ipaddress.ip_address("::ffff:a9fe:a9fe")) == (
        f"{ipaddress.ip_address('::ffff:a9fe:a9fe')} means 169.254.169.254, which is a cloud metadata address, "
        'where nothing is sent; to allow it, add "169.254.169.254" to WEBHOOKS["ALLOW_NETWORKS"]'
    )


@pytest.mark.parametrize("kind", ADDRESSES)
def test_following_the_advice_allows_the_address(kind: str) -> None:
    for text in ADDRESSES[kind]:
        allowed: list[str] = []
        while reason := Policy(networks(allowed)).why_address_blocked(ipaddress.ip_address(text)):
            allowed.append(reason.rpartition("add ")[2].split('"')[1])
            assert len(allowed) <= 3, text
        assert bool(allowed) == bool(kind), text


# The policy

TO = Destination("https", "hooks.cmdb.example", 443)


def policy(**fields: Any) -> Policy:
    return Policy(**{key: networks(value) if "networks" in key else value for key, value in fields.items()})


@pytest.mark.parametrize(
    ("rules", "text", "reason"),
    [
        (policy(deny_networks=["10.0.0.0/8"]), "10.1.2.3", "is in 10.0.0.0/8, which"),
        (policy(deny_networks=["10.0.0.0/8"]), "::ffff:10.1.2.3", "means 10.1.2.3, which is in 10.0.0.0/8"),
        (policy(deny_networks=["10.0.0.0/8"]), "64:ff9b::a01:203", "means 10.1.2.3, which is in 10.0.0.0/8"),
        (policy(deny_networks=["64:ff9b::/96"]), "64:ff9b::8.8.8.8", "is in 64:ff9b::/96"),
        (policy(deny_networks=["10.0.0.0/8"]), "11.1.2.3", ""),
        (policy(deny_networks=["10.0.0.0/8"], allow_networks=["10.1.2.3"]), "10.1.2.3", "denies"),
        (policy(deny_networks=["127.0.0.1"], allow_networks=["127.0.0.0/8"]), "127.0.0.1", "denies"),
        (policy(deny_networks=["127.0.0.1"], allow_networks=["127.0.0.0/8"]), "127.0.0.2", ""),
        (policy(allow_networks=["127.0.0.0/8"]), "127.0.0.1", ""),
        (policy(allow_networks=["127.0.0.0/8"]), "::ffff:127.0.0.1", ""),
        (policy(allow_networks=["127.0.0.0/8"]), "64:ff9b::7f00:1", ""),
        (policy(allow_networks=["127.0.0.0/8"]), "::1", "loopback"),
        (policy(allow_networks=["127.0.0.0/8"]), "2002:7f00:1::", "reserved"),
        (policy(allow_networks=["2002::/16"]), "2002:7f00:1::", "means 127.0.0.1, which is loopback"),
        (policy(allow_networks=["2002::/16"]), "2002:808:808::", ""),
        (policy(allow_networks=["64:ff9b::/96"]), "64:ff9b::7f00:1", "loopback"),
        (policy(allow_networks=["64:ff9b:1::/96"]), "64:ff9b:1::808:808", ""),
        (policy(allow_networks=["64:ff9b:1::/96"]), "64:ff9b:1::a9fe:a9fe", "a cloud metadata address"),
        (policy(allow_networks=["0.0.0.0/0"]), "192.0.2.1", ""),
        (policy(allow_networks=["0.0.0.0/0"]), "169.254.169.254", "a cloud metadata address"),
        (policy(allow_networks=["169.254.169.254"]), "169.254.169.254", ""),
        (policy(allow_networks=["169.254.169.254"]), "64:ff9b::a9fe:a9fe", ""),
        (policy(allow_networks=["fc00::/7"], deny_private=True), "fd00:ec2::254", "a cloud metadata address"),
        (policy(deny_private=True), "10.0.0.1", 'private, and WEBHOOKS["DENY_PRIVATE"] is on'),
        (policy(deny_private=True), "100.64.0.1", "private"),
        (policy(deny_private=True), "172.31.255.255", "private"),
        (policy(deny_private=True), "172.32.0.0", ""),
        (policy(deny_private=True), "192.168.0.1", "private"),
        (policy(deny_private=True), "fd12::1", "private"),
        (policy(deny_private=True), "::ffff:10.0.0.1", "means 10.0.0.1, which is private"),
        (policy(deny_private=True), "64:ff9b::10.0.0.1", "means 10.0.0.1, which is private"),
        (policy(deny_private=True), "::ffff:100.64.0.1", "private"),
        (policy(deny_private=True), "8.8.8.8", ""),
        (policy(deny_private=True), "2606:4700::1", ""),
        (policy(deny_private=True, allow_networks=["10.0.0.0/8"]), "10.0.0.1", ""),
    ],
)
def test_deny_wins_over_allow_and_allow_over_blocked(rules: Policy, text: str, reason: str) -> None:
    actual = rules.why_address_blocked(ipaddress.ip_address(text))
    assert reason in actual if reason else actual == ""
    # A literal address is judged without a resolver.
    assert Policy.why_blocked(rules, Destination("http", text, 80)) == actual


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (policy(), ""),
        (policy(allow_schemes=("https",)), ""),
        (policy(allow_schemes=("http",)), 'https:// is not in WEBHOOKS["ALLOW_SCHEMES"]'),
        (policy(allow_ports=(range(443, 444),)), ""),
        (policy(allow_ports=(range(1, 443), range(444, 65536))), 'port 443 is not in WEBHOOKS["ALLOW_PORTS"]'),
        (policy(deny_ports=(range(440, 450),)), 'port 443 is denied by WEBHOOKS["DENY_PORTS"]'),
        (policy(allow_hosts=("hooks.cmdb.example",)), ""),
        (policy(allow_hosts=("*.CMDB.example",)), ""),
        (policy(allow_hosts=("*.other", "*.cmdb.example")), ""),
        (policy(allow_hosts=("cmdb.example",)), 'hooks.cmdb.example matches nothing in WEBHOOKS["ALLOW_HOSTS"]'),
        (policy(allow_hosts=()), 'hooks.cmdb.example matches nothing in WEBHOOKS["ALLOW_HOSTS"]'),
        (
            policy(deny_hosts=("*.cmdb.example",)),
            'hooks.cmdb.example is denied by "*.cmdb.example" in WEBHOOKS["DENY_HOSTS"]',
        ),
        (
            policy(deny_hosts=("hooks.*",), allow_hosts=("hooks.cmdb.example",)),
            'hooks.cmdb.example is denied by "hooks.*" in WEBHOOKS["DENY_HOSTS"]',
        ),
    ],
)
def test_scheme_port_and_host_need_no_resolver(rules: Policy, reason: str) -> None:
    assert rules.why_blocked(TO) == reason


# Addresses inside addresses


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("1.2.3.4", ["1.2.3.4"]),
        ("2606:4700::1", ["2606:4700::1"]),
        ("::ffff:1.2.3.4", ["1.2.3.4"]),
        ("64:ff9b::102:304", ["1.2.3.4"]),
        ("64:ff9b:1::102:304", ["64:ff9b:1::102:304", "1.2.3.4"]),
        ("::1.2.3.4", ["::102:304", "1.2.3.4"]),
        ("2002:102:304::9", ["2002:102:304::9", "1.2.3.4"]),
        # the example of RFC 4380, section 4
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", ["2001:0:4136:e378:8000:63bf:3fff:fdd2", "65.54.227.120",
                                                  "192.0.2.45"]),
        ("fd00::5efe:a9fe:a9fe", ["fd00::5efe:a9fe:a9fe", "169.254.169.254"]),
        ("2606:4700::200:5efe:102:304", ["2606:4700::200:5efe:102:304", "1.2.3.4"]),
        ("2606:4700::300:5efe:102:304", ["2606:4700::300:5efe:102:304"]),
        ("::", ["::"]),
        ("::1", ["::1"]),
        ("fe80::1%3", ["fe80::1"]),
    ],
)  # fmt: skip
def test_embedded_ipv4_addresses_are_found(text: str, ends: list[str]) -> None:
    address = address_of(text)
    assert address
    assert targets_of(address) == tuple(map(ipaddress.ip_address, ends))


# Random URLs and addresses


OCTETS = st.sampled_from([0, 1, 8, 10, 100, 127, 169, 172, 192, 198, 224, 254, 255]) | st.integers(0, 255)
SPECIAL = st.sampled_from([text for those in ADDRESSES.values() for text in those])
DIGITS = str.maketrans("0123456789", "０１２３４５６７８９")
CIRCLED = str.maketrans("0123456789", "⓪①②③④⑤⑥⑦⑧⑨")


@st.composite
def ipv4s(draw: Any) -> ipaddress.IPv4Address:
    special = [text for those in ADDRESSES.values() for text in those if ":" not in text]
    drawn = draw(st.sampled_from(special) | st.tuples(OCTETS, OCTETS, OCTETS, OCTETS))
    return ipaddress.IPv4Address(drawn if isinstance(drawn, str) else bytes(drawn))


@st.composite
def spelt_ipv4s(draw: Any) -> str:
    """An IPv4 address in one of the spellings that programs accept."""
    address = draw(ipv4s())
    number = int(address)
    a, b, c, d = address.packed
    return draw(
        st.sampled_from(
            [
                str(address), str(number), hex(number), f"0{number:o}", f"{a}.{number & 0xFFFFFF}",
                f"{a}.{b}.{number & 0xFFFF}", f"0x{a:x}.{b}.0{c:o}.{d}", f"{a:03}.{b:03}.{c:03}.{d:03}",
                f"{a:#06x}.{b}.{c}.{d}", str(address).translate(DIGITS), str(address).translate(CIRCLED),
                str(address).replace(".", "。"), f"{address}.", f"{address}%20", str(number + (1 << 32)),
            ]
        )
    )  # fmt: skip


@st.composite
def spelt_ipv6s(draw: Any) -> str:
    inner = draw(ipv4s())
    number = int(inner)
    prefix = draw(st.sampled_from(["::ffff:", "64:ff9b::", "64:ff9b:1::", "::", "::ffff:0:", "fe80::", "fd00:ec2::"]))
    forms = [
        f"{prefix}{inner}", f"{prefix}{number >> 16:x}:{number & 0xFFFF:x}",
        f"2002:{number >> 16:x}:{number & 0xFFFF:x}::1", f"2001:0:{number >> 16:x}:{number & 0xFFFF:x}::",
        str(ipaddress.IPv6Address(draw(st.integers(0, (1 << 128) - 1)))), f"{prefix}{inner}%25lo",
    ]  # fmt: skip
    text = draw(st.sampled_from(forms) | SPECIAL)
    return f"[{draw(st.sampled_from([text, text.upper(), ipaddress.IPv6Address(1).exploded]))}]"


NAMES = {f"n{number}.example": text for number, text in enumerate(t for those in ADDRESSES.values() for t in those)}
HOSTS = (
    ipv4s().map(str)
    | spelt_ipv4s()
    | spelt_ipv6s()
    | st.sampled_from(sorted(NAMES))
    | st.sampled_from(["localhost", "LOCALHOST.", "bücher.example", "ｌocalhost", "a..b", "", ".", "%6c.example"])
    | st.text(max_size=12)
)
JUNK = st.sampled_from(
    [" ", "\t", "\r\n", "\\", "@", "x@", "x:y@", "#", "?", "/", "％", "\u200b", "\x00", "＠", "\ud800"]
)


@st.composite
def urls(draw: Any) -> str:
    scheme = draw(
        st.sampled_from(["http://"] * 12 + ["https://", "HTTP://", "http:", "http:/", "ftp://", "http:\\\\", ""])
    )
    port = draw(st.sampled_from(["", "", "", "", ":80", ":8000", ":443", ":0", ":", ":65536", ":８０", ":80:80"]))
    path = draw(st.sampled_from(["", "/", "/a?b=c#d", "/@127.0.0.1", "?@[::1]", "#"]))
    parts = [scheme, draw(HOSTS), port, path]
    if draw(st.integers(0, 3)) == 0:
        parts.insert(draw(st.integers(0, 3)), draw(JUNK))
    return "".join(parts)


class Dialled:
    """A network that records addresses and refuses every connection."""

    def __init__(self) -> None:
        self.addresses: list[tuple[str, int]] = []
        self.total = 0

    def connect(self, sock: socket.socket, address: Any) -> None:
        self.addresses.append(address[:2])
        self.total += 1
        raise ConnectionRefusedError

    def asked(self) -> list[tuple[str, int]]:
        addresses, self.addresses = self.addresses, []
        return addresses


@pytest.mark.slow
def test_random_urls_never_reach_a_forbidden_address(
    webhooks_settings: Any, names: dict[str, list[str]], figures: Figures, is_long: bool
) -> None:
    webhooks_settings(ALLOW_NETWORKS=[])
    names |= {name: [text] for name, text in NAMES.items()}
    network, transport, read = Dialled(), Transport(), 0
    many = 10_000 if is_long else 400

    # The same ones each time, except with --long: a few hundred could have too few that are plain.
    @settings(max_examples=many, deadline=None, database=None, derandomize=not is_long)
    @given(st.integers(0, 9).flatmap(lambda one: urls() if one else st.text(max_size=40)))
    def judge(url: str) -> None:
        nonlocal read
        reason = url_policy.problem(url)
        outcome = transport.send(Request(url, {}, b"{}", 5))
        dialled = network.asked()
        assert outcome.reason
        assert not [address for address, _ in dialled if is_forbidden(address)]
        if not reason:
            read += 1
            to = parse(url)
            assert to.port in {port for _, port in dialled} or not dialled
            if to.address:
                # As addresses: Python 3.13 writes a mapped one with dots, 3.11 does not.
                assert {ipaddress.ip_address(address) for address, _ in dialled} <= {ipaddress.ip_address(to.host)}
                assert bool(dialled) != is_forbidden(to.host)

    with mock.patch.object(Socket, "connect", lambda sock, address: network.connect(sock, address)):
        judge()
    transport.close()
    figures(f"{many} URLs, {read} of them plain, {network.total} dialled, none where nothing may be sent")
    assert network.total > many * 0.03
    assert read > many * 0.1


@settings(max_examples=200, deadline=None)
@given(st.ip_addresses() | SPECIAL.map(ipaddress.ip_address) | ipv4s())
def test_two_implementations_agree_on_random_addresses(address: Any) -> None:
    assert bool(Policy().why_address_blocked(address)) == is_forbidden(str(address))
