"""Where requests may go: parses URLs strictly and judges hosts, ports and IP addresses by a policy. Pure.

The blocked addresses come from the IANA registries of special-purpose addresses (RFC 6890), which Python's
``ipaddress.is_global`` follows only in some versions, and from the manuals of the clouds (metadata services).
"""

from __future__ import annotations

import re
import socket
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import idna
from django.utils.translation import gettext, gettext_noop

from webhooks.ground.errors import why_failed

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Networks in CIDR notation, or single addresses. Raises ValueError."""
    return tuple(map(ip_network, texts))


_METADATA = gettext_noop("a cloud metadata address")

_BLOCKED = {
    # AWS, Azure, Google, OpenStack and others; AWS's containers; all of AWS's own services by IPv6
    _METADATA: "169.254.169.254 fe80::a9fe:a9fe 169.254.170.2 169.254.170.23 fd00:ec2::/32 "
    # Alibaba, Azure, Google, Oracle, Scaleway, Tencent
    "100.100.100.200 168.63.129.16 fd20:ce::254 192.0.0.192 fd00:c1::a9fe:a9fe 169.254.42.42 fd00:42::42 169.254.0.23 "
    # Akamai (Linode) and Alibaba by IPv6
    "fd00:a9fe:a9fe::1 fd00:100::100:200",
    gettext_noop("unspecified"): "0.0.0.0/8 ::",
    gettext_noop("loopback"): "127.0.0.0/8 ::1",
    gettext_noop("link-local"): "169.254.0.0/16 fe80::/10",
    gettext_noop("multicast"): "224.0.0.0/4 ff00::/8",
    gettext_noop("reserved"): "192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 "
    # IPv6: all but 2000::/3 and fc00::/7, and within 2000::/3 Teredo and its like, examples, 6to4
    "240.0.0.0/4 ::/3 4000::/2 8000::/2 c000::/3 e000::/4 f000::/5 f800::/6 fe00::/9 fec0::/10 2001::/23 2001:db8::/32 "
    "2002::/16 3fff::/20",
}

# Blocked networks by their kind. The first kind that contains an address names it.
BLOCKED = {kind: networks(texts.split()) for kind, texts in _BLOCKED.items()}
PRIVATE = networks(["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"])

_COMPATIBLE, _NAT64, _LOCAL_NAT64 = networks(["::/96", "64:ff9b::/96", "64:ff9b:1::/48"])  # RFC 4291, 6052, 8215


def targets_of(address: Address) -> tuple[Address, ...]:
    """Where a packet to this address may arrive: the address, and the IPv4 addresses that are embedded in it. An IPv4
    address in an IPv6 spelling is only that IPv4 address."""
    if isinstance(address, IPv4Address):
        return (address,)
    number = int(address)
    last = IPv4Address(number & 0xFFFFFFFF)
    if address.ipv4_mapped or address in _NAT64:
        return (last,)
    if address in _LOCAL_NAT64 or (address in _COMPATIBLE and number > 1):
        return (address, last)
    if address.sixtofour:
        return (address, address.sixtofour)
    if address.teredo:  # the server's address, and the client's
        return (address, *address.teredo)
    if number >> 32 & 0xFDFF_FFFF == 0x5EFE:  # ISATAP, RFC 5214, in any network
        return (address, last)
    return (address,)


@lru_cache(maxsize=1024)
def blocked_kind(address: Address) -> str:
    """The kind of a blocked address, such as "loopback"; empty for others."""
    return next((kind for kind, blocked in BLOCKED.items() if _containing(address, blocked)), "")


def address_of(text: str) -> Address | None:
    """The address that a text is, without its zone (``%eth0``); None for a name."""
    try:
        return ip_address(text.partition("%")[0])
    except ValueError:
        return None


def _containing(address: Address, those: Iterable[Network]) -> Network | None:
    return next((network for network in those if address in network), None)


@dataclass(frozen=True)
class Destination:
    """``host`` is in lower case and ASCII, without brackets and without a dot at its end."""

    scheme: str
    host: str
    port: int

    @property
    def address(self) -> Address | None:
        """The host as an address; None if it is a name."""
        return address_of(self.host)


@dataclass(frozen=True)
class Policy:
    """The rules of the settings. "Deny" wins over "allow", and "allow" over the blocked addresses."""

    allow_networks: tuple[Network, ...] = ()
    deny_networks: tuple[Network, ...] = ()
    deny_private: bool = False
    allow_hosts: tuple[str, ...] = ("*",)
    deny_hosts: tuple[str, ...] = ()
    allow_ports: tuple[range, ...] = (range(1, 65536),)
    deny_ports: tuple[range, ...] = ()
    allow_schemes: tuple[str, ...] = ("https", "http")

    def why_blocked(self, to: Destination) -> str:
        """Why nothing may be sent there, without resolving a name; empty if it may."""
        if to.scheme not in self.allow_schemes:
            return gettext('%(scheme)s:// is not in WEBHOOKS["ALLOW_SCHEMES"]') % {"scheme": to.scheme}
        if any(to.port in ports for ports in self.deny_ports):
            return gettext('port %(port)d is denied by WEBHOOKS["DENY_PORTS"]') % {"port": to.port}
        if not any(to.port in ports for ports in self.allow_ports):
            return gettext('port %(port)d is not in WEBHOOKS["ALLOW_PORTS"]') % {"port": to.port}
        if pattern := matching(to.host, self.deny_hosts):
            denied = gettext('%(host)s is denied by "%(pattern)s" in WEBHOOKS["DENY_HOSTS"]')
            return denied % {"host": to.host, "pattern": pattern}
        if not matching(to.host, self.allow_hosts):
            return gettext('%(host)s matches nothing in WEBHOOKS["ALLOW_HOSTS"]') % {"host": to.host}
        return self.why_address_blocked(to.address) if to.address else ""

    def why_address_blocked(self, address: Address) -> str:
        """Why nothing may be sent to this address; empty if it may."""
        targets = targets_of(address)
        for target in (address, *targets):
            if network := _containing(target, self.deny_networks):
                values = {"address": address, "target": target, "network": network}
                if address == target:
                    return gettext('%(address)s is in %(network)s, which WEBHOOKS["DENY_NETWORKS"] denies') % values
                embedded = gettext(
                    '%(address)s means %(target)s, which is in %(network)s, which WEBHOOKS["DENY_NETWORKS"] denies'
                )
                return embedded % values
        for target in targets:
            kind, is_private = blocked_kind(target), False
            if not kind and self.deny_private and _containing(target, PRIVATE):
                kind, is_private = gettext_noop("private"), True
            # An allowed network does not allow the metadata service in it: only its own address does.
            allowed = [net for net in self.allow_networks if kind != _METADATA or net.num_addresses == 1]
            if kind and not _containing(target, allowed):
                return _why_kind_blocked(address, target, kind, is_private)
        return ""


def _why_kind_blocked(address: Address, target: Address, kind: str, is_private: bool) -> str:
    values = {"address": address, "target": target, "kind": gettext(kind)}
    if address == target:
        where = gettext("%(address)s is %(kind)s") % values
    else:
        where = gettext("%(address)s means %(target)s, which is %(kind)s") % values
    why = gettext('and WEBHOOKS["DENY_PRIVATE"] is on') if is_private else gettext("where nothing is sent")
    return f"{where}, {why}; " + gettext('to allow it, add "%(target)s" to WEBHOOKS["ALLOW_NETWORKS"]') % values


def matching(host: str, patterns: Iterable[str]) -> str:
    """The first of the patterns, such as ``"*.example.com"``, that matches the host; empty if none does."""
    return next((pattern for pattern in patterns if fnmatchcase(host, pattern.lower())), "")


class BadURL(ValueError):
    """Nothing can be sent to this URL, or two programs could read it differently. The text is for an admin."""


# The default ports.
PORTS = {"http": 80, "https": 443}
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"}  # controls, formats, lone surrogates, spaces of all kinds
_URL = re.compile(r"(https?)://([^/?#]*)", re.IGNORECASE)
_BRACKETED = re.compile(r"\[([0-9a-f:.]+)\](:.*)?", re.IGNORECASE)
_PORT = re.compile(r":[0-9]{1,5}")
_NAME = re.compile(r"(?!.{254})([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def parse(url: str) -> Destination:
    """Take a URL apart. Raises BadURL for every spelling but the plain one."""
    parts = _URL.match(url)
    if not parts:
        raise BadURL(gettext("Enter an http:// or https:// URL."))
    if "\\" in url or any(unicodedata.category(character) in _INVISIBLE for character in url):
        raise BadURL(gettext("The URL has a space, a backslash or an invisible character in it."))
    scheme, authority = parts[1].lower(), parts[2]
    if "@" in authority:
        raise BadURL(gettext("The URL has a user name or a password in it, which everybody would see: leave them out."))
    if bracketed := _BRACKETED.fullmatch(authority):
        try:
            host, port = str(IPv6Address(bracketed[1])), bracketed[2] or ""
        except ValueError:
            raise BadURL(gettext("[%(address)s] is no IPv6 address.") % {"address": bracketed[1]}) from None
    else:
        name, colon, digits = authority.partition(":")
        host, port = _host(name), colon + digits
    if not port:
        return Destination(scheme, host, PORTS[scheme])
    if not _PORT.fullmatch(port) or not 0 < int(port[1:]) < 65536:
        raise BadURL(gettext("The port of the URL must be a number from 1 to 65535."))
    return Destination(scheme, host, int(port[1:]))


def problem(url: str) -> str:
    """Why ``parse`` refuses a URL; empty if it does not."""
    return why_failed(lambda: parse(url), BadURL)


def redacted(url: str) -> str:
    """The scheme, host and port of a URL; the rest may be a secret. Only "…" if the URL is invalid or a template
    renders its host."""
    parts = _URL.match(url)
    if not parts or problem(parts[0]):
        return "…" if url else ""
    return f"{parts[0]}/…" if url[parts.end() :].strip("/") else url


def _host(text: str) -> str:
    """Encode a host as urllib3 does, which changes nothing but capitals."""
    try:
        labels = [
            label if label.isascii() else idna.encode(label, strict=True, std3_rules=True).decode()
            for label in text.lower().split(".")
        ]
    except ValueError:
        labels = []
    host = ".".join(labels).removesuffix(".")
    if not _NAME.fullmatch(host):
        raise BadURL(gettext('"%(text)s" is no name of a host.') % {"text": text})
    # Resolvers take a host that ends in a number for an address: octal, hexadecimal and short forms too.
    if _NUMBER.fullmatch(host.rpartition(".")[2]) and (host != text or not address_of(host)):
        try:
            plain = socket.inet_ntoa(socket.inet_aton(host))
        except OSError:
            plain = gettext("an address")
        raise BadURL(
            gettext('"%(text)s" is an odd way to write %(plain)s: write that.') % {"text": text, "plain": plain}
        )
    return host
