"""Run stories of seeds in child processes, and print those that break a promise."""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import pickle
import random
import signal
import time
from collections.abc import Generator, Iterable
from functools import partial
from typing import Any

from tests.simulation import run as runs
from tests.simulation import servers
from tests.simulation.run import Result

# Seeds whose stories have failed, until the app or the simulation was mended.
KNOWN = (8, 18, 1021, 1023, 1034, 5159)

# A child process runs so many seeds: the tasks that were killed in them stay in its memory.
SEEDS_OF_CHILD = 25


def run(options: argparse.Namespace) -> int:
    with servers.started(options.database) as server:
        return _run_many(options, server) if options.seed is None else _run_one(options, server)


def _run_one(options: argparse.Namespace, server: Any) -> int:
    trace = partial(print, flush=True) if options.trace else None
    [result] = in_child(lambda: [runs.run(options.seed, server, trace=trace)], server)
    _report(result, server, shortens=not options.trace)
    return int(bool(result.problem))


def _run_many(options: argparse.Namespace, server: Any) -> int:
    first = random.SystemRandom().randrange(10**9) if options.first is None else options.first
    most = None if options.minutes and not options.plant else options.seeds
    seeds = itertools.chain(KNOWN if options.known else (), itertools.islice(itertools.count(first), most))
    end = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    began, count, steps, failed = time.monotonic(), 0, 0, 0
    if not options.brief:
        print(f"Seeds from {first} on, on {options.database}", flush=True)
    found = results(seeds, server, end)
    for result in found:
        count, steps = count + 1, steps + result.steps
        if result.problem and options.brief:
            print(f"found after {count} seeds: {result.problem}")
            found.close()
            return 1
        if result.problem:
            failed += 1
            _report(result, server, shortens=not options.all)
            if not options.all:
                found.close()
                break
    seconds = time.monotonic() - began
    print(f"{count} seeds, {steps} steps, {failed} failed, {count / seconds:.1f} seeds a second")
    return int(bool(failed))


def _report(result: Result, server: Any, shortens: bool) -> None:
    print(result)
    if result.trace:
        print(result.trace)
    if result.problem and shortens:
        [shortest] = in_child(lambda: [runs.shorten(result, server)], server)
        print(f"The shortest story that fails: {shortest}")


def results(seeds: Iterable[int], server: Any, end: float = float("inf")) -> Generator[Result, None, None]:
    """Run seeds in child processes, one after the other, until ``end`` by the monotonic clock."""
    left = iter(seeds)
    while part := list(itertools.islice(left, SEEDS_OF_CHILD)):
        yield from in_child(lambda: (runs.run(seed, server) for seed in part), server)  # runs at once
        if time.monotonic() > end:
            return


def in_child(work: Any, server: Any) -> Generator[Result, None, None]:
    """Do the work in a child process, and pass on each result. A child ends without the code of killed tasks."""
    reads, writes = os.pipe()
    if not (child := os.fork()):
        status = 1
        try:
            server.own(os.getpid())
            gc.freeze()  # it would look at all modules again and again
            gc.disable()
            with os.fdopen(writes, "wb") as pipe:
                for result in work():
                    pickle.dump(result, pipe)
                    pipe.flush()
            status = 0
        finally:
            os._exit(status)
    os.close(writes)
    try:
        with os.fdopen(reads, "rb") as pipe:
            while pipe.peek(1):
                yield pickle.load(pipe)  # from our own child
    except GeneratorExit:  # the caller has seen enough
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError("a child process of the simulation has failed")
