"""What a delete costs that cascades to many registered rows, with nobody subscribed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import transaction
from django.db.models.signals import pre_delete

from dcim.models import Device, Interface, Site
from scripts.benchmark.conditions import Work, medians, without_webhooks
from scripts.benchmark.figures import Experiment, Figure, Reading, Run, times_at_most
from scripts.benchmark.inventory import make_devices, make_interfaces
from scripts.benchmark.lab import Lab

ROWS = 1000


def delete_and_take_back(device: Device) -> None:
    """All of a delete but its commit, so that the next one finds the same rows."""
    with transaction.atomic():
        Device.objects.get(pk=device.pk).delete()
        transaction.set_rollback(True)


def nothing(sender: Any, **kwargs: Any) -> None:
    """A receiver of pre_delete, which alone makes Django load the rows before it deletes them."""


@contextmanager
def empty_receiver(device: Device) -> Iterator[Work]:
    with without_webhooks():
        for sender in (Device, Interface):
            pre_delete.connect(nothing, sender=sender)
        yield lambda: delete_and_take_back(device)


@contextmanager
def ours(device: Device) -> Iterator[Work]:
    yield lambda: delete_and_take_back(device)


def measure(lab: Lab) -> Iterator[Reading]:
    [device] = make_devices(1)
    make_interfaces(device, lab.size(ROWS, 100))
    lab.webhook("http://127.0.0.1:1/", Site)
    while True:
        taken, empty = medians(lab.size(20, 2), lambda: ours(device), lambda: empty_receiver(device))
        yield {"delete": Run(1000 * taken, 1000 * empty)}


CASCADE = Experiment(
    "delete",
    (
        Figure(
            "delete",
            f"a delete that cascades to {ROWS:,} registered rows, nobody subscribed",
            "ms",
            "with an empty delete receiver",
            times_at_most(1.1),
        ),
    ),
    measure,
)
