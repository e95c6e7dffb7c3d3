"""Connect to a destination: resolve its name once, judge every address, and use exactly these addresses.

So a name server cannot answer the check and the connection differently. A kept connection is not judged again. Through
a proxy, CONNECT (RFC 9110, section 9.3.6) names the judged address and never the host: a proxy would resolve the host
again. Host, SNI and certificates keep the name.
"""

from __future__ import annotations

import base64
import os
import re
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any
from urllib.parse import unquote, urlsplit

from django.utils.translation import gettext

from webhooks.ground.conf import conf
from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.security import url_policy
from webhooks.ground.security.url_policy import BadURL, Destination, Policy, address_of, networks
from webhooks.ground.text.redaction import redact
from webhooks.workers.network.attempt import Refused, TimedOut
from webhooks.workers.network.lookups import in_thread
from webhooks.workers.network.loop import WRITE, Limits, Socket, Steps, run
from webhooks.workers.network.tls import start_tls, tls_context

RESOLVE_SECONDS = 2  # how long saving a webhook may wait for a name server
_MAX_PROXY_ANSWER = 16_384  # bytes
_END_OF_HEAD = re.compile(rb"\n\r?\n")
_PROXY_STATUS = re.compile(rb"HTTP/1\.[0-9][ \t]+([1-9][0-9]{2})[ \t\r\n]")

SocketAddress = tuple[socket.AddressFamily, Any]

# Seconds for which an address that did not accept a connection in its time is tried last.
DEAD_SECONDS = 60

# Addresses that are remembered. Beyond this, the first ones are forgotten.
_MAX_DEAD = 1000

# The addresses that did not accept, and until when they are tried last (monotonic). For all threads.
_dead: dict[SocketAddress, float] = {}


def connect(scheme: str, host: str, port: int, verify: bool | str, limits: Limits) -> Steps[Socket]:
    """Connect to the first address of ``host`` that accepts, through the proxy if the settings name one.

    ``verify``: whether to verify the certificate of https, or the path of a CA file. Raises Refused if the policy
    forbids the destination, and OSError.
    """
    name = host.lower().removesuffix(".")
    # The resolver gets the dot at the end, too: it then adds no domain of this machine to the name.
    addresses = yield from _judged_addresses(Destination(scheme, name, port), host)
    context = (yield from _tls_context(verify)) if scheme == "https" else None
    through = _connect_through_proxy if conf.proxy else _connect_directly
    try:
        connection = yield from _connect_to_first(addresses, through, limits)
    except TimedOut:  # a step before the connection
        raise
    except TimeoutError as error:
        raise TimedOut("no connection", ErrorKind.CONNECT_TIMEOUT) from error
    return (yield from start_tls(connection, context, name, limits)) if context else connection


def why_blocked(url: str) -> str:
    """Why nothing could be sent to this URL; empty if it could. Takes ``RESOLVE_SECONDS`` at most.

    A name that does not resolve here is accepted: workers may ask another name server, or it gets an address later.
    Each connection is judged again anyway.
    """
    try:
        to = url_policy.parse(url)
        with suppress(OSError):
            run(_judged_addresses(to, to.host), Limits(RESOLVE_SECONDS))
    except (BadURL, Refused) as error:
        return str(error)
    return ""


def _judged_addresses(to: Destination, name: str) -> Steps[list[SocketAddress]]:
    """Return the addresses of ``name``. Raises Refused if the policy forbids the destination or any of them."""
    policy = _policy(repr(conf.destinations))
    if reason := policy.why_blocked(to):
        raise Refused(reason, ErrorKind.BLOCKED)
    addresses = yield from _resolve(name, to.port)
    for _, (text, *_rest) in addresses:
        address = address_of(text)
        reason = policy.why_address_blocked(address) if address else gettext("%(text)s is no address") % {"text": text}
        if reason and not to.address:
            resolved = gettext("%(host)s resolves to a forbidden address: %(reason)s")
            reason = resolved % {"host": to.host, "reason": reason}
        if reason:
            raise Refused(reason, ErrorKind.BLOCKED)
    return addresses


def _resolve(host: str, port: int) -> Steps[list[SocketAddress]]:
    """Return the addresses of a name, at least one, in the system's order.

    Raises socket.gaierror, also for a text that cannot be a name, and TimedOut at the deadline.
    """
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        if address_of(host):
            found = look_up(flags=socket.AI_NUMERICHOST)  # which asks no name server
        else:
            found = yield from in_thread((host, port), host.removesuffix(".").partition(".")[2] or host, look_up)
    except ValueError as error:  # a label of more than 63 characters, or a NUL: Python does not even ask
        raise socket.gaierror(socket.EAI_NONAME, str(error)) from None
    except TimeoutError as error:
        raise TimedOut("the name did not resolve", ErrorKind.RESOLVER) from error
    return [(family, address) for family, _, _, _, address in found]


def _tls_context(verify: bool | str) -> Steps[ssl.SSLContext]:
    """Raises Refused, and TimedOut if the disk with the CA file hangs."""
    if isinstance(verify, bool):  # needs no thread, which all may be busy with lookups that hang
        return tls_context(verify)
    try:
        return (yield from in_thread(("CA file", verify), f"CA file {verify}", partial(tls_context, verify)))
    except TimeoutError as error:
        raise TimedOut("the CA file could not be read", ErrorKind.CA_FILE) from error


@lru_cache(maxsize=1)  # to read the settings for each connection would take longer than the rest
def _policy(settings: str) -> Policy:
    """The policy of the settings. ``settings`` is their text, so that a change counts at once. Raises Refused if they
    are invalid."""
    if key := conf.invalid_destination:
        reason = gettext('WEBHOOKS["%(key)s"] cannot be used, so nothing is sent: see manage.py check')
        raise Refused(reason % {"key": key}, ErrorKind.SETTINGS)
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


def _connect_to_first(
    addresses: list[SocketAddress], connect: Callable[[SocketAddress, Limits], Steps[Socket]], limits: Limits
) -> Steps[Socket]:
    """Connect to the first address that accepts within its share of the time. Raises the error of the last one.

    An address that let its time pass is tried last for a while, so that not every attempt waits for it.
    """
    errors: list[OSError | Refused] = []
    begin, end = time.monotonic(), limits.end
    for tried, address in enumerate(sorted(addresses, key=lambda one: _dead.get(one, 0) > begin)):
        now = time.monotonic()
        limits.end = now + (end - now) / (len(addresses) - tried)
        try:
            connection = yield from connect(address, limits)
            _dead.pop(address, None)
            return connection
        except (OSError, Refused) as error:
            errors.append(error)
            if isinstance(error, TimeoutError) and getattr(error, "kind", "") != ErrorKind.PROXY:
                _dead.pop(address, None)
                _dead[address] = time.monotonic() + DEAD_SECONDS
                while len(_dead) > _MAX_DEAD:
                    _dead.pop(next(iter(_dead)), None)
        finally:
            limits.end = end
    raise errors[-1]


def _connect_directly(address: SocketAddress, limits: Limits) -> Steps[Socket]:
    """Raises OSError, also for a family that this machine does not have."""
    connection = Socket(address[0], socket.SOCK_STREAM)
    begin = time.monotonic()
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        try:
            connection.connect(address[1])
        except BlockingIOError:
            yield connection, WRITE
            if number := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(number, os.strerror(number)) from None
            connection.unwatch()  # it stays writable, which is no news
    except BaseException:
        connection.close()
        raise
    limits.has_connected = True
    connection.opened = time.monotonic()
    connection.round_trip = connection.opened - begin
    return connection


def _connect_through_proxy(address: SocketAddress, limits: Limits) -> Steps[Socket]:
    """Raises Refused with the proxy's answer, or TimeoutError."""
    parts = urlsplit(conf.proxy)
    proxy_host, proxy_port = parts.hostname or "", parts.port or 80
    name = f"{proxy_host}:{proxy_port}"
    host, port, *_ = address[1]
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    authorization, hidden = "", list[str]()
    if parts.username is not None:
        user, password = unquote(parts.username), unquote(parts.password or "")
        credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
        authorization = f"Proxy-Authorization: Basic {credentials}\r\n"
        hidden = [credentials, password or user]
    request = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n".encode()
    try:
        proxy = yield from _resolve(proxy_host, proxy_port)
        connection = yield from _connect_to_first(proxy, _connect_directly, limits)
    except TimeoutError as error:
        raise TimedOut(f"the proxy {name} does not answer", ErrorKind.PROXY) from error
    except ConnectionRefusedError as error:
        raise Refused(f"the proxy {name} refuses connections", ErrorKind.PROXY) from error
    except OSError as error:
        raise Refused(f"the proxy {name} cannot be reached: {error.strerror or error}", ErrorKind.PROXY) from error
    try:
        answer = yield from _ask(connection, request, limits)
        found, head = _PROXY_STATUS.match(answer), _END_OF_HEAD.search(answer)
        status = found[1] if found else b""
        # Bytes after the empty line are not from the destination, which has not been asked yet.
        if status[:1] == b"2" and head and head.end() == len(answer):
            return connection
        line = redact(answer.partition(b"\n")[0].decode("latin-1"), hidden)[:200].strip() or "nothing"
        if status in (b"401", b"407"):
            raise Refused(f"the proxy {name} refuses the worker, it answers: {line}", ErrorKind.PROXY)
        # Any other answer may be about the destination alone.
        raise Refused(f"the proxy {name} does not connect to {target}, it answers: {line}", ErrorKind.PROXY_TARGET)
    except BaseException as error:
        connection.close()
        if isinstance(error, TimeoutError):
            raise TimedOut(f"the proxy {name} does not connect to {target}", ErrorKind.PROXY_TARGET) from error
        raise


def _ask(proxy: Socket, request: bytes, limits: Limits) -> Steps[bytes]:
    """The head of the proxy's final answer, or as much as it sends before it closes the connection."""
    answer = b""
    try:
        yield from proxy.write(request, limits)
        while len(answer) < _MAX_PROXY_ANSWER:
            if head := _END_OF_HEAD.search(answer):
                if not answer.startswith(b"HTTP/1.1 1"):
                    break
                answer = answer[head.end() :]  # an interim answer
            elif more := (yield from proxy.read(limits)):
                answer += more
            else:
                break
    except TimeoutError:
        raise
    except OSError:
        return b""  # it closed the connection with an error
    return answer
