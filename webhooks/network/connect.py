"""Connect to a destination: resolve its name once, judge every address, and use exactly these addresses.

So a name server cannot answer the check and the connection differently. A kept connection is not judged again. Through
a proxy, CONNECT (RFC 9110, section 9.3.6) names the judged address and never the host: a proxy would resolve the host
again. Host, SNI and certificates keep the name.
"""

from __future__ import annotations

import base64
import ssl
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from django.utils.translation import gettext
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from webhooks.conf import conf
from webhooks.error_kinds import ErrorKind
from webhooks.network import sockets, url_policy
from webhooks.network.loop import Limits, Socket, Steps, run
from webhooks.network.outcome import Refused, TimedOut
from webhooks.network.sockets import SocketAddress, TLSSocket
from webhooks.network.url_policy import BadURL, Destination, Policy, address_of, networks

RESOLVE_SECONDS = 2  # how long saving a webhook may wait for a name server
_MAX_PROXY_ANSWER = 16_384  # bytes
_MAX_CA_FILE = 1_000_000  # bytes; the file of all public authorities has a quarter of that


def connect(scheme: str, host: str, port: int, verify: bool | str, limits: Limits) -> Steps[Socket]:
    """Connect to the first address of ``host`` that accepts, through the proxy if the settings name one.

    ``verify``: whether to verify the certificate of https, or the path of a CA file. Raises Refused if the policy
    forbids the destination, and OSError.
    """
    name = host.lower().removesuffix(".")
    # The resolver gets the dot at the end, too: it then adds no domain of this machine to the name.
    addresses = yield from _judged_addresses(Destination(scheme, name, port), host)
    context = (yield from sockets.in_thread(partial(tls_context, verify))) if scheme == "https" else None
    through = _connect_through_proxy if conf.proxy else sockets.connect
    try:
        connection = yield from sockets.connect_to_first(addresses, through, limits)
    except TimedOut:  # a step before the connection
        raise
    except TimeoutError as error:
        raise TimedOut("no connection", ErrorKind.CONNECT_TIMEOUT) from error
    return (yield from sockets.start_tls(connection, context, name)) if context else connection


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
    addresses = yield from sockets.resolve(name, to.port)
    for _, (text, *_rest) in addresses:
        address = address_of(text)
        reason = policy.why_address_blocked(address) if address else gettext("%(text)s is no address") % {"text": text}
        if reason and not to.address:
            resolved = gettext("%(host)s resolves to a forbidden address: %(reason)s")
            reason = resolved % {"host": to.host, "reason": reason}
        if reason:
            raise Refused(reason, ErrorKind.BLOCKED)
    return addresses


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


def _connect_through_proxy(address: SocketAddress, limits: Limits) -> Steps[Socket]:
    """Raises Refused with the proxy's answer, or TimeoutError."""
    parts = urlsplit(conf.proxy)
    proxy_host, proxy_port = parts.hostname or "", parts.port or 80
    name = f"{proxy_host}:{proxy_port}"
    host, port, *_ = address[1]
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    authorization = ""
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        authorization = f"Proxy-Authorization: Basic {base64.b64encode(credentials).decode()}\r\n"
    request = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n".encode()
    try:
        proxy = yield from sockets.resolve(proxy_host, proxy_port)
        connection = yield from sockets.connect_to_first(proxy, sockets.connect, limits)
    except TimeoutError as error:
        raise TimedOut(f"the proxy {name} does not answer", ErrorKind.PROXY) from error
    except ConnectionRefusedError as error:
        raise Refused(f"the proxy {name} refuses connections", ErrorKind.PROXY) from error
    except OSError as error:
        raise Refused(f"the proxy {name} cannot be reached: {error.strerror or error}", ErrorKind.PROXY) from error
    try:
        answer = yield from _ask(connection, request, limits)
        # Bytes after the empty line are not from the destination, which has not been asked yet.
        version, _, status = answer.partition(b" ")
        if version.startswith(b"HTTP/1.") and status[:1] == b"2" and answer.endswith(b"\r\n\r\n"):
            return connection
        line = answer.partition(b"\r\n")[0][:200].decode("latin-1") or "nothing"
        if status[:3] in (b"401", b"407"):
            raise Refused(f"the proxy {name} refuses the worker, it answers: {line}", ErrorKind.PROXY)
        # Any other answer may be about the destination alone.
        raise Refused(f"the proxy {name} does not connect to {target}, it answers: {line}", ErrorKind.PROXY_TARGET)
    except BaseException as error:
        connection.close()
        if isinstance(error, TimeoutError):
            raise TimedOut(f"the proxy {name} does not connect to {target}", ErrorKind.PROXY_TARGET) from error
        raise


def _ask(proxy: Socket, request: bytes, limits: Limits) -> Steps[bytes]:
    """The proxy's answer up to its empty line, or as much as it sends before it closes the connection."""
    answer = b""
    try:
        yield from sockets.send(proxy, request)
        while b"\r\n\r\n" not in answer and len(answer) < _MAX_PROXY_ANSWER:
            if not (more := (yield from sockets.receive(proxy, limits))):
                break
            answer += more
    except TimeoutError:
        raise
    except OSError:
        return b""  # it closed the connection with an error
    return answer


def tls_context(verify: bool | str) -> ssl.SSLContext:
    """The settings of connections that verify certificates by the public authorities, by a CA file, or not at all.

    Takes milliseconds, or for ever if the file is on a disk that hangs: call it in a thread. Raises Refused if the file
    cannot be used. It must be a regular one: OpenSSL would wait for ever for a pipe or a terminal.
    """
    if isinstance(verify, bool):
        return _tls_context(verify, None)
    file = Path(verify)
    try:
        if not file.is_file():
            raise Refused(f"the CA file {verify} is no regular file", ErrorKind.CA_FILE)
        if not 0 < file.stat().st_size <= _MAX_CA_FILE:
            raise Refused(f"the CA file {verify} is empty, or has more than {_MAX_CA_FILE:,} bytes", ErrorKind.CA_FILE)
        return _tls_context(True, file.read_text("ascii", "ignore"))  # its comments may have other characters
    except OSError as error:  # also that of OpenSSL for a file without certificates
        raise Refused(f"the CA file {verify} cannot be used: {error.strerror or error}", ErrorKind.CA_FILE) from error


@lru_cache(maxsize=64)
def _tls_context(verify: bool, authorities: str | None) -> ssl.SSLContext:
    found = ssl.create_default_context(cafile=None if authorities else DEFAULT_CA_BUNDLE_PATH, cadata=authorities)
    if not verify:
        found.check_hostname = False
        found.verify_mode = ssl.CERT_NONE
    found.hostname_checks_common_name = False
    # With Diffie-Hellman over a field, a receiver chooses its size: 0.9 s of the one thread that sends, in one step.
    found.set_ciphers(":".join(one["name"] for one in found.get_ciphers() if one["kea"] != "kx-dhe"))
    found.set_alpn_protocols(["http/1.1"])
    found.sslsocket_class = TLSSocket
    return found
