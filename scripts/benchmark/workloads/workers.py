"""What workers deliver, and the CPU and memory that they need."""

from __future__ import annotations

import time
from collections.abc import Iterator

from scripts.benchmark.deliveries import (
    FORKING,
    MINIMUM_RATE,
    SIMPLE,
    Delivered,
    deliver,
    deliver_in_loop,
    deliver_with_rq_jobs,
    wait_until_recorded,
)
from scripts.benchmark.measure import memory_mb
from scripts.benchmark.receiver import LIMIT, LIMITED, ONE_BY_ONE
from scripts.benchmark.servers import Bench
from scripts.benchmark.targets import (
    Figure,
    Measurement,
    Measurements,
    NotMeasured,
    Workload,
    difference_at_most,
    ratio_at_least,
    ratio_at_most,
    value_at_least,
    value_at_most,
)

RATE = "deliveries/s"
ONE_WORKER = "one worker"
FAST = f"{ONE_WORKER}, a fast receiver"
LOOP = "a bare requests loop"
RQ_JOBS = "one RQ job each, forking worker"


def measure_throughput(bench: Bench) -> Iterator[Measurements]:
    while True:
        requests = deliver_in_loop(bench, "requests", bench.size(3000, 200))
        ours = deliver(bench, bench.size(5000, 200))
        urllib3 = deliver_in_loop(bench, "urllib3", bench.size(3000, 200))
        forking = deliver_with_rq_jobs(bench, bench.size(150, 10), FORKING)
        simple = deliver_with_rq_jobs(bench, bench.size(300, 10), SIMPLE)
        stock = deliver(bench, bench.size(5000, 200), worker_class=FORKING)
        yield {
            "throughput-loop": Measurement(ours.rate, requests.rate),
            "throughput-urllib3": Measurement(ours.rate, urllib3.rate),
            "throughput-usual": Measurement(ours.rate, forking.rate),
            "throughput-simple": Measurement(ours.rate, simple.rate),
            "stock": Measurement(stock.rate, forking.rate),
            "cpu": Measurement(
                _milliseconds_each(ours.cpu, ours.count), _milliseconds_each(requests.cpu, requests.count)
            ),
        }


THROUGHPUT = Workload(
    "throughput",
    (
        Figure("throughput-loop", FAST, RATE, LOOP, ratio_at_least(2.5)),
        Figure("throughput-urllib3", FAST, RATE, "a bare urllib3 loop", ratio_at_least(1.1)),
        Figure("throughput-usual", FAST, RATE, RQ_JOBS, ratio_at_least(80)),
        Figure("throughput-simple", FAST, RATE, "one RQ job each, SimpleWorker"),
        Figure("stock", "one stock forking rqworker, a fast receiver", RATE, RQ_JOBS, ratio_at_least(20)),
        Figure("cpu", "CPU of the worker per delivery", "ms", LOOP, value_at_most(0.22, "ms")),
    ),
    measure_throughput,
)


# What receivers answer, by the behaviours of the benchmark's receiver.
USUAL_ANSWERS = {
    "ok": "200 with a length",
    "no-content": "204",
    "chunked": "an empty 200 in chunks",
    "http-1.0": "200 of HTTP/1.0",
}
KEPT = ("ok", "no-content", "chunked")  # HTTP/1.0 ends its connection after each answer


def measure_answers(bench: Bench) -> Iterator[Measurements]:
    while True:
        found = {}
        for prefix, tls in (("", False), ("tls-", True)):
            usual = 0.0
            for answer in USUAL_ANSWERS:
                is_kept = answer in KEPT
                ours = deliver(bench, bench.size(5000 if is_kept else 1000, 50), answer, tls=tls).rate
                urllib3 = deliver_in_loop(bench, "urllib3", bench.size(3000 if is_kept else 500, 20), answer, tls=tls)
                found[f"{prefix}{answer}-urllib3"] = Measurement(ours, urllib3.rate)
                usual = usual or ours
                if answer in KEPT[1:]:
                    found[f"{prefix}{answer}"] = Measurement(ours, usual)
        yield found


def _answer_figures() -> Iterator[Figure]:
    for prefix, over in (("", ""), ("tls-", " over TLS")):
        for answer, text in USUAL_ANSWERS.items():
            what = f"{ONE_WORKER}, a receiver that answers {text}{over}"
            if answer in KEPT[1:]:
                yield Figure(f"{prefix}{answer}", what, RATE, USUAL_ANSWERS["ok"], ratio_at_least(0.95))
            target = ratio_at_least(1) if answer in KEPT and not prefix else None
            yield Figure(f"{prefix}{answer}-urllib3", what, RATE, "a bare urllib3 loop", target)


ANSWERS = Workload("answers", tuple(_answer_figures()), measure_answers)


def measure_slow_receiver(bench: Bench) -> Iterator[Measurements]:
    while True:
        loop = deliver_in_loop(bench, "requests", bench.size(100, 10), "slow")
        ours = deliver(bench, bench.size(4000, 200), "slow")
        one_by_one_loop = deliver_in_loop(bench, "requests", bench.size(100, 5), ONE_BY_ONE)
        one_by_one = deliver(bench, bench.size(600, 20), ONE_BY_ONE)
        yield {
            "slow": Measurement(ours.rate, loop.rate),
            "one-by-one": Measurement(one_by_one.rate, one_by_one_loop.rate),
        }


SLOW_RECEIVER = Workload(
    "slow",
    (
        Figure("slow", f"{ONE_WORKER}, a receiver of 50 ms", RATE, LOOP, ratio_at_least(25)),
        Figure(
            "one-by-one",
            f"{ONE_WORKER}, a receiver that takes one request at a time, 50 ms each",
            RATE,
            LOOP,
            ratio_at_least(0.98),
        ),
    ),
    measure_slow_receiver,
)


def measure_limited_receiver(bench: Bench) -> Iterator[Measurements]:
    while True:
        bench.clear()
        inbox = bench.inbox(LIMITED)
        webhook = bench.webhook(inbox.url)
        with bench.workers():
            bench.add_events(webhook, bench.size(600, 60))
            # The others were refused at first, and are sent again after a minute.
            count = bench.size(540, 30)
            received = inbox.wait_for(count, seconds=30 + 2 * count / LIMIT)
        yield {"limited": Measurement(received.rate, LIMIT)}


LIMITED_RECEIVER = Workload(
    "limited",
    (
        Figure(
            "limited",
            f"{ONE_WORKER}, a receiver that answers 429 beyond its rate",
            RATE,
            "what it accepts",
            ratio_at_least(0.85),
        ),
    ),
    measure_limited_receiver,
)


# Seconds that receivers take, and deliveries that are in flight then: half of SENDERS, for one webhook.
IN_FLIGHT = 256


def measure_slow_receivers(bench: Bench) -> Iterator[Measurements]:
    while True:
        some_loop = deliver_in_loop(bench, "requests", bench.size(25, 2), "slow-200")
        some = deliver(bench, bench.size(6000, 400), "slow-200")
        many_loop = deliver_in_loop(bench, "requests", bench.size(5, 2), _slowest(bench))
        many = deliver(bench, bench.size(2000, 20), _slowest(bench))
        in_flight = bench.size(IN_FLIGHT, 20)
        one, all_of_them = (_memory_in_flight(bench, senders) for senders in (2, 2 * in_flight))
        yield {
            "slow-200": Measurement(some.steady_rate, some_loop.rate),
            "slow-2000": Measurement(many.rate_of_waves(in_flight), many_loop.rate),
            "waiting-memory": Measurement(1024 * (all_of_them - one) / (in_flight - 1)),
        }


def _memory_in_flight(bench: Bench, senders: int) -> float:
    """The most megabytes of a worker that sends to the slowest receiver, with half of ``senders`` in flight."""
    bench.clear()
    inbox = bench.inbox(_slowest(bench))
    webhook = bench.webhook(inbox.url)
    with bench.workers(SENDERS=senders) as [worker]:
        bench.add_events(webhook, 4 * senders)
        most = 0.0
        inbox.wait_for(2, seconds=30)
        for _ in range(60):
            time.sleep(0.25)
            most = max(most, memory_mb(worker.pid))
            if inbox.received().count >= 3 * senders:
                break
    return most


def _slowest(bench: Bench) -> str:
    """A receiver that takes two seconds, or 0.2 s in a quick run."""
    return f"slow-{bench.size(2000, 200)}"


SLOW_RECEIVERS = Workload(
    "slow-receivers",
    (
        Figure("slow-200", f"{ONE_WORKER}, a receiver of 200 ms", RATE, LOOP, value_at_least(1000, RATE)),
        Figure("slow-2000", f"{ONE_WORKER}, a receiver of 2 s", RATE, LOOP, value_at_least(120, RATE)),
        Figure("waiting-memory", "memory of one more request in flight", "KB", "", value_at_most(50, "KB")),
    ),
    measure_slow_receivers,
    most_runs=2,
)


FEW, MANY, AT_ONCE = 1000, 100_000, 10_000


def measure_memory(bench: Bench) -> Iterator[Measurements]:
    while True:
        bench.clear()
        with bench.workers(FORKING) as [idle]:
            stock = memory_mb(idle.pid)
        early, late = _memory_after(bench, bench.size(FEW, 100), bench.size(MANY, 300))
        yield {"memory": Measurement(late, early), "memory-stock": Measurement(late, stock)}


def _memory_after(bench: Bench, few: int, many: int) -> tuple[float, float]:
    """The megabytes of one worker after few and after many deliveries."""
    bench.clear()
    inbox = bench.inbox()
    webhook = bench.webhook(inbox.url)
    megabytes = []
    done = 0
    with bench.workers() as [worker]:
        for goal in (few, many):
            while done < goal:
                portion = min(AT_ONCE, goal - done)
                bench.add_events(webhook, portion)
                done += portion
                inbox.wait_for(done, seconds=30 + portion / MINIMUM_RATE)
            wait_until_recorded(done)
            megabytes.append(memory_mb(worker.pid))
    return megabytes[0], megabytes[1]


MEMORY_AFTER = f"memory of a worker after {MANY:,} deliveries"

MEMORY = Workload(
    "memory",
    (
        Figure("memory", MEMORY_AFTER, "MB", f"after {FEW:,}", ratio_at_most(1.05)),
        Figure("memory-stock", MEMORY_AFTER, "MB", "an idle stock rqworker", difference_at_most(25, "MB")),
    ),
    measure_memory,
    most_runs=1,
)

SENDERS = 10


def measure_scaling(bench: Bench) -> Iterator[Measurements]:
    while True:
        # Each worker gets the same share, so that each run takes about as long.
        share = bench.size(1200, 60)
        one, two, four = (deliver(bench, share * count, "slow", workers=count, SENDERS=SENDERS) for count in (1, 2, 4))
        yield {**_compare("two", two, one), **_compare("four", four, one)}


def _compare(name: str, several: Delivered, one: Delivered) -> Measurements:
    return {
        f"{name}-workers": Measurement(several.steady_rate, one.steady_rate),
        f"{name}-workers-cpu": Measurement(
            _milliseconds_each(several.cpu, several.count), _milliseconds_each(one.cpu, one.count)
        ),
        f"{name}-workers-database": Measurement(_database_milliseconds_each(several), _database_milliseconds_each(one)),
    }


def _database_milliseconds_each(delivered: Delivered) -> float:
    if not delivered.database_cpu:
        raise NotMeasured("a worker changed its connection to PostgreSQL, or PostgreSQL runs on another machine")
    return _milliseconds_each(delivered.database_cpu, delivered.count)


def _milliseconds_each(seconds: float, count: int) -> float:
    return 1000 * seconds / count


def _scaling_figures(name: str, times: float) -> tuple[Figure, ...]:
    rate = f"{name} workers of {SENDERS} senders, a receiver of 50 ms"
    cpu, database = f"CPU of {name} workers per delivery", f"CPU of PostgreSQL per delivery of {name} workers"
    return (
        Figure(f"{name}-workers", rate, RATE, ONE_WORKER, ratio_at_least(times)),
        Figure(f"{name}-workers-cpu", cpu, "ms", ONE_WORKER, ratio_at_most(1.15)),
        Figure(f"{name}-workers-database", database, "ms", ONE_WORKER, ratio_at_most(1.15)),
    )


SCALING = Workload(
    "workers", (*_scaling_figures("two", 1.8), *_scaling_figures("four", 3.2)), measure_scaling, most_runs=2
)


NUMBERS = {"two": 2, "four": 4}
GROUPS = {"workers": "the workers", "postgresql": "PostgreSQL", "receiver": "the receiver"}


def measure_fast_scaling(bench: Bench) -> Iterator[Measurements]:
    """One, two and four workers, then the same while PostgreSQL and the receiver only get what the workers leave."""
    while True:
        found: dict[str, Measurement] = {}
        for is_niced, kind in ((False, "fast"), (True, "niced")):
            share = bench.size(5000, 100)
            one, *several = (
                deliver(bench, share * n, workers=n, others_niced=is_niced) for n in (1, *NUMBERS.values())
            )
            for name, many in zip(NUMBERS, several, strict=True):
                found[f"{name}-{kind}"] = Measurement(many.steady_rate, one.steady_rate)
                for group in GROUPS:
                    found[f"{name}-{kind}-{group}"] = Measurement(many.cores[group], one.cores[group])
                if not is_niced:
                    found[f"{name}-fast-cores"] = Measurement(100 * many.busy, 100 * one.busy)
                    each = Measurement(_database_milliseconds_each(many), _database_milliseconds_each(one))
                    found[f"{name}-fast-database"] = each
                    each = Measurement(_milliseconds_each(many.cpu, many.count), _milliseconds_each(one.cpu, one.count))
                    found[f"{name}-fast-cpu"] = each
        yield found


def _fast_figures() -> Iterator[Figure]:
    """On a machine with as many cores as workers, they are the limit: workers, PostgreSQL and receiver share them. What
    each delivery costs then shows how the workers would scale on a larger one."""
    for name in NUMBERS:
        workers = f"{name} workers, a fast receiver"
        yield Figure(f"{name}-fast", workers, RATE, ONE_WORKER)
        yield Figure(f"{name}-fast-cores", f"all cores in use, {workers}", "%", ONE_WORKER)
        for kind, when in (("fast", ""), ("niced", ", PostgreSQL and receiver niced")):
            if kind == "niced":
                yield Figure(f"{name}-niced", f"{workers}{when}", RATE, ONE_WORKER)
            for group, who in GROUPS.items():
                yield Figure(f"{name}-{kind}-{group}", f"cores in use by {who}, {workers}{when}", "cores", ONE_WORKER)
        for what, who in (("cpu", "the workers"), ("database", "PostgreSQL")):
            limit = ratio_at_most(1.15)
            yield Figure(f"{name}-fast-{what}", f"CPU of {who} per delivery, {workers}", "ms", ONE_WORKER, limit)


FAST_SCALING = Workload("fast-scaling", tuple(_fast_figures()), measure_fast_scaling, most_runs=2)
