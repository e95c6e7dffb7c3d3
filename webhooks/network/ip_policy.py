"""What an address is, and where a packet to it may end. Pure.

The first comes from the IANA registries of special-purpose addresses (RFC 6890), which ``ipaddress.is_global`` follows
only in some versions of Python. Cloud metadata services are from the clouds' manuals.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Networks in CIDR notation, or single addresses. Raises ValueError."""
    return tuple(map(ip_network, texts))


# The first that an address is in says what it is.
METADATA = "a cloud metadata address"
BLOCKED: tuple[tuple[str, tuple[Network, ...]], ...] = (
    (
        METADATA,
        networks(
            [
                # AWS, Azure, Google, OpenStack and others; AWS's containers; all of AWS's own services by IPv6
                *("169.254.169.254", "fe80::a9fe:a9fe", "169.254.170.2", "169.254.170.23", "fd00:ec2::/32"),
                # Alibaba, Azure, Google, Oracle, Scaleway, Tencent
                *("100.100.100.200", "168.63.129.16", "fd20:ce::254", "192.0.0.192", "fd00:c1::a9fe:a9fe"),
                *("169.254.42.42", "fd00:42::42", "169.254.0.23"),
                # Akamai (Linode) and Alibaba by IPv6
                *("fd00:a9fe:a9fe::1", "fd00:100::100:200"),
            ]
        ),
    ),
    ("unspecified", networks(["0.0.0.0/8", "::"])),
    ("loopback", networks(["127.0.0.0/8", "::1"])),
    ("link-local", networks(["169.254.0.0/16", "fe80::/10"])),
    ("multicast", networks(["224.0.0.0/4", "ff00::/8"])),
    (
        "reserved",
        networks(
            [
                *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24"),
                *("203.0.113.0/24", "240.0.0.0/4"),
                # IPv6: all but 2000::/3 and fc00::/7, and of 2000::/3 Teredo and its like, examples, 6to4
                *("::/3", "4000::/2", "8000::/2", "c000::/3", "e000::/4", "f000::/5", "f800::/6", "fe00::/9"),
                *("fec0::/10", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
            ]
        ),
    ),
)
PRIVATE = networks(["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"])

_MAPPED, _NAT64 = networks(["::ffff:0:0/96", "64:ff9b::/96"])  # RFC 4291, RFC 6052
_COMPATIBLE, _LOCAL_NAT64 = networks(["::/96", "64:ff9b:1::/48"])  # RFC 4291, RFC 8215
_SIX_TO_FOUR, _TEREDO = networks(["2002::/16", "2001::/32"])  # RFC 3056, RFC 4380


def ends_at(address: Address) -> tuple[Address, ...]:
    """Where a packet to this address may end: the address itself, unless it only stands for an IPv4 one, and the
    IPv4 addresses that are written in it."""
    number = int(address)
    last = IPv4Address(number & 0xFFFFFFFF)
    if address.version == 4:
        return (address,)
    if address in _MAPPED or address in _NAT64:
        return (last,)
    if address in _LOCAL_NAT64 or (address in _COMPATIBLE and number > 1):
        return (address, last)
    if address in _SIX_TO_FOUR:
        return (address, IPv4Address(number >> 80 & 0xFFFFFFFF))
    if address in _TEREDO:  # the server's, and the client's with its bits turned over
        return (address, IPv4Address(number >> 64 & 0xFFFFFFFF), IPv4Address(int(last) ^ 0xFFFFFFFF))
    if number >> 32 & 0xFDFF_FFFF == 0x5EFE:  # ISATAP, RFC 5214, in whatever network
        return (address, last)
    return (address,)


@lru_cache(maxsize=1024)
def kind_of(address: Address) -> str:
    """What an address that is blocked by itself is; empty for others."""
    return next((kind for kind, those in BLOCKED if containing(address, those)), "")


def address_of(text: str) -> Address | None:
    """The address that a text is, without the zone of one (``%eth0``); None for a name."""
    try:
        return ip_address(text.partition("%")[0])
    except ValueError:
        return None


def containing(address: Address, those: Iterable[Network]) -> Network | None:
    """The first of these networks that the address is in."""
    return next((network for network in those if address in network), None)
