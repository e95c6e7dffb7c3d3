"""Where an answer ends and the next one begins: stricter than ``http.client``, whose errors there one receiver could
use against the worker, and for whose the next delivery would pay."""

from __future__ import annotations

import http.client

SWITCHING_PROTOCOLS = 101


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
