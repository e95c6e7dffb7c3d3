"""A steady load while workers are killed, PostgreSQL restarts, Redis is away, or receivers fail."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from scripts.benchmark.deliveries import FORKING
from scripts.benchmark.servers import UNREACHABLE, Bench
from scripts.benchmark.steady import Course, Events, Phases, RqJobs, Stream, follow
from scripts.benchmark.targets import (
    Figure,
    Measurement,
    Measurements,
    Target,
    Workload,
    difference_at_most,
    ratio_at_least,
    ratio_at_most,
    value_at_most,
)
from scripts.benchmark.workloads.latency import RQ_JOBS, p99
from tests.support.servers import restart_postgresql
from tests.support.workers import SHIPPED, Worker

RATE, USUAL_RATE = 500, 20
WORKERS = 2
HEALTHY, FAILING = 7, 3

# A quick run cannot wait for the default lease of 15 s.
QUICK = {"LEASE": 2, "SWEEP_INTERVAL": 0.3}


@dataclass
class Scene:
    """The processes and streams of one course, for the trouble to act on."""

    bench: Bench
    worker_class: str
    settings: dict[str, float]
    workers: list[Worker]
    streams: Sequence[Stream]
    redis: Any

    def replace_worker(self, index: int) -> None:
        self.workers[index].kill()
        self.workers[index] = self.bench.start_worker(self.worker_class, **self.settings)


Trouble = Callable[[Scene, float], None]


def kill_workers(scene: Scene, seconds: float) -> None:
    """Kill one of the workers each second, and start it again at once."""
    for number in range(max(1, int(seconds))):
        scene.replace_worker(number % len(scene.workers))
        time.sleep(min(1, seconds))


def restart_database(scene: Scene, seconds: float) -> None:
    restart_postgresql("fast")


def stop_redis(scene: Scene, seconds: float) -> None:
    """Kill Redis, and start it again without any data."""
    scene.redis.kill()
    time.sleep(seconds)
    scene.redis.revive()


def fail_receivers(scene: Scene, seconds: float) -> None:
    """Let the receivers of the second stream answer 503, refuse connections, and hang."""
    bench, failing = scene.bench, scene.streams[1]
    failing.redirect([bench.inbox("fail").url, UNREACHABLE, bench.inbox("hang").url])
    time.sleep(seconds)
    failing.redirect(failing.own_urls)


def watch(bench: Bench, stream_type: type[Events | RqJobs], worker_class: str, trouble: Trouble, rate: int) -> Course:
    bench.clear()
    settings = QUICK if bench.size.is_quick else {}
    receivers = (HEALTHY, FAILING) if trouble is fail_receivers else (1,)
    # Claims of a killed worker come back after its lease and the next sweep. RQ's jobs do not come back.
    quiet = bench.size(25, 8) if worker_class == SHIPPED else bench.size(8, 1)
    phases = Phases(0.3, 1, 0.5, 1.1, quiet) if bench.size.is_quick else Phases(3, 8, 8, 8, quiet)
    with bench.own_redis() if trouble is stop_redis else nullcontext() as redis:
        streams = [stream_type(bench, count) for count in receivers]
        shares = [count / sum(receivers) for count in receivers]
        with bench.workers(worker_class, bench.size(WORKERS, 1), **settings) as workers:
            scene = Scene(bench, worker_class, settings, workers, streams, redis)
            return follow(streams, shares, rate, phases, partial(trouble, scene))


def measure(name: str, trouble: Trouble, bench: Bench) -> Iterator[Measurements]:
    usual = watch(bench, RqJobs, FORKING, trouble, USUAL_RATE)
    while True:
        ours = watch(bench, Events, SHIPPED, trouble, bench.size(RATE, 100))
        yield {
            f"{name}-rate": Measurement(ours.rate, ours.clean_rate),
            f"{name}-p99": Measurement(p99(ours.delays), p99(ours.clean_delays)),
            f"{name}-recovery": Measurement(ours.recovery),
            f"{name}-held": Measurement(_percent(ours), _percent(usual)),
            f"{name}-lost": Measurement(ours.lost_percent, usual.lost_percent),
        }


def _percent(course: Course) -> float:
    return 100 * course.rate / course.clean_rate


def _workload(
    name: str, when: str, trouble: Trouble, rate: float | None, recovery: float, delay: Target | None = None
) -> Workload:
    before = "before"
    return Workload(
        name,
        (
            Figure(
                f"{name}-rate",
                f"{RATE} changes a second, {when}",
                "deliveries/s",
                before,
                ratio_at_least(rate) if rate else None,
            ),
            Figure(f"{name}-p99", f"commit to receipt, {when}, p99", "ms", before, delay),
            Figure(f"{name}-recovery", f"until the rate is back, {when}", "s", "", value_at_most(recovery, "s")),
            Figure(f"{name}-held", f"share of the rate that is kept, {when}", "%", RQ_JOBS),
            Figure(f"{name}-lost", f"changes that are lost, {when}", "%", RQ_JOBS, value_at_most(0, "%")),
        ),
        partial(measure, name, trouble),
        most_runs=2,
    )


KILLED = _workload("killed", "one of two workers killed each second", kill_workers, rate=None, recovery=4)
POSTGRESQL = _workload("postgresql", "PostgreSQL restarted", restart_database, rate=0.75, recovery=2)
REDIS = _workload("redis", "Redis away", stop_redis, 0.95, 1, value_at_most(1200, "ms"))
RECEIVERS = _workload(
    "receivers",
    "three of ten receivers failing, to the other seven",
    fail_receivers,
    0.95,
    1,
    ratio_at_most(1.2) | difference_at_most(20, "ms"),
)

ALL = (KILLED, POSTGRESQL, REDIS, RECEIVERS)
