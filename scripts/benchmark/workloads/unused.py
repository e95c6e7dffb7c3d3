"""What a host pays for what is optional and what it does not use, compared with the same where none of it is there.

It counts calls of functions. Of a few calls in 25,000, the time drowns in what a shared machine adds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

from dcim.models import Device
from scripts.benchmark.deliveries import ROOT
from scripts.benchmark.sample_data import make_devices
from scripts.benchmark.servers import Bench
from scripts.benchmark.targets import Figure, Measurement, Measurements, Workload, ratio_at_most, value_at_most

DEVICES, WEBHOOKS = 100, 10


def measure_unused(bench: Bench) -> Iterator[Measurements]:
    """Two hosts in turn, each in a new process and with an empty database. The least counts: waiting adds calls."""
    while True:
        hosts: dict[bool, list[dict[str, float]]] = {False: [], True: []}
        for _ in range(bench.size(3, 1)):
            for is_hiding in hosts:
                hosts[is_hiding].append(measure_host(bench, is_hiding))
        ours, hidden = ({name: min(host[name] for host in found) for name in found[0]} for found in hosts.values())
        yield {f"unused-{name}": Measurement(ours[name], hidden[name]) for name in ours}


def measure_host(bench: Bench, is_hiding: bool) -> dict[str, float]:
    """What ``unused_host`` prints."""
    bench.clear()
    inbox, devices = bench.inbox(), make_devices(bench.size(DEVICES, 4))
    for _ in range(WEBHOOKS):
        bench.webhook(inbox.url, Device)
    command = [sys.executable, "-m", "scripts.benchmark.unused_host", *(["hidden"] if is_hiding else [])]
    environment = bench.environment() | {"PYTHONHASHSEED": "0"}
    printed = subprocess.check_output(command, cwd=ROOT, env=environment, text=True)
    inbox.wait_for(WEBHOOKS * len(devices), seconds=10)
    return dict(json.loads(printed))


def _calls(name: str, what: str, limit: float) -> Figure:
    what = f"calls of functions for {what}, with optional parts that are not used"
    return Figure(f"unused-{name}", what, "calls", WITHOUT, ratio_at_most(limit))


WITHOUT = "none of them is there"
MODULES = "optional modules that the app loads in a host that uses none of them"

UNUSED = Workload(
    "unused",
    (
        Figure("unused-modules", MODULES, "modules", WITHOUT, value_at_most(0, "modules")),
        _calls("start", "the start of a site or a worker", 1.01),
        _calls("save", f"a save of a device with {WEBHOOKS} subscribers, in a transaction of {DEVICES}", 1.01),
        _calls("delivery", "a delivery", 1.05),
    ),
    measure_unused,
)
