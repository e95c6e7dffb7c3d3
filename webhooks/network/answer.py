"""Read an HTTP/1.1 answer (RFC 9112). If two programs could see its end at different bytes, it is refused, or it is
the last one on its connection.

The errors are those of ``http.client``, and Refused for answers that it would accept.
"""

from __future__ import annotations

import http.client
import math
import re
import zlib

from webhooks.error_kinds import ErrorKind
from webhooks.network import sockets
from webhooks.network.headers import NAME
from webhooks.network.loop import Limits, Socket, Steps
from webhooks.network.outcome import NO_HTTP, Refused

MAX_HEAD_BYTES = 131_072  # of all lines before the body, interim answers included, and again after it
MAX_HEADERS = 100
_MAX_CHUNK_LINE = 65_536
_SWITCHING_PROTOCOLS = 101

_END_OF_HEAD = re.compile(rb"\n\r?\n")
_STATUS_LINE = re.compile(r"HTTP/1\.([0-9])[ \t]+([1-9][0-9]{2})(?:[ \t]+(.*))?", re.DOTALL)
_LENGTH = re.compile(r"[0-9]{1,15}")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\n]*)?\r?\n")

_CHUNKS, _TO_THE_END = -1.0, math.inf

# The window size of zlib for a header of gzip or of zlib.
_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}

# By the name in lower case, the name and the value. Values of one name are joined by commas.
Fields = dict[str, tuple[str, str]]


class Answer:
    """One answer, with the first ``keep`` bytes of its body."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self.status: int | None = None
        """None until the head of the final answer has arrived."""
        self.phrase = ""
        self.fields: Fields = {}
        self.body = bytearray()
        """Without its compression."""
        self.has_begun = False
        """Whether any byte has arrived."""
        self._closes = False
        self._length = 0.0
        self._inflater: zlib._Decompress | None = None

    def header(self, name: str) -> str | None:
        """A value by its name in lower case."""
        return self.fields.get(name, (name, None))[1]

    def read(self, connection: Socket, limits: Limits) -> Steps[bool]:
        """Read the answer to a request. Returns whether the connection may be used again.

        Raises http.client.HTTPException, zlib.error, OSError and Refused. The head counts if ``status`` is known then.
        """
        incoming = _Incoming(self, connection, limits)
        left = MAX_HEAD_BYTES
        while self.status is None:
            head = yield from incoming.head(left)
            left -= len(head)
            self._parse_head(head)
        self._choose_inflater()
        if self._length == _CHUNKS:
            is_whole = yield from self._read_chunks(incoming)
        else:
            is_whole = yield from self._read(incoming, self._length)
        return is_whole and not self._closes and not incoming.buffer

    def _parse_head(self, head: bytes) -> None:
        line, *lines = head.decode("latin-1").rstrip("\r\n").split("\n")
        minor, status, phrase = _parse_status_line(line)
        if status < 200 and status != _SWITCHING_PROTOCOLS:
            return  # an interim answer (RFC 9110, section 15.2)
        if len(lines) > MAX_HEADERS:
            raise http.client.HTTPException(f"got more than {MAX_HEADERS} headers")
        self.fields, is_sound = _parse_fields(lines)
        # Others may end a line at a lone CR, or a text at a NUL.
        is_sound &= head.count(b"\r") == head.count(b"\r\n") and b"\0" not in head
        connection = (self.header("connection") or "").lower()
        keeps = "close" not in connection
        if minor == "0":  # it has no chunks, and some proxies know that
            keeps = "keep-alive" in connection and "transfer-encoding" not in self.fields
        self._closes = not (is_sound and keeps)
        self._length = self._body_length()
        if status == _SWITCHING_PROTOCOLS:
            self._closes = True  # the rest is not HTTP
        if status in (_SWITCHING_PROTOCOLS, 204, 304):
            self._length = 0
        self.status, self.phrase = status, phrase

    def _body_length(self) -> float:
        """The length by the headers (RFC 9112, section 6.3): bytes, ``_CHUNKS`` or ``_TO_THE_END`` of the
        connection."""
        length, coding = self.header("content-length"), (self.header("transfer-encoding") or "identity").lower()
        if length is not None and not _LENGTH.fullmatch(length):
            raise Refused(f"{NO_HTTP}: its Content-Length is no number", ErrorKind.INVALID_HTTP)
        if "transfer-encoding" in self.fields:
            # Others may go by the length.
            self._closes |= length is not None or coding != "chunked"
        if coding == "chunked":
            return _CHUNKS
        if coding != "identity":
            raise Refused(f"{NO_HTTP}: its Transfer-Encoding is unknown", ErrorKind.INVALID_HTTP)
        self._closes |= length is None
        return _TO_THE_END if length is None else int(length)

    def _choose_inflater(self) -> None:
        encoding = (self.header("content-encoding") or "identity").lower()
        if "," in encoding:
            raise Refused("it is compressed more than once", ErrorKind.ANSWER_UNREADABLE)
        if window := _WINDOWS.get(encoding):
            self._inflater = zlib.decompressobj(window)

    def _read(self, incoming: _Incoming, left: float) -> Steps[bool]:
        """Read the next ``left`` bytes of the body. Returns False if the rest is not wanted."""
        while left:
            if not incoming.buffer:
                if len(self.body) >= self._keep:
                    return False
                if not (yield from incoming.more()):
                    if left == _TO_THE_END:
                        return True
                    raise http.client.IncompleteRead(b"")
            piece = incoming.take(int(min(left, len(incoming.buffer))))
            left -= len(piece)
            self._add(piece)
        return True

    def _read_chunks(self, incoming: _Incoming) -> Steps[bool]:
        """RFC 9112, section 7.1. Returns False if the rest is not wanted."""
        while not self._has_enough(incoming):
            line = yield from incoming.line(_MAX_CHUNK_LINE)
            found = _CHUNK_SIZE.fullmatch(line) if len(line) <= _MAX_CHUNK_LINE else None
            if not found:
                raise Refused(f"{NO_HTTP}: the size of a chunk is no number", ErrorKind.INVALID_HTTP)
            if not (size := int(found[1], 16)):
                yield from self._skip_trailer(incoming)
                return True
            if not (yield from self._read(incoming, size)) or self._has_enough(incoming):
                return False
            if (yield from incoming.line(2)) != b"\r\n":
                raise Refused(f"{NO_HTTP}: a chunk does not end after its size", ErrorKind.INVALID_HTTP)
        return False

    def _skip_trailer(self, incoming: _Incoming) -> Steps[None]:
        left = MAX_HEAD_BYTES
        while (line := (yield from incoming.line(left))) not in (b"\r\n", b"\n"):
            left -= len(line)
            if left < 0:
                raise _too_large("trailer")

    def _has_enough(self, incoming: _Incoming) -> bool:
        """Whether the body is complete as far as it is wanted, and more would have to be waited for."""
        return len(self.body) >= self._keep and b"\n" not in incoming.buffer

    def _add(self, piece: bytes) -> None:
        if room := max(0, self._keep - len(self.body)):
            if self._inflater:
                # What follows the end of the compressed data is not looked at.
                piece = b"" if self._inflater.eof else self._inflater.decompress(piece, room)
            self.body += piece[:room]


class _Incoming:
    """The bytes of an answer as they arrive."""

    def __init__(self, answer: Answer, connection: Socket, limits: Limits) -> None:
        self._answer, self._connection, self._limits = answer, connection, limits
        self.buffer = bytearray()

    def more(self) -> Steps[bool]:
        """Wait for more bytes. Returns False at the end of the connection."""
        if self._answer.has_begun:
            sockets.acknowledge(self._connection)
        data = yield from sockets.receive(self._connection, self._limits)
        self._answer.has_begun |= bool(data)
        self.buffer += data
        return bool(data)

    def take(self, count: int) -> bytes:
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        return taken

    def head(self, most: int) -> Steps[bytes]:
        """The status line and the headers, with the empty line. Judges them as soon as it can: more may never come."""
        searched = 0
        while not (found := _END_OF_HEAD.search(self.buffer, searched)):
            if (end := self.buffer.find(b"\n")) >= 0:
                _parse_status_line(self.buffer[:end].decode("latin-1"))
            if len(self.buffer) > most:
                raise _too_large("head")
            if self.buffer.count(b"\n") > MAX_HEADERS + 1:
                raise http.client.HTTPException(f"got more than {MAX_HEADERS} headers")
            searched = max(0, len(self.buffer) - 2)
            if not (yield from self.more()):
                if not self.buffer:
                    raise ConnectionResetError
                raise Refused(f"{ErrorKind.CLOSED.english} before the end of its headers", ErrorKind.CLOSED)
        if found.end() > most:
            raise _too_large("head")
        return self.take(found.end())

    def line(self, most: int) -> Steps[bytes]:
        """The next line with its end, or more than ``most`` bytes of a line that is longer."""
        while (end := self.buffer.find(b"\n") + 1) == 0:
            if len(self.buffer) > most:
                return self.take(most + 1)
            if not (yield from self.more()):
                raise http.client.IncompleteRead(b"")
        return self.take(end)


def _parse_status_line(line: str) -> tuple[str, int, str]:
    """The minor version, the status and the reason phrase."""
    if not (found := _STATUS_LINE.fullmatch(line.rstrip("\r"))):
        raise http.client.BadStatusLine(line.strip() or repr(line))
    return found[1], int(found[2]), (found[3] or "").strip()


def _parse_fields(lines: list[str]) -> tuple[Fields, bool]:
    """The headers, and whether all lines are valid. Those from the first invalid line on are left out."""
    fields: Fields = {}
    name = ""
    for line in lines:
        if line[:1] in (" ", "\t") and name:  # a folded value
            known, value = fields[name]
            fields[name] = known, f"{value} {line.strip()}".strip()
            continue
        shown, colon, value = line.partition(":")
        if not colon or not NAME.fullmatch(shown):
            return fields, False
        name, value = shown.lower(), value.strip(" \t\r")
        if name not in fields:
            fields[name] = shown, value
        elif name != "content-length" or value != fields[name][1]:
            fields[name] = fields[name][0], f"{fields[name][1]}, {value}"
    return fields, True


def _too_large(part: str) -> Refused:
    reason = f"the {part} of the answer has more than {MAX_HEAD_BYTES // 1024} KB"
    return Refused(reason, ErrorKind.ANSWER_TOO_LARGE)
