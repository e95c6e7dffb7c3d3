"""Workers that some deliveries or objects kill, as a bug in a C library would, or stall."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import requests

from tests.testapp.api.serializers import LabelSerializer
from webhooks.workers import compose, runner
from webhooks.workers.network.attempt import Request
from webhooks.workers.worker import WebhookWorker

PILL = '"pill"'


def _poisoned(*arguments: Any, **options: Any) -> Request:
    composed = compose.compose(*arguments, **options)
    if PILL.encode() in composed.body:
        os.kill(os.getpid(), signal.SIGKILL)
    return composed


class PoisonedWorker(WebhookWorker):
    """Dies when it is to send a delivery with ``PILL`` in its body."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        runner.compose = _poisoned
        super().__init__(*args, **kwargs)


def _add_for_ever() -> None:
    """Nothing of Python runs meanwhile, not even a handler of a signal."""
    sum(itertools.repeat(0))


# What happens first to an object with this name.
POISONS: dict[str, Callable[[], None]] = {
    "ends the process": lambda: os._exit(3),
    "hangs": lambda: time.sleep(3600),
    "hangs in C": _add_for_ever,
    "is slow": lambda: time.sleep(0.3),
}


def poison(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
    """Code for ``AUTH``: it does what ``POISONS`` says for a name in the body."""
    body: Any = prepared.body
    for name, happen in POISONS.items():
        if f'"{name}"'.encode() in body:
            happen()
    return prepared


class PoisonedSerializerWorker(WebhookWorker):
    """Its serializer of labels does what ``POISONS`` says for their names."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        serialize = LabelSerializer.to_representation

        def to_representation(serializer: Any, instance: Any) -> Any:
            POISONS.get(instance.name, lambda: None)()
            return serialize(serializer, instance)

        LabelSerializer.to_representation = to_representation  # type: ignore[method-assign]
        super().__init__(*args, **kwargs)
