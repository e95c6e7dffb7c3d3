"""Defects to plant in the code, to see that the simulation finds them. Each changes one place of one module.

The text of a module is changed as Python imports it, so the files stay as they are.
"""

from __future__ import annotations

import importlib.machinery
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from types import CodeType
from typing import Any


@dataclass(frozen=True)
class Defect:
    name: str
    module: str
    old: str
    new: str
    database: str = "sqlite"
    """Where it can be seen."""


POSTGRESQL = "postgresql"

DEFECTS = [
    Defect("waits_for is left out", "webhooks.delivery.dispatch",
           "if event.waits_for is None or event.waits_for in in_turn:", "if True:", POSTGRESQL),
    Defect("the lock of a lane is left out", "webhooks.models.lanes",
           "WHERE pg_try_advisory_xact_lock(lane)\"", "WHERE lane IS NOT NULL\"", POSTGRESQL),
    Defect("a record does not compare the token", "webhooks.models.queue",
           'is_mine = f"claim {is_mine} AND', 'is_mine = f"(claim {is_mine} OR 1 = 1) AND'),
    Defect("a lease is not renewed", "webhooks.delivery.claims",
           "tokens - Worker.objects.renew(tokens) if tokens", "tokens - tokens if tokens"),
    Defect("a given up head promotes nothing", "webhooks.delivery.outcomes",
           "ended = {transition.id for transition in transitions if transition.state != State.PENDING}",
           "ended = {transition.id for transition in transitions if transition.state == State.SUCCEEDED}"),
    Defect("a sender ignores that its leases are over", "webhooks.workers.sender",
           "elif elapsed() < self.send_until:  # composing", "elif True:  # composing"),
    Defect("a failed claim keeps its token", "webhooks.delivery.claims",
           "        except BaseException:\n            self._token = None\n            raise\n",
           "        except BaseException:\n            raise\n"),
    Defect("a claim does not ask for its lease", "webhooks.delivery.claims",
           "if may_claim else []", "if True else []"),
    Defect("claims in the middle of the queue are not taken back", "webhooks.delivery.sweep",
           "large: list[Step] = [expire_leases, search_claims, hasten_heads]",
           "large: list[Step] = [expire_leases, hasten_heads]"),
    Defect("leases that have ended are not taken back", "webhooks.delivery.sweep",
           "large: list[Step] = [expire_leases, search_claims, hasten_heads]",
           "large: list[Step] = [search_claims, hasten_heads]"),
    Defect("an edit does not reach what a worker holds", "webhooks.delivery.claims",
           "            self._hand_back_changed()\n", "            pass\n"),
    Defect("the event of a savepoint that was rolled back counts", "webhooks.capture.events",
           "elif rows.filter(undispatched__isnull=False).update(**planned.columns):",
           "elif rows.filter(undispatched__isnull=False).update(**planned.columns) or True:"),
    Defect("a discarded head promotes nothing", "webhooks.models.delivery",
           "for _, *place, was_head in gone if was_head]", "for _, *place, was_head in gone if not was_head]"),
    Defect("what is sent again does not go first", "webhooks.models.lanes",
           "AND queued.event_id > given.event_id AND queued.state = 'pending'",
           "AND queued.event_id > given.event_id AND queued.state = 'no'"),
    Defect("a retried head does not give way", "webhooks.delivery.outcomes",
           "lanes.give_way(using, ", "(lambda *given: None)(using, "),
    Defect("a cancelled probe is not undone", "webhooks.delivery.claims",
           "policy.cancel_probes({webhook.id for webhook in probes} -", "set({webhook.id for webhook in probes} -"),
    Defect("an attempt is counted twice", "webhooks.delivery.outcomes",
           "StatisticDelta.objects.insert(counting.count(mine, numbers, given_up))",
           "StatisticDelta.objects.insert(counting.count(mine * 2, numbers, given_up))"),
    Defect("a claim waits for locked rows", "webhooks.models.queue",
           "LIMIT capacity.free FOR UPDATE SKIP LOCKED", "LIMIT capacity.free FOR UPDATE", POSTGRESQL),
    Defect("a record waits for an edit of the webhook", "webhooks.delivery.policy",
           "chosen.select_for_update(skip_locked=True, no_key=True).annotate",
           "chosen.select_for_update(no_key=True).annotate", POSTGRESQL),
    Defect("a dispatch waits for an edit of the webhook", "webhooks.ground.db",
           '" FOR KEY SHARE SKIP LOCKED"', '" FOR SHARE"', POSTGRESQL),
    Defect("a kept outcome is forgotten", "webhooks.workers.runner",
           "self._kept, self._avoided.busy = recorded.kept, recorded.busy",
           "self._kept, self._avoided.busy = [], recorded.busy", POSTGRESQL),
    Defect("a wake-up is the only reason to look", "webhooks.delivery.dispatch",
           "if first is None:", "if first is None or not skips_look:"),
    Defect("a passed event is not looked at again", "webhooks.delivery.dispatch",
           "self._is_again = self._passed is not None and self._began >= self._next_again", "self._is_again = False",
           POSTGRESQL),
    Defect("a dispatch makes two heads", "webhooks.delivery.dispatch",
           "State.WAITING if ahead.is_busy or not is_first else", "State.WAITING if ahead.is_busy else"),
    Defect("a paused webhook goes on with what is promoted", "webhooks.models.lanes",
           "(SELECT enabled AND probe_at IS NULL AND paused_at IS NULL FROM", "(SELECT true FROM"),
    Defect("a failed head stays out of the queue for ever", "webhooks.models.queue",
           '"due_at": _due_in(using, one.wait) if one.state == State.PENDING else None,',
           '"due_at": _due_in(using, one.wait * 100) if one.state == State.PENDING else None,'),
    Defect("a resume leaves failed heads where they are", "webhooks.models.queue",
           "chosen = dict(locked.values_list(\"pk\", \"failing_since\")[:free]) if free else {}", "chosen = {}"),
    Defect("only the first heads of a resume are hastened", "webhooks.delivery.sweep",
           "return QueuedDelivery.objects.hasten_heads(list(locked.values_list(\"pk\", flat=True)), goes_on=True)",
           "return 0"),
    Defect("a resume hastens all heads at once", "webhooks.models.queue",
           "free = MOST_HASTENED - count", "free = 10**6 - count"),
    Defect("large events have no bound", "webhooks.delivery.large_events",
           "if not self._all or (fits and", "if True or (fits and"),
]  # fmt: skip

BY_NAME = {defect.name: defect for defect in DEFECTS}


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module with other text."""

    defect: Defect

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        text = self.get_data(path).decode()
        count = text.count(self.defect.old)
        if count != 1:
            raise ValueError(f"the place of “{self.defect.name}” is in {fullname} {count} times")
        return compile(text.replace(self.defect.old, self.defect.new), path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, defect: Defect) -> None:
        self._defect = defect

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if fullname != self._defect.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec and spec.origin:
            loader = _Loader(fullname, spec.origin)
            loader.defect = self._defect
            spec.loader = loader
        return spec


def plant(name: str) -> None:
    """Plant a defect. Call it before its module is imported."""
    sys.meta_path.insert(0, _Finder(BY_NAME[name]))


def find_all(options: Any) -> int:
    """Plant one defect after the other, each in a new process, and say how many seeds found it. Returns how many were
    not found."""
    missed = 0
    with tempfile.TemporaryDirectory() as directory:
        environment = {**os.environ, "SIMULATION_COPY": f"{directory}/{options.database}"}
        for defect in [one for one in DEFECTS if one.database == options.database]:
            plant = f"--plant={defect.name}", f"--database={defect.database}"
            arguments = [*plant, f"--seeds={options.seeds}", "--first=0", "--brief"]
            arguments += [f"--minutes={options.minutes}"] if options.minutes else []
            command = [sys.executable, "-m", "tests.simulation", *arguments]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            words = (done.stdout.strip() or done.stderr.strip()).splitlines()
            missed += not done.returncode
            print(f"{defect.name} ({defect.database}): {words[-1] if words else done.returncode}", flush=True)
    return missed
