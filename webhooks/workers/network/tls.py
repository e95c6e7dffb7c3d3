"""TLS over a socket that a loop watches: contexts, the handshake, and connections.

Inside one call, OpenSSL goes on as long as the other side sends what is no answer: session tickets, key updates, or
empty messages before the handshake. So it never sees the socket. One step gives it what one read of the socket returns,
and these bytes are limited like those of an answer.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from webhooks.ground.error_kinds import ErrorKind
from webhooks.workers.network.attempt import Refused, TimedOut
from webhooks.workers.network.loop import MOST_AT_ONCE, READ, Limits, Socket, Steps

_MAX_CA_FILE = 1_000_000  # bytes; the file of all public authorities has a quarter of that


def start_tls(plain: Socket, context: ssl.SSLContext, name: str, limits: Limits) -> Steps[Socket]:
    """Raises OSError, and ssl.SSLError if the certificate is not for ``name``. The plain socket is used up."""
    connection = plain
    try:
        connection = secure = TLSSocket(plain, context, name)
        yield from secure.shake_hands(limits)
        return secure
    except BaseException as error:
        connection.close()
        if isinstance(error, TimeoutError):
            raise TimedOut("no TLS handshake", ErrorKind.TLS_TIMEOUT) from error
        raise


class TLSSocket(Socket):
    """Takes over the descriptor of a plain socket."""

    def __init__(self, plain: Socket, context: ssl.SSLContext, name: str) -> None:
        self._arrived, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._to_send, server_hostname=name)
        plain.unwatch()
        super().__init__(plain.family, plain.type, plain.proto, plain.detach())
        self.setblocking(False)
        self.opened, self.round_trip = plain.opened, plain.round_trip
        self._error: ssl.SSLError | None = None  # after the last bytes that were sound
        self._has_answered = False
        self._has_ended = False  # the other side has said that it sends no more
        self._is_over = False  # something has arrived after the last bytes of an answer

    @property
    def is_silent(self) -> bool:
        return not self._is_over and super().is_silent

    def shake_hands(self, limits: Limits) -> Steps[None]:
        try:
            while True:
                try:
                    return self._tls.do_handshake()
                except ssl.SSLWantReadError:
                    yield from self._fill(limits)
        except ssl.SSLError:
            with suppress(OSError):  # the alert that says why, for the log of the receiver
                self.send(self._to_send.read())
            raise
        except Refused:
            raise Refused("the TLS handshake has too many bytes", ErrorKind.TLS) from None

    def write(self, data: bytes | memoryview, limits: Limits) -> Steps[None]:
        """With the end of the handshake, which waits for the first bytes."""
        rest = memoryview(data)
        while rest:
            try:
                count = self._tls.write(rest[:MOST_AT_ONCE])
            except ssl.SSLWantReadError:
                yield from self._fill(limits)
                continue
            rest, encrypted = rest[count:], self._to_send.read()
            try:
                sent = self.send(encrypted)
            except BlockingIOError:
                sent = 0
            if sent < len(encrypted):
                yield from super().write(memoryview(encrypted)[sent:], limits)

    def read(self, limits: Limits) -> Steps[bytes]:
        while not self._has_ended:
            if self._error:
                raise self._error
            if not self._arrived.pending:  # else more than the end of the handshake has arrived
                if not self._has_answered:
                    self.acknowledge()
                yield self, READ
                try:
                    arrived = self.recv(MOST_AT_ONCE)
                except BlockingIOError:
                    continue
                if not arrived:
                    return b""  # without the notice that TLS asks for, as many servers do
                limits.charge(len(arrived))
                self._arrived.write(arrived)
            if data := self._decrypted():
                self._has_answered = True
                return data
            if self._to_send.pending and not self._error:  # what TLS answers itself, to a key update for example
                yield from super().write(self._to_send.read(), limits)
        return b""

    def _decrypted(self) -> bytes:
        """All that can be decrypted of what has arrived. The rest is part of a record, or for TLS itself."""
        data, self._is_over = b"", True
        try:
            while piece := self._tls.read(MOST_AT_ONCE):
                if not self._arrived.pending:
                    self._is_over = False
                    return data + piece if data else piece
                data += piece
            self._has_ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._error = error
        return data

    def _fill(self, limits: Limits) -> Steps[None]:
        """Send what TLS wants to send, and read what it needs next."""
        if self._to_send.pending:
            yield from super().write(self._to_send.read(), limits)
        self.acknowledge()
        if arrived := (yield from super().read(limits)):
            self._arrived.write(arrived)
        else:
            self._arrived.write_eof()


def tls_context(verify: bool | str) -> ssl.SSLContext:
    """The settings of connections that verify certificates by the public authorities, by a CA file, or not at all.

    With a file, it takes for ever if the disk hangs: call it in a thread. Raises Refused if the file cannot be used. It
    must be a regular one: OpenSSL would wait for ever for a pipe or a terminal.
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
    return found
