"""A transport that can wait for the end of a request."""

from __future__ import annotations

from webhooks.ground.outcome import Outcome
from webhooks.workers.network import transport
from webhooks.workers.network.attempt import Request


class Transport(transport.Transport):
    def send(self, request: Request) -> Outcome:
        """Send one request, and wait for its end."""
        outcomes: list[Outcome] = []
        self.poll(0)
        self.start(request, outcomes.append)
        while not outcomes:
            self.poll()
        return outcomes[0]
