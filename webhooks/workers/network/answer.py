"""Read an HTTP/1.1 answer (RFC 9112): strict about where it ends, lenient about what it says.

If two programs could see its end at different bytes, it is refused, or it is the last one on its connection. A header
that is none is skipped, and a body that cannot be decoded is empty. The result depends on the bytes alone, and never on
the packets in which they came.

The errors are those of ``http.client``, and Refused for answers that it would accept.
"""

from __future__ import annotations

import http.client
import math
import re
import time
import zlib

from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.headers import NAME
from webhooks.workers.network.attempt import NO_HTTP, Refused
from webhooks.workers.network.loop import PAUSE, Limits, Socket, Steps

MAX_HEAD_BYTES = 131_072  # of all lines before the body, interim answers included, and again after it
MAX_HEADERS = 100

# Bytes of a body that are read, compressed or not, so that the connection can be used again.
MAX_BODY_BYTES = 65_536

# Seconds to wait for what is left of a body after the wanted bytes.
REST_SECONDS = 1.0

# Parts of an answer that are read before another one may have a turn.
PARTS_AT_ONCE = 256

_MAX_CHUNK_LINE = 65_536
_SWITCHING_PROTOCOLS = 101

_END_OF_HEAD = re.compile(rb"\n\r?\n")
_STATUS_LINE = re.compile(r"HTTP/1\.([0-9])[ \t]+([1-9][0-9]{2})(?:[ \t]+(.*))?", re.DOTALL)
_LENGTH = re.compile(r"[0-9]{1,15}")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\n]*)?\r?\n")
_MAX_CHUNK_SIZE = 16**15
_PLAIN_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,4})\r\n")

_CHUNKS, _TO_THE_END = -1.0, math.inf

_ANNOUNCING = {"content-length", "transfer-encoding"}
_FRAMING = {*_ANNOUNCING, "connection"}

# A final answer with such a status ends with its head (RFC 9112, section 6.3), and a 204 must not have a length.
_WITHOUT_BODY = {204, 304}

# The window sizes of zlib for a coding, to try in turn. Some servers send "deflate" without the header of zlib.
_GZIP = (16 + zlib.MAX_WBITS,)
_WINDOWS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": (zlib.MAX_WBITS, -zlib.MAX_WBITS)}
_MAX_CODINGS = 5

# By the name in lower case, the name and the value. Values of one name are joined by commas.
Fields = dict[str, tuple[str, str]]


class Answer:
    """One answer, with the first ``keep`` bytes of its body."""

    def __init__(self, keep: int) -> None:
        self._keep, self._most = keep, max(keep, MAX_BODY_BYTES)
        self.status: int | None = None
        """None until the head of the final answer has arrived."""
        self.phrase = ""
        self.fields: Fields = {}
        self.body = b""
        """Without its compression. Empty if it cannot be decoded."""
        self.has_begun = False
        """Whether any byte has arrived."""
        self._closes = False
        self._length = 0.0
        self._coded = bytearray()
        self._stored, self._read_bytes = keep, 0
        self._buffer = bytearray()
        self._connection: Socket
        self._limits: Limits

    def header(self, name: str) -> str | None:
        """A value by its name in lower case."""
        return self.fields.get(name, (name, None))[1]

    def read(self, connection: Socket, limits: Limits) -> Steps[bool]:
        """Read the answer to a request. Returns whether the connection may be used again.

        Raises http.client.HTTPException, OSError and Refused. The head counts if ``status`` is known then.
        """
        self._connection, self._limits = connection, limits
        left = MAX_HEAD_BYTES
        while self.status is None:
            head = yield from self._head(left)
            left -= len(head)
            self._parse_head(head)
        end = limits.end
        try:
            yield from self._read_chunks() if self._length == _CHUNKS else self._read(self._length)
            is_whole = True
        except Exception:
            if self._read_bytes < self._most and len(self._decoded()) < self._keep:
                raise
            is_whole = False  # the rest would not change the result
        finally:
            limits.end = end
            self.body = self._decoded()
        return is_whole and not self._closes and not self._buffer

    def _parse_head(self, head: bytes) -> None:
        line, *lines = head.decode("latin-1").rstrip("\r\n").split("\n")
        minor, status, phrase = _parse_status_line(line)
        fields, is_sound = _parse_fields(lines)
        self._closes |= not (is_sound and _is_plain(head))
        if status < 200 and status != _SWITCHING_PROTOCOLS:
            # An interim answer (RFC 9110, section 15.2). To others it may be the final one, or have a body.
            self._closes |= not _FRAMING.isdisjoint(fields)
            return
        self.fields = fields
        connection = (self.header("connection") or "").lower()
        keeps = "close" not in connection
        if minor == "0":  # it has no chunks, and some proxies know that
            keeps = "keep-alive" in connection and "transfer-encoding" not in self.fields
        self._closes |= not keeps
        if status not in _WITHOUT_BODY or not _ANNOUNCING.isdisjoint(fields):
            self._length = self._body_length()
        if status == _SWITCHING_PROTOCOLS or status in _WITHOUT_BODY:
            # The rest is not HTTP. Or there is no body, and some servers send the one that they announce.
            self._closes |= status == _SWITCHING_PROTOCOLS or self._length != 0
            self._length = 0
        self._closes |= self._length > self._most  # its end is not read
        if "content-encoding" in self.fields:
            self._stored = self._most
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
        if coding.rpartition(",")[2].strip() == "chunked":
            return _CHUNKS
        if length is not None:
            return int(length)
        self._closes = True
        return _TO_THE_END if coding == "identity" else 0  # nothing says where the body ends

    def _decoded(self) -> bytes:
        """The wanted bytes of the body, without its compression. Empty if they cannot be decoded."""
        if "content-encoding" not in self.fields:
            return bytes(self._coded[: self._keep])
        codings = [one.strip() for one in reversed((self.header("content-encoding") or "").lower().split(","))]
        data = bytes(self._coded)
        if len(codings) <= _MAX_CODINGS and _WINDOWS.keys() >= set(codings):
            for coding in codings:
                data = _inflated(data, _WINDOWS[coding], self._most)
        return data[: self._keep]

    def _read(self, left: float) -> Steps[None]:
        """Read the next ``left`` bytes of the body."""
        while left:
            if not self._buffer and not (yield from self._more()):
                if left == _TO_THE_END:
                    return
                raise http.client.IncompleteRead(b"")
            piece = self._take(int(min(left, len(self._buffer))))
            left -= len(piece)
            self._add(piece)

    def _add(self, piece: bytes | bytearray) -> None:
        """Add the next bytes of the body, as far as they are wanted."""
        self._read_bytes += len(piece)
        if room := self._stored - len(self._coded):
            self._coded += piece[:room]

    def _read_chunks(self) -> Steps[None]:
        """RFC 9112, section 7.1."""
        while True:
            self._take_plain_chunks()
            if not (size := self._chunk_size((yield from self._line(_MAX_CHUNK_LINE)))):
                break
            yield from self._read(size)
            if (line := (yield from self._line(2))) != b"\r\n":
                if line in (b"", b"\r"):
                    raise http.client.IncompleteRead(b"")
                raise Refused(f"{NO_HTTP}: a chunk does not end after its size", ErrorKind.INVALID_HTTP)
        yield from self._skip_trailer()

    def _take_plain_chunks(self) -> None:
        """Take chunks in their usual form that have arrived as a whole, until another answer may have a turn.

        A quarter of the processor time of reading them line by line. The result is the same.
        """
        buffer, count, begin = self._buffer, 0, 0
        most = self._limits.parts % PARTS_AT_ONCE // 2  # each chunk has two lines
        while count < most and (found := _PLAIN_CHUNK_SIZE.match(buffer, begin)):
            end = found.end() + int(found[1], 16)
            if end == found.end() or buffer[end : end + 2] != b"\r\n":
                break
            self._add(buffer[found.end() : end])
            count, begin = count + 1, end + 2
        self._limits.parts -= 2 * count
        del buffer[:begin]

    def _chunk_size(self, line: bytes) -> int:
        """The number in the first line of a chunk. ``requests`` accepts more than the strict form, and others may see
        another number there: then the connection is not used again."""
        self._closes |= not _is_plain(line)
        if len(line) <= _MAX_CHUNK_LINE and (found := _CHUNK_SIZE.fullmatch(line)):
            return int(found[1], 16)
        self._closes = True
        is_cut = not line.endswith(b"\n") and len(line) <= _MAX_CHUNK_LINE
        try:
            size = int(line.partition(b";")[0], 16) if len(line) <= _MAX_CHUNK_LINE else -1
        except ValueError:
            size = -1
        if is_cut and size:  # some servers leave out the line break after the last chunk
            raise http.client.IncompleteRead(b"")
        if not 0 <= size < _MAX_CHUNK_SIZE:
            raise Refused(f"{NO_HTTP}: the size of a chunk is no number", ErrorKind.INVALID_HTTP)
        return size

    def _skip_trailer(self) -> Steps[None]:
        """The body is whole. Some servers close the connection here."""
        left = MAX_HEAD_BYTES
        while True:
            line = yield from self._line(left)
            left -= len(line)
            if left < 0:
                raise _too_large("trailer")
            is_cut = not line.endswith(b"\n")
            self._closes |= is_cut or not _is_plain(line)
            if is_cut or line in (b"\r\n", b"\n"):
                return

    # The bytes as they arrive

    def _more(self) -> Steps[bool]:
        """Wait for more bytes. Returns False at the end of the connection. Raises Refused if none are wanted."""
        wants_more = self._read_bytes < self._most
        if self.status is not None and self._stored == self._keep <= self._read_bytes:
            # The wanted bytes are there. The rest must come soon.
            wants_more = wants_more and not self._closes
            self._limits.end = min(self._limits.end, time.monotonic() + REST_SECONDS)
        if not wants_more:
            raise Refused("the rest of the body is not wanted", ErrorKind.ANSWER_TOO_LARGE)
        if self.has_begun:
            self._connection.acknowledge()
        data = yield from self._connection.read(self._limits)
        self.has_begun |= bool(data)
        self._buffer += data
        return bool(data)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _head(self, most: int) -> Steps[bytes]:
        """The status line and the headers, with the empty line. Judges them as soon as it can: more may never come.
        The first fault in the order of the bytes counts."""
        searched = counted = lines = 0
        while True:
            found = _END_OF_HEAD.search(self._buffer, searched, most)
            end = found.end() if found else min(len(self._buffer), most)
            new = self._buffer.count(b"\n", counted, end)
            has_too_many = lines + new > MAX_HEADERS + (2 if found else 1)  # besides the status line and the empty line
            if new and not lines and (has_too_many or not found):  # else the caller parses it
                _parse_status_line(self._buffer[: self._buffer.find(b"\n")].decode("latin-1"))
            if has_too_many:
                raise http.client.HTTPException(f"got more than {MAX_HEADERS} headers")
            lines, counted = lines + new, end
            if found:
                if self._charge(lines):
                    yield self._connection, PAUSE
                return self._take(end)
            if len(self._buffer) > most:
                raise _too_large("head")
            searched = max(0, len(self._buffer) - 2)
            if not (yield from self._more()):
                if not self._buffer:
                    raise ConnectionResetError
                raise Refused(f"{ErrorKind.CLOSED.english} before the end of its headers", ErrorKind.CLOSED)

    def _line(self, most: int) -> Steps[bytes]:
        """The next line with its end, or more than ``most`` bytes of a line that is longer. At the end of the
        connection, what is left."""
        if self._charge(1):
            yield self._connection, PAUSE
        searched = 0
        while (end := self._buffer.find(b"\n", searched) + 1) == 0:
            searched = len(self._buffer)
            if searched > most:
                return self._take(most + 1)
            if not (yield from self._more()):
                return self._take(searched)
        return self._take(min(end, most + 1))

    def _charge(self, parts: int) -> bool:
        """Count parts of the answer. Returns whether others should have a turn."""
        limits = self._limits
        before, limits.parts = limits.parts, limits.parts - parts
        if limits.parts < 0:
            raise Refused("the answer has too many parts", ErrorKind.ANSWER_TOO_LARGE)
        return before // PARTS_AT_ONCE != limits.parts // PARTS_AT_ONCE


def _inflated(data: bytes, windows: tuple[int, ...], most: int) -> bytes:
    """At most ``most`` bytes of what was compressed; empty if it was not compressed like that. What follows the end of
    the compressed data is not looked at."""
    for window in windows:
        try:
            return zlib.decompressobj(window).decompress(data, most)
        except zlib.error:
            continue
    return b""


def _is_plain(lines: bytes) -> bool:
    """Whether all programs see the same lines. Others may end a line at a lone CR only, or not at a lone LF, and a text
    at a NUL."""
    return lines.count(b"\r") == lines.count(b"\n") == lines.count(b"\r\n") and b"\0" not in lines


def _parse_status_line(line: str) -> tuple[str, int, str]:
    """The minor version, the status and the reason phrase."""
    if not (found := _STATUS_LINE.fullmatch(line.rstrip("\r"))):
        raise http.client.BadStatusLine(line.strip() or repr(line))
    return found[1], int(found[2]), (found[3] or "").strip()


def _parse_fields(lines: list[str]) -> tuple[Fields, bool]:
    """The headers, and whether all programs see the same ones. Invalid lines are left out, with the lines that continue
    them."""
    fields: Fields = {}
    name, is_sound = "", True
    for line in lines:
        if line[:1] in (" ", "\t"):  # a folded value, or to others a header
            if name:
                known, value = fields[name]
                fields[name] = known, f"{value} {line.strip()}".strip()
            is_sound = False
            continue
        shown, colon, value = line.partition(":")
        if not colon or not NAME.fullmatch(shown):
            name, is_sound = "", False
            continue
        name, value = shown.lower(), value.strip(" \t\r")
        if name not in fields:
            fields[name] = shown, value
        elif name != "content-length" or value != fields[name][1]:
            fields[name] = fields[name][0], f"{fields[name][1]}, {value}"
    return fields, is_sound


def _too_large(part: str) -> Refused:
    reason = f"the {part} of the answer has more than {MAX_HEAD_BYTES // 1024} KB"
    return Refused(reason, ErrorKind.ANSWER_TOO_LARGE)
