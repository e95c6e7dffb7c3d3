"""Connections through an HTTP proxy: CONNECT (RFC 9110, section 9.3.6) to an address, never to a name.

A proxy that is asked for a name resolves it again, and may go elsewhere than to the address that was judged. Asked
for the address it cannot. Above the tunnel all is as without a proxy: Host, SNI and certificates have the name.
"""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import unquote, urlsplit

from webhooks.network import sockets
from webhooks.network.outcome import Refused
from webhooks.network.sockets import SocketAddress, TimedSocket

# Bytes of a proxy's answer to CONNECT.
MOST = 16384


def connect(proxy: str, addresses: list[SocketAddress]) -> TimedSocket:
    """A connection to the first of the addresses that the proxy, a URL, gets through to in its share of the time.
    Raises Refused with what the proxy says of the last one, or TimeoutError."""
    errors: list[Refused | TimeoutError] = []
    for tried, (_, address) in enumerate(addresses):
        try:
            with sockets.share(len(addresses) - tried):
                return _through(proxy, address)
        except (Refused, TimeoutError) as error:
            errors.append(error)
    raise errors[-1]


def _through(proxy: str, address: Any) -> TimedSocket:
    parts = urlsplit(proxy)
    name = f"{parts.hostname}:{parts.port or 80}"
    try:
        connection = sockets.connect(sockets.resolve(parts.hostname or "", parts.port or 80))
        try:
            answer = _ask(connection, _target(address), _authorization(parts.username, parts.password))
        except BaseException:
            connection.close()
            raise
    except TimeoutError:
        raise
    except OSError as error:
        raise Refused(f"the proxy {name} cannot be reached: {error.strerror or error}") from error
    if not _has_connected(answer):
        connection.close()
        line = answer.partition(b"\r\n")[0][:200].decode("latin-1") or "nothing"
        raise Refused(f"the proxy {name} does not connect to {_target(address)}, it answers: {line}")
    return connection


def _target(address: Any) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _authorization(user: str | None, password: str | None) -> str:
    if user is None:
        return ""
    pair = f"{unquote(user)}:{unquote(password or '')}".encode()
    return f"Proxy-Authorization: Basic {base64.b64encode(pair).decode()}\r\n"


def _ask(connection: TimedSocket, target: str, authorization: str) -> bytes:
    connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < MOST:
        more = connection.recv(MOST)
        if not more:
            break
        answer += more
    return answer


def _has_connected(answer: bytes) -> bool:
    # Whatever follows the empty line was not said by the destination, which has not been asked yet.
    version, _, rest = answer.partition(b" ")
    return version.startswith(b"HTTP/1.") and rest[:1] == b"2" and answer.endswith(b"\r\n\r\n")
