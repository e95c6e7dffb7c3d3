"""Very many URLs, most of them meant to be misread: none gets through to where nothing may be sent."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.addresses import ADDRESSES, is_forbidden
from tests.support.figures import Figures
from webhooks.network import sockets, url_policy
from webhooks.network.transport import Request, Transport
from webhooks.network.url_policy import Policy, parse

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
    """An IPv4 address, as some program or other reads it."""
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
    [
        " ",
        "\t",
        "\r\n",
        "\\",
        "@",
        "x@",
        "x:y@",
        "#",
        "?",
        "/",
        "％",
        "\u200b",
        "\x00",
        "＠",
        "\ud800",
    ]
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
    """Stands in for the network: notes which addresses are dialled, and refuses all connections."""

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
def test_no_url_whatever_gets_through_to_a_forbidden_address(
    webhooks_settings: Any, names: dict[str, list[str]], figures: Figures, request: pytest.FixtureRequest
) -> None:
    webhooks_settings(ALLOW_NETWORKS=[])
    names |= {name: [text] for name, text in NAMES.items()}
    network, transport, read = Dialled(), Transport(), 0
    many = 10_000 if request.config.getoption("--long") else 1000

    @settings(max_examples=many, deadline=None, database=None)
    @given(st.integers(0, 9).flatmap(lambda one: urls() if one else st.text(max_size=40)))
    def judge(url: str) -> None:
        nonlocal read
        reason = url_policy.misspelt(url)
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

    with mock.patch.object(sockets.TimedSocket, "connect", lambda sock, address: network.connect(sock, address)):
        judge()
    transport.close()
    figures(f"{many} URLs, {read} of them plain, {network.total} dialled, none where nothing may be sent")
    assert network.total > many * 0.03
    assert read > many * 0.1


@settings(max_examples=500, deadline=None)
@given(st.ip_addresses() | SPECIAL.map(ipaddress.ip_address) | ipv4s())
def test_two_opinions_on_any_address_agree(address: Any) -> None:
    assert bool(Policy().objection_to(address)) == is_forbidden(str(address))
