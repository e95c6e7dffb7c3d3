"""Where requests may go: URLs taken apart strictly, and addresses judged by a policy. Asks nobody, opens nothing."""

from __future__ import annotations

import re
import socket
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv6Address

import idna

from webhooks.network.ip_policy import METADATA, PRIVATE, Address, Network, address_of, containing, ends_at, kind_of

PORTS = {"http": 80, "https": 443}


class BadURL(ValueError):
    """A URL that nothing can be sent to, or that is spelt such that two programs may read two things."""


@dataclass(frozen=True)
class Destination:
    """``host`` in lower case and ASCII, without brackets and without a dot at its end."""

    scheme: str
    host: str
    port: int

    @property
    def address(self) -> Address | None:
        """What the host is, if it is no name."""
        return address_of(self.host)


@dataclass(frozen=True)
class Policy:
    """What is allowed. A denial goes before what is allowed, and that before what is blocked by itself."""

    allow_networks: tuple[Network, ...] = ()
    deny_networks: tuple[Network, ...] = ()
    deny_private: bool = False
    allow_hosts: tuple[str, ...] = ("*",)
    deny_hosts: tuple[str, ...] = ()
    allow_ports: tuple[range, ...] = (range(1, 65536),)
    deny_ports: tuple[range, ...] = ()
    allow_schemes: tuple[str, ...] = ("https", "http")

    def objection(self, to: Destination) -> str:
        """Why nothing may be sent there, as far as that can be told without asking for a name; or nothing."""
        return next(self._objections(to), "")

    def _objections(self, to: Destination) -> Iterator[str]:
        if to.scheme not in self.allow_schemes:
            yield f'{to.scheme}:// is not in WEBHOOKS["ALLOW_SCHEMES"]'
        if any(to.port in ports for ports in self.deny_ports):
            yield f'port {to.port} is denied by WEBHOOKS["DENY_PORTS"]'
        if not any(to.port in ports for ports in self.allow_ports):
            yield f'port {to.port} is not in WEBHOOKS["ALLOW_PORTS"]'
        if pattern := _matching(to.host, self.deny_hosts):
            yield f'{to.host} is denied by "{pattern}" in WEBHOOKS["DENY_HOSTS"]'
        if not _matching(to.host, self.allow_hosts):
            yield f'{to.host} matches nothing in WEBHOOKS["ALLOW_HOSTS"]'
        if to.address and (reason := self.objection_to(to.address)):
            yield reason

    def objection_to(self, address: Address) -> str:
        """Why nothing may be sent to this address, or nothing."""
        targets = ends_at(address)
        for one in (address, *targets):
            if network := containing(one, self.deny_networks):
                return f'{_named(address, one)} in {network}, which WEBHOOKS["DENY_NETWORKS"] denies'
        return next(filter(None, (self._blocked(address, one) for one in targets)), "")

    def _blocked(self, address: Address, one: Address) -> str:
        kind = kind_of(one)
        if not kind and self.deny_private and containing(one, PRIVATE):
            kind = "private"
        if not kind or self._is_allowed(one, kind):
            return ""
        why = ', and WEBHOOKS["DENY_PRIVATE"] is on' if kind == "private" else ", where nothing is sent"
        return f'{_named(address, one)} {kind}{why}; to allow it, add "{one}" to WEBHOOKS["ALLOW_NETWORKS"]'

    def _is_allowed(self, one: Address, kind: str) -> bool:
        # Who allows a network has hardly thought of the metadata service in it: that has to be named by itself.
        those = [net for net in self.allow_networks if kind != METADATA or net.num_addresses == 1]
        return containing(one, those) is not None


def _named(address: Address, one: Address) -> str:
    return f"{address} is" if address == one else f"{address} stands for {one}, which is"


def _matching(host: str, patterns: Iterable[str]) -> str:
    return next((pattern for pattern in patterns if fnmatchcase(host, pattern.lower())), "")


# Control characters, invisible ones, lone surrogates, spaces of all kinds.
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"}
_URL = re.compile(r"(https?)://([^/?#]*)", re.IGNORECASE)
_BRACKETED = re.compile(r"\[([0-9a-f:.]+)\](:.*)?", re.IGNORECASE)
_PORT = re.compile(r":([0-9]{1,5})")
_NAME = re.compile(r"(?!.{254})([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def parse(url: str) -> Destination:
    """Take a URL apart. Raises BadURL, with a reason for an admin, for all but the plain spellings."""
    found = _URL.match(url)
    if not found:
        raise BadURL("Enter an http:// or https:// URL.")
    if "\\" in url or any(unicodedata.category(character) in _UNSEEN for character in url):
        raise BadURL("The URL has a space, a backslash or an invisible character in it.")
    scheme, authority = found[1].lower(), found[2]
    if "@" in authority:
        raise BadURL("The URL has a user name or a password in it, which everybody would see: leave them out.")
    host, port = _host_and_port(authority)
    return Destination(scheme, host, _port(port) if port else PORTS[scheme])


def misspelt(url: str) -> str:
    """Why ``parse`` does not take a URL, or nothing."""
    try:
        parse(url)
    except BadURL as error:
        return str(error)
    return ""


def split(url: str) -> tuple[str, str]:
    """Scheme, host and port of a URL, as they are written, and what follows. The first is empty where it cannot be
    told: of a URL that is misspelt, or whose host a template makes."""
    found = _URL.match(url)
    origin = found[0] if found and not misspelt(found[0]) else ""
    return origin, url[len(origin) :]


def shown(url: str) -> str:
    """A URL without what may be a secret in it: all that follows its host and port."""
    origin, rest = split(url)
    if not origin:
        return "…" if url else ""
    return f"{origin}/…" if rest.strip("/") else url


def _host_and_port(authority: str) -> tuple[str, str]:
    if bracketed := _BRACKETED.fullmatch(authority):
        try:
            return str(IPv6Address(bracketed[1])), bracketed[2] or ""
        except ValueError:
            raise BadURL(f"[{bracketed[1]}] is no IPv6 address.") from None
    host, colon, port = authority.partition(":")
    return _host(host), colon + port


def _port(text: str) -> int:
    found = _PORT.fullmatch(text)
    if not found or not 0 < int(found[1]) < 65536:
        raise BadURL("The port of the URL must be a number from 1 to 65535.")
    return int(found[1])


def _host(text: str) -> str:
    host = _ascii(text).removesuffix(".")
    if not _NAME.fullmatch(host):
        raise BadURL(f'"{text}" is no name of a host.')
    if not _NUMBER.fullmatch(host.rpartition(".")[2]):
        return host
    # Whatever ends in a number is an address to a resolver, octal, hexadecimal and short ones too.
    if host != text or not address_of(host):
        raise BadURL(_odd(text, _guess(host)))
    return host


def _ascii(text: str) -> str:
    """As urllib3 encodes names, which maps nothing but capitals."""
    try:
        return ".".join(
            label if label.isascii() else idna.encode(label, strict=True, std3_rules=True).decode()
            for label in text.lower().split(".")
        )
    except ValueError:
        # Full-width or circled digits, an ideographic full stop
        plain = unicodedata.normalize("NFKC", text).replace("。", ".")
        reason = _odd(text, plain) if plain.isascii() else f'"{text}" is no name of a host.'
        raise BadURL(reason) from None


def _odd(text: str, plain: str) -> str:
    return f'"{text}" is an odd way to write {plain}: write that.'


def _guess(host: str) -> str:
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return "an address"
