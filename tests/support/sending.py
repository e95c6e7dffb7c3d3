"""A transport that can wait for the end of a request."""

from __future__ import annotations

from webhooks.network import transport
from webhooks.network.attempt import Request
from webhooks.outcome import Outcome


class Transport(transport.Transport):
    def send(self, request: Request) -> Outcome:
        """Send one request, and wait for its end."""
        outcomes: list[Outcome] = []
        self.poll(0)
        self.start(request, outcomes.append)
        while not outcomes:
            self.poll()
        return outcomes[0]
