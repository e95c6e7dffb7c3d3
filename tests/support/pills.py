"""A worker that dies of some deliveries, as of a bug in a library that is written in C."""

from __future__ import annotations

import os
import signal
from typing import Any

from webhooks.delivery import runner
from webhooks.delivery.outcomes import Claimed, request_for
from webhooks.network.transport import Request
from webhooks.workers.worker import WebhookWorker

PILL = '"pill"'


def _poisoned(claimed: Claimed, **kwargs: Any) -> Request:
    request = request_for(claimed, **kwargs)
    if PILL.encode() in request.body:
        os.kill(os.getpid(), signal.SIGKILL)
    return request


class PoisonedWorker(WebhookWorker):
    """Ends, without a word, where it is to send a delivery with ``PILL`` in its body."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        runner.request_for = _poisoned
        super().__init__(*args, **kwargs)
