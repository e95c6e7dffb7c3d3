"""Where an answer ends and the next one begins: stricter than ``http.client``, whose errors there one receiver could
use against the worker, and for whose the next delivery would pay."""

from __future__ import annotations

import http.client
import re

SWITCHING_PROTOCOLS = 101

# RFC 9112, section 7.1. ``int`` reads ``-1`` too, and minus one byte is all that comes.
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\n]*)?\r?\n")
LONGEST = 65536  # bytes of that line, as for those of headers


class Answer(http.client.HTTPResponse):
    def begin(self) -> None:
        """Reads as far as the headers of the final answer (RFC 9110, section 15.2): ``http.client`` itself takes each
        interim one for final, but for 100, and the final one for that of the next request."""
        super().begin()
        while self.status < 200 and self.status != SWITCHING_PROTOCOLS:
            self.headers = self.msg = None  # type: ignore[assignment]
            super().begin()
        if self.status == SWITCHING_PROTOCOLS:
            self.will_close = True  # what comes then is no HTTP, and nobody has asked for it

    def _read_next_chunk_size(self) -> int:
        found = _CHUNK.fullmatch(self.fp.readline(LONGEST))
        if not found:
            raise http.client.HTTPException("the size of a chunk is no number")
        return int(found[1], 16)
