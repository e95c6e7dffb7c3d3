"""What endpoints that never answer do to the deliveries of one that does."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator

from dcim.models import Device
from scripts.benchmark.experiments.latency import by_delivery, commit, milliseconds, p99
from scripts.benchmark.figures import Experiment, Figure, Reading, Run, more_at_most, times_at_most
from scripts.benchmark.inventory import make_devices
from scripts.benchmark.lab import Lab

HANGING = 10
EVERY = 0.04  # seconds between two saves


def healthy_latencies(lab: Lab, hanging: int) -> list[float]:
    """Milliseconds from commit to receipt of each delivery to an endpoint that answers, while so many others, which
    want the same changes, do not."""
    lab.empty()
    devices = make_devices(100)
    for _ in range(hanging):
        lab.webhook(lab.mailbox("hang").url, Device)
    mailbox = lab.mailbox()
    healthy = lab.webhook(mailbox.url, Device)
    with lab.workers():
        committed = save_steadily(itertools.islice(itertools.cycle(devices), lab.size(600, 30)))
        mailbox.wait_for(len(committed), 60)
        # The first sixth is left out: whatever hangs has to hang first.
        warm = committed[len(committed) // 6]
        judged = {pk: at for pk, at in by_delivery(healthy, committed).items() if at > warm}
    return milliseconds(judged, mailbox)


def save_steadily(devices: Iterable[Device]) -> list[float]:
    """One after the other; returns when each was committed (monotonic)."""
    begun = time.monotonic()
    committed = []
    for number, device in enumerate(devices):
        time.sleep(max(0.0, begun + number * EVERY - time.monotonic()))
        committed.append(commit(device.save))
    return committed


def measure(lab: Lab) -> Iterator[Reading]:
    while True:
        alone, beside = healthy_latencies(lab, 0), healthy_latencies(lab, HANGING)
        yield {"hanging": Run(p99(beside), p99(alone))}


ENDPOINTS = Experiment(
    "hanging",
    (
        Figure(
            "hanging",
            "commit to receipt at a healthy endpoint while ten others hang, p99",
            "ms",
            "without the ten",
            times_at_most(1.2) | more_at_most(20, "ms"),
        ),
    ),
    measure,
)
