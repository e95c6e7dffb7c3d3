"""One world with an installation of the app in it: its processes, its database, its receivers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.contenttypes.models import ContentType
from django.db import connections

from tests.simulation import processes
from tests.simulation.clocks import Clocks
from tests.simulation.databases import Databases, Server
from tests.simulation.ledger import Ledger
from tests.simulation.receivers import Receivers, SimulatedSender
from tests.simulation.redis import Redis
from tests.simulation.story import ADMIN, BYSTANDER, OBJECTS, SUBJECT, UNORDERED, WEBS, WORKERS
from tests.simulation.world import Process, World
from tests.testapp.models import Label
from webhooks import hooks
from webhooks.delivery import large_events, retention, sweep
from webhooks.delivery.runs import steps
from webhooks.models import Webhook, event, queue
from webhooks.workers import jobs, runner

# The limits of the app, as small as the world: a dozen changes meet what a million do.
SETTINGS: dict[str, Any] = {
    "WAKE_UP": "database",
    "TIMEOUT": 5,
    "LANE_WAIT": 25,
    "PAUSE_AFTER": 4,
    "PROBE_SCHEDULE": [4, 8, 15],
    "DISABLE_AFTER": 3600,
    "LEASE": 15,
    "IDLE_POLL": 3,
    "SWEEP_INTERVAL": 8,
    "SLICE": 3,
    "RETENTION_DAYS": {"succeeded": 1, "failed": 1, "discarded": 1},
}
CONSTANTS: list[tuple[Any, str, Any]] = [
    (event, "SMALL", 120),
    (large_events, "HELD_BYTES", 1200),  # the largest event has 150: two webhooks that hang leave room for it
    (large_events, "FIRST_READ", 100),
    (large_events, "READ_BYTES", 400),
    (queue, "MOST_HASTENED", 2),
    (sweep, "MOST", 6),
    (sweep, "SEARCHED", 3),
    (sweep, "CHECKED_LANES", 3),
    (sweep, "SWEEP_ALL_EVERY", 25),
    (retention, "PIECE", 3),
    (steps, "BESIDE_LIVE", 2),
    (runner, "Sender", SimulatedSender),
]

RESTART = (0.5, 4.0)  # seconds until a supervisor has restarted what was killed


class Site:
    """What a story happens to."""

    def __init__(self, seed: int, server: Server) -> None:
        self.world = World(seed)
        self.clocks = Clocks(self.world)
        self.databases = Databases(self.world, server, self.clocks)
        self.server = server
        self.redis = Redis(self.world)
        self.receivers = Receivers(self.world)
        self.ledger = Ledger(server)
        self.webs: dict[str, processes.WebProcess] = {}
        self.living: dict[str, Process] = {}
        self.webhooks: dict[str, int] = {}
        self.stopped: dict[str, float] = {}
        """Webhooks that an admin has paused, disabled or deleted, and when."""
        self.left_urls: dict[str, float] = {}
        """URLs that a webhook had before an edit, and when that was."""
        self.was_disabled: set[str] = set()
        """Webhooks that may have been disabled: changes meanwhile are not theirs."""
        self.was_discarded: set[str] = set()
        self.deleted: set[str] = set()
        self.has_run: set[str] = set()
        self.resent: set[str] = set()
        """The ids of deliveries that an admin sends again."""
        self.out_of_lane: set[str] = set()
        """The ids of deliveries that have left their lanes."""
        self.is_clock_wrong = False

    @contextmanager
    def open(self, seed: int) -> Iterator[None]:
        """Lay the world over this process, and begin its processes."""
        SimulatedSender.world, SimulatedSender.receivers = self.world, self.receivers
        with ExitStack() as stack:
            patches = [
                patch.dict(settings.WEBHOOKS, SETTINGS | self._chosen_settings()),
                patch.dict(jobs.WAKERS, database=self.redis.push),
                patch.dict(hooks.own, clear=True),  # they run in a thread of their own
                *(patch.object(module, name, value) for module, name, value in CONSTANTS),
                *self._chosen_sweep(),
                *self.databases.installed(),
                *self.clocks.installed(seed),
            ]
            for one in patches:
                stack.enter_context(one)
            self._set_up()
            yield

    def start(self, name: str) -> None:
        """Start a process, or start it again."""
        process = self.living[name] = Process(name)
        if name in (*WEBS, ADMIN):
            web = self.webs.setdefault(name, processes.WebProcess(self.world))
            self.world.spawn(process, web.run)
        else:
            is_stock = name == WORKERS[1] and self.has_stock_worker
            work = processes.stock_worker if is_stock else processes.ship_worker
            self.world.spawn(process, lambda: work(process, self.redis))

    def kill(self, process: Process) -> None:
        """Kill a process. Its supervisor restarts it."""
        if self.living.get(process.name) is process:
            del self.living[process.name]
            delay = self.world.random.uniform(*RESTART)
            self.world.at(self.world.now + delay, lambda: self.start(process.name))
        self.databases.kill(process)

    def run_once(self, name: str, work: Callable[[], object]) -> None:
        """Start a process for one piece of work."""
        process = Process(name)

        def work_and_end() -> None:
            processes.request(work, self.world)
            connections.close_all()

        self.world.spawn(process, work_and_end)

    def set_clock(self, whose: str, seconds: float) -> None:
        """Set the clock of the database, or of a machine. SQLite has the clock of the machine where all run."""
        self.is_clock_wrong |= bool(seconds)
        self.clocks.most_ahead = max(self.clocks.most_ahead, self.clocks.database_error + seconds)
        self.world.log(f"the clock of {whose} is set by {seconds:.0f} s")
        if whose == "database" or self.server.vendor == "sqlite":
            self.clocks.database_error += seconds
        if self.server.vendor == "sqlite":
            for process in self.living.values():
                process.clock_error = self.clocks.database_error
        elif whose in self.living:
            self.living[whose].clock_error += seconds

    def heal(self) -> None:
        """End all faults: what can be sent must be sent now."""
        # What is due at a time that was reached before is due at once, not in a day.
        self.set_clock("database", self.clocks.most_ahead - self.clocks.database_error)
        self.redis.lost = self.redis.late = self.redis.away_until = 0.0
        for process in self.living.values():
            process.traps.clear()
            process.stopped_until = min(process.stopped_until, self.world.now)
        self.receivers.heal()

    def _chosen_settings(self) -> dict[str, Any]:
        """Settings that change what is met: with few retries a delivery is given up in its lane, with many it leaves
        its lane first."""
        choose = self.world.random.choice
        return {
            "RETRY_SCHEDULE": choose(([3], [3, 6], [3, 6, 12, 20, 30])),
            "BATCH": choose((1, 3, 4, 250)),
            "SENDERS": choose((4, 8)),  # with fewer, two receivers that hang hold up all others
        }

    def _chosen_sweep(self) -> list[Any]:
        """In two worlds of three, the sweep does only what deliveries wait for: the rest takes half of all time."""
        if self.world.random.random() < 1 / 3:
            return []
        return [patch.object(sweep.Sweeper, "_all_steps", sweep.Sweeper._urgent_steps)]

    def _set_up(self) -> None:
        self.has_stock_worker = self.world.random.random() < 0.2
        ContentType.objects.clear_cache()
        user_model = get_user_model()
        self.admin = user_model.objects.create(**{user_model.USERNAME_FIELD: "admin@example.org"}, is_superuser=True)
        Label.objects.bulk_create([Label(pk=pk, name="0") for pk in range(1, OBJECTS + 1)])
        for name in (SUBJECT, BYSTANDER, UNORDERED):
            url = self.receivers.add(name)
            webhook = Webhook.objects.create(
                name=name, payload_url=url, on_created=True, on_updated=True, ordered=name != UNORDERED
            )
            webhook.object_types.add(ContentType.objects.get_for_model(Label))
            self.webhooks[name] = webhook.pk
        connections.close_all()
        for name in (*WORKERS, *WEBS, ADMIN):
            self.start(name)

    def query(self, statement: str) -> Sequence[tuple[Any, ...]]:
        return self.server.query(statement)
