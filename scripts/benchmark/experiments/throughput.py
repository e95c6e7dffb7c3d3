"""How many deliveries a second, and what each costs in CPU: one worker process with all its bookkeeping."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.benchmark.drains import drain
from scripts.benchmark.figures import Experiment, Figure, Reading, Run, times_at_least, times_at_most
from scripts.benchmark.lab import Lab
from scripts.benchmark.loops import Looped, loop
from scripts.benchmark.usual import FORKING, SIMPLE, the_usual_way
from tests.workers import STOCK

RATE = "deliveries/s"
ONE = "one worker, a fast receiver"
LOOP = "a bare requests loop"
USUAL = "one RQ job each, forking worker"


def bare_loop(lab: Lab, client: str, count: int, behaviour: str = "ok") -> Looped:
    return loop(client, lab.mailbox(behaviour).url, lab.sample, count)


def measure_shipped(lab: Lab) -> Iterator[Reading]:
    while True:
        requests = bare_loop(lab, "requests", lab.size(3000, 200))
        drained = drain(lab, lab.size(5000, 200))
        urllib3 = bare_loop(lab, "urllib3", lab.size(3000, 200))
        usual = the_usual_way(lab, lab.size(150, 10), FORKING)
        simple = the_usual_way(lab, lab.size(300, 10), SIMPLE)
        yield {
            "throughput-loop": Run(drained.rate, requests.rate),
            "throughput-urllib3": Run(drained.rate, urllib3.rate),
            "throughput-usual": Run(drained.rate, usual.rate),
            "throughput-simple": Run(drained.rate, simple.rate),
        }


SHIPPED = Experiment(
    "throughput",
    (
        Figure("throughput-loop", ONE, RATE, LOOP, times_at_least(1)),
        Figure("throughput-urllib3", ONE, RATE, "a bare urllib3 loop"),
        Figure("throughput-usual", ONE, RATE, USUAL, times_at_least(30)),
        Figure("throughput-simple", ONE, RATE, "one RQ job each, SimpleWorker"),
    ),
    measure_shipped,
)


def measure_stock(lab: Lab) -> Iterator[Reading]:
    while True:
        usual = the_usual_way(lab, lab.size(150, 10), FORKING)
        drained = drain(lab, lab.size(5000, 200), worker_class=STOCK)
        yield {"stock": Run(drained.rate, usual.rate)}


ON_STOCK = Experiment(
    "stock",
    (Figure("stock", "one stock forking rqworker, a fast receiver", RATE, USUAL, times_at_least(20)),),
    measure_stock,
)


def measure_slow(lab: Lab) -> Iterator[Reading]:
    while True:
        one = bare_loop(lab, "requests", lab.size(100, 10), "slow")
        drained = drain(lab, lab.size(4000, 200), "slow")
        yield {"slow": Run(drained.rate, one.rate)}


SLOW = Experiment(
    "slow",
    (Figure("slow", "one worker, a receiver of 50 ms", RATE, "one thread, a bare requests loop", times_at_least(25)),),
    measure_slow,
)


def measure_cpu(lab: Lab) -> Iterator[Reading]:
    while True:
        looped = bare_loop(lab, "requests", lab.size(3000, 200))
        drained = drain(lab, lab.size(5000, 200))
        yield {"cpu": Run(1000 * drained.cpu / drained.count, 1000 * looped.cpu / looped.count)}


CPU = Experiment("cpu", (Figure("cpu", "CPU of the worker per delivery", "ms", LOOP, times_at_most(1)),), measure_cpu)
