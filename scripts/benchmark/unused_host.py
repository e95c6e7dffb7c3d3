"""A host that uses nothing optional, in a process of its own: it starts, saves all devices, sends the deliveries, and
prints the calls of functions as JSON. With the argument ``hidden``, nothing optional is there: the app can import
neither ``webhooks.contrib`` nor the packages of its extras, and the places for hooks are empty functions.
"""

from __future__ import annotations

import json
import sys
import threading
from importlib import import_module
from typing import Any

import django

OPTIONAL = ("webhooks.contrib", "drf_spectacular", "health_check", "opentelemetry", "prometheus_client", "yaml")


class OptionalFinder:
    """Counts what the app loads that is optional, or hides it. Others may load it: django-rq has metrics, too."""

    def __init__(self, is_hiding: bool) -> None:
        self.is_hiding, self.count = is_hiding, 0

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.startswith(OPTIONAL) and _importer().partition(".")[0] == "webhooks":
            if self.is_hiding:
                raise ModuleNotFoundError(f"{name} is hidden", name=name)
            self.count += 1


def _importer() -> str:
    """The name of the module that imports something now."""
    frame = sys._getframe(2)
    while frame.f_back and frame.f_globals["__name__"].startswith("importlib"):
        frame = frame.f_back
    return str(frame.f_globals["__name__"])


def start(is_hiding: bool) -> OptionalFinder:
    """Load what a site and its worker load."""
    finder = OptionalFinder(is_hiding)
    sys.meta_path.insert(0, finder)
    django.setup()
    from django.urls import get_resolver

    _ = get_resolver().url_patterns
    import_module("webhooks.workers.worker")
    return finder


class Calls:
    """Counts the calls of functions from now on, in Python and in C, in all threads. Unlike a time, it repeats."""

    def __init__(self) -> None:
        self.count = 0
        threading.setprofile(self._note)
        sys.setprofile(self._note)

    def _note(self, frame: Any, event: str, argument: Any) -> None:
        self.count += event in ("call", "c_call")

    def taken(self) -> int:
        """The calls since the last time."""
        count, self.count = self.count, 0
        return count


def work(is_hiding: bool, calls: Calls) -> tuple[float, float]:
    """The calls for a save and for a delivery."""
    from django.db import transaction

    from dcim.models import Device
    from tests.support.draining import drain
    from webhooks import hooks
    from webhooks.models import Delivery, State

    if is_hiding:
        hooks.listed, hooks.announce, hooks.mails_problems = lambda name: (), lambda *args: None, lambda: False
    devices = list(Device.objects.all())
    devices[0].save()  # the first one prepares much
    calls.taken()
    with transaction.atomic():
        for device in devices:
            device.save()
    saving = calls.taken()
    drain()
    delivering = calls.taken()
    return saving / len(devices), delivering / Delivery.objects.in_states(State.SUCCEEDED).count()


if __name__ == "__main__":
    is_hiding, calls = "hidden" in sys.argv, Calls()
    finder = start(is_hiding)
    figures = dict(zip(("start", "save", "delivery"), (calls.taken(), *work(is_hiding, calls)), strict=True))
    print(json.dumps({"modules": finder.count, **figures}))
