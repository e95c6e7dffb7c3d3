"""Where an answer ends and the next one begins: stricter than ``http.client``, whose errors there one receiver could
use against the worker, and for whose the next delivery would pay."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase

from webhooks.network.outcome import Refused

SWITCHING_PROTOCOLS = 101

# RFC 9112, section 7.1. ``int`` reads ``-1`` too, and minus one byte is all that comes.
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\n]*)?\r?\n")
LONGEST = 65536  # bytes of that line, as for those of headers


# Bytes of all lines of an answer before its body, interim answers included, and again of those after it. Parsed, they
# take several times as much memory, in each thread that sends.
LARGEST_HEAD = 131_072


class Answer(http.client.HTTPResponse):
    def begin(self) -> None:
        """Reads as far as the headers of the final answer (RFC 9110, section 15.2): ``http.client`` itself takes each
        interim one for final, but for 100, and the final one for that of the next request."""
        with self._few_lines("head"):
            super().begin()
            while self.status < 200 and self.status != SWITCHING_PROTOCOLS:
                self.headers = self.msg = None  # type: ignore[assignment]
                super().begin()
        if self.status == SWITCHING_PROTOCOLS:
            self.will_close = True  # what comes then is no HTTP, and nobody has asked for it

    def _read_and_discard_trailer(self) -> None:
        with self._few_lines("trailer"):
            super()._read_and_discard_trailer()  # type: ignore[misc]

    @contextmanager
    def _few_lines(self, part: str) -> Iterator[None]:
        """Within, raises Refused when the lines have more than ``LARGEST_HEAD`` bytes."""
        file = self.fp
        self.fp = _Lines(file, part)  # type: ignore[assignment]
        try:
            yield
        finally:
            if self.fp is not None:  # else it was closed, after a status line that is none
                self.fp = file

    def _read_next_chunk_size(self) -> int:
        found = _CHUNK.fullmatch(self.fp.readline(LONGEST))
        if not found:
            raise http.client.HTTPException("the size of a chunk is no number")
        return int(found[1], 16)


class _Lines:
    """Lines of a file until they are too many; ``part`` says of which part of the answer.

    ``http.client`` takes the end of the file for the end of the headers, so a head that is cut off would succeed.
    """

    def __init__(self, file: BufferedIOBase, part: str) -> None:
        self._file, self._part = file, part
        self._left = LARGEST_HEAD
        self._in_head = False

    def readline(self, limit: int) -> bytes:
        line = self._file.readline(min(limit, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise Refused(f"the {self._part} of the answer has more than {LARGEST_HEAD // 1024} KB")
        if self._part == "head":
            if not line.endswith(b"\n") and len(line) < limit and (line or self._in_head):
                raise Refused("connection closed by the receiver before the end of its headers")
            self._in_head = bool(line.strip())
        return line

    def close(self) -> None:
        self._file.close()
