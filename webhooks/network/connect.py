"""Connect to a destination: resolve its name once, judge every address, and use exactly these addresses.

urllib3 gets the connection from here, so a name server cannot answer the check and the connection differently. A kept
connection is not judged again. Through a proxy, CONNECT (RFC 9110, section 9.3.6) names the judged address and never
the host: a proxy would resolve the host again. Host, SNI and certificates keep the name.
"""

from __future__ import annotations

import base64
import copy
from typing import Any
from urllib.parse import unquote, urlsplit

from webhooks.conf import conf
from webhooks.network import sockets, url_policy
from webhooks.network.outcome import Refused
from webhooks.network.sockets import SocketAddress, TimedSocket
from webhooks.network.url_policy import Destination, Policy, address_of, networks

RESOLVE_SECONDS = 2  # how long saving a webhook may wait for a name server
_MAX_PROXY_ANSWER = 16_384  # bytes


def connect(scheme: str, host: str, port: int) -> TimedSocket:
    """Connect to the first address of ``host`` that accepts, through the proxy if the settings name one.

    Raises Refused if the policy forbids it, and OSError.
    """
    addresses = _judged_addresses(Destination(scheme, host.lower().removesuffix("."), port), host)
    return _connect_through_proxy(conf.proxy, addresses) if conf.proxy else sockets.connect(addresses)


def why_blocked(url: str) -> str:
    """Why nothing could be sent to this URL; empty if it could. Takes ``RESOLVE_SECONDS`` at most.

    A name that does not resolve here is accepted: workers may ask another name server, or it gets an address later.
    Each connection is judged again anyway.
    """
    if reason := url_policy.problem(url):
        return reason
    to = url_policy.parse(url)
    try:
        with sockets.deadline(RESOLVE_SECONDS):
            _judged_addresses(to, to.host)
    except Refused as error:
        return str(error)
    except OSError:
        pass
    return ""


def _judged_addresses(to: Destination, name: str) -> list[SocketAddress]:
    """Return the addresses of ``name``. Raises Refused if the policy forbids the destination or any of them."""
    policy = _policy()
    if reason := policy.why_blocked(to):
        raise Refused(reason)
    addresses = sockets.resolve(name, to.port)
    for _, (text, *_rest) in addresses:
        address = address_of(text)
        reason = policy.why_address_blocked(address) if address else f"{text} is no address"
        if reason:
            raise Refused(reason if to.address else f"{to.host} resolves to a forbidden address: {reason}")
    return addresses


# The settings that were read last, and their policy: reading them for each connection takes longer than the rest.
_cached: tuple[dict[str, Any], Policy] = ({}, Policy())


def _policy() -> Policy:
    """The policy of the settings as they are now. Raises Refused if they are invalid."""
    global _cached
    if (settings := conf.destinations) != _cached[0]:
        _cached = copy.deepcopy(settings), _read_policy()
    return _cached[1]


def _read_policy() -> Policy:
    if key := conf.invalid_destination:
        raise Refused(f'WEBHOOKS["{key}"] cannot be used, so nothing is sent: see manage.py check')
    return Policy(
        allow_networks=networks(conf.allow_networks),
        deny_networks=networks(conf.deny_networks),
        deny_private=conf.deny_private,
        allow_hosts=tuple(conf.allow_hosts),
        deny_hosts=tuple(conf.deny_hosts),
        allow_ports=tuple(map(_port_range, conf.allow_ports)),
        deny_ports=tuple(map(_port_range, conf.deny_ports)),
        allow_schemes=tuple(conf.allow_schemes),
    )


def _port_range(value: int | str) -> range:
    first, _, last = str(value).partition("-")
    return range(int(first), int(last or first) + 1)


def _connect_through_proxy(proxy: str, addresses: list[SocketAddress]) -> TimedSocket:
    """Connect to the first address that the proxy (a URL) reaches within its share of the time. Raises Refused with
    the proxy's answer for the last one, or TimeoutError."""
    errors: list[Refused | TimeoutError] = []
    for tried, (_, address) in enumerate(addresses):
        try:
            with sockets.share_of_time(len(addresses) - tried):
                return _tunnel(proxy, address)
        except (Refused, TimeoutError) as error:
            errors.append(error)
    raise errors[-1]


def _tunnel(proxy: str, address: Any) -> TimedSocket:
    parts = urlsplit(proxy)
    name = f"{parts.hostname}:{parts.port or 80}"
    host, port, *_ = address
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    authorization = ""
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        authorization = f"Proxy-Authorization: Basic {base64.b64encode(credentials).decode()}\r\n"
    request = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n".encode()
    try:
        connection = sockets.connect(sockets.resolve(parts.hostname or "", parts.port or 80))
        try:
            answer = _ask_proxy(connection, request)
        except BaseException:
            connection.close()
            raise
    except TimeoutError:
        raise
    except OSError as error:
        raise Refused(f"the proxy {name} cannot be reached: {error.strerror or error}") from error
    # Bytes after the empty line are not from the destination, which has not been asked yet.
    version, _, status = answer.partition(b" ")
    if not (version.startswith(b"HTTP/1.") and status[:1] == b"2" and answer.endswith(b"\r\n\r\n")):
        connection.close()
        line = answer.partition(b"\r\n")[0][:200].decode("latin-1") or "nothing"
        raise Refused(f"the proxy {name} does not connect to {target}, it answers: {line}")
    return connection


def _ask_proxy(connection: TimedSocket, request: bytes) -> bytes:
    connection.sendall(request)
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < _MAX_PROXY_ANSWER:
        more = connection.recv(_MAX_PROXY_ANSWER)
        if not more:
            break
        answer += more
    return answer
