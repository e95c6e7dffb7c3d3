"""A worker that some deliveries kill, as a bug in a C library would."""

from __future__ import annotations

import os
import signal
from typing import Any

from webhooks.delivery import request, runner
from webhooks.network.request import Request
from webhooks.workers.worker import WebhookWorker

PILL = '"pill"'


def _poisoned(*arguments: Any) -> Request:
    composed = request.compose(*arguments)
    if PILL.encode() in composed.body:
        os.kill(os.getpid(), signal.SIGKILL)
    return composed


class PoisonedWorker(WebhookWorker):
    """Dies when it is to send a delivery with ``PILL`` in its body."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        runner.compose = _poisoned
        super().__init__(*args, **kwargs)
