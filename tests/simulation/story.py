"""A story: changes, acts of admins, faults and receivers, each at its time. It is data, so that parts can be left out.

``write`` makes one from a seed. Each entry performs itself in a ``Site``, and reads as a line.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db import transaction

from tests.simulation import processes
from tests.simulation.receivers import BEHAVIOURS
from tests.simulation.world import Trap
from tests.testapp.models import Label
from webhooks.models import Delivery, QueuedDelivery, Webhook
from webhooks.operations import runs
from webhooks.operations import webhooks as operations

if TYPE_CHECKING:
    from tests.simulation.site import Site

# Seconds of simulated time in which all entries happen.
LASTS = 30.0

OBJECTS = 4
WORKERS, WEBS, ADMIN = ("worker 1", "worker 2"), ("web 1", "web 2"), "admin"
SUBJECT, BYSTANDER, UNORDERED = "subject", "bystander", "unordered"


@dataclass(frozen=True)
class Entry:
    """Something that happens at a time."""

    at: float

    def perform(self, site: Site) -> None:
        raise NotImplementedError

    def __str__(self) -> str:
        given = ", ".join(f"{name} {value}" for name, value in vars(self).items() if name != "at")
        words = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in type(self).__name__)
        return f"{self.at:6.2f} s {words.strip()}: {given}"


@dataclass(frozen=True)
class Change(Entry):
    """A transaction of a web process. It takes ``lasts`` seconds, and may roll back."""

    web: str
    number: int
    objects: tuple[int, ...]
    lasts: float = 0.0
    is_new: bool = False
    rolls_back: bool = False
    undoes: bool = False
    size: int = 0

    def perform(self, site: Site) -> None:
        site.webs[self.web].serve(lambda: self._serve(site))

    def _serve(self, site: Site) -> None:
        name = str(self.number) + "x" * self.size
        pks = [100 + self.number] if self.is_new else sorted(self.objects)
        try:
            with transaction.atomic():
                for pk in pks:
                    processes.save(pk, f"{self.number} first" if self.lasts else name, self.is_new)
                    if self.undoes:
                        processes.undone(pk, f"{self.number} undone")
                if self.lasts:
                    site.world.sleep(self.lasts)
                    for pk in pks:
                        processes.save(pk, name)
                site.ledger.note((str(pk), name) for pk in pks)
                if self.rolls_back:
                    raise processes.Undo
        except processes.Undo:
            return
        for pk in pks:
            site.ledger.committed_at[str(pk), name] = site.world.now


@dataclass(frozen=True)
class Act(Entry):
    """An act of an admin on a webhook. One begins when the one before has ended."""

    webhook: str

    def perform(self, site: Site) -> None:
        site.webs[ADMIN].serve(lambda: self.act(site, Webhook.objects.filter(name=self.webhook)))

    def act(self, site: Site, webhooks: Any) -> None:
        raise NotImplementedError


class Pause(Act):
    def act(self, site: Site, webhooks: Any) -> None:
        if operations.pause(webhooks, site.admin):
            site.stopped[self.webhook] = site.world.now


class Resume(Act):
    def act(self, site: Site, webhooks: Any) -> None:
        site.stopped.pop(self.webhook, None)
        operations.resume(webhooks, site.admin)


class Disable(Act):
    def act(self, site: Site, webhooks: Any) -> None:
        site.was_disabled.add(self.webhook)
        if operations.set_enabled(webhooks, site.admin, False):
            site.stopped[self.webhook] = site.world.now


class Enable(Act):
    def act(self, site: Site, webhooks: Any) -> None:
        site.stopped.pop(self.webhook, None)
        operations.set_enabled(webhooks, site.admin, True)


class Delete(Act):
    def act(self, site: Site, webhooks: Any) -> None:
        site.was_disabled.add(self.webhook)
        operations.delete_webhooks(webhooks)
        site.stopped[self.webhook] = site.world.now
        site.deleted.add(self.webhook)


class Move(Act):
    """An edit of the URL."""

    def act(self, site: Site, webhooks: Any) -> None:
        for webhook in webhooks:
            old, new = webhook.payload_url, f"{webhook.payload_url}'"
            webhook.payload_url = new
            webhook.save(update_fields=["payload_url"])
            site.receivers.move(old, new)
            site.left_urls[old] = site.world.now


class Retry(Act):
    def act(self, site: Site, webhooks: Any) -> None:
        Delivery.objects.filter(webhook__in=webhooks).retriable().retry("admin")


class Resend(Act):
    def act(self, site: Site, webhooks: Any) -> None:
        ids = list(Delivery.objects.filter(webhook__in=webhooks).order_by("event_id").values_list("pk", flat=True)[:4])
        site.resent.update(map(str, ids))
        Delivery.objects.filter(pk__in=ids).resend("admin")


class Discard(Act):
    def act(self, site: Site, webhooks: Any) -> None:
        site.was_discarded.add(self.webhook)
        Delivery.objects.filter(webhook__in=webhooks).discardable().discard()


@dataclass(frozen=True)
class Run(Act):
    """A run over all that a webhook has."""

    kind: str

    def act(self, site: Site, webhooks: Any) -> None:
        for webhook in webhooks:
            site.has_run.add(self.webhook)
            with suppress(runs.RunExists):
                runs.start(self.kind, {"webhook": webhook.pk}, requested_by="admin")


@dataclass(frozen=True)
class Hold(Act):
    """A transaction that stays open with a lock: an edit in a shell, or a SELECT … FOR UPDATE."""

    rows: str
    seconds: float

    def perform(self, site: Site) -> None:
        site.run_once("shell", lambda: self.act(site, Webhook.objects.filter(name=self.webhook)))

    def act(self, site: Site, webhooks: Any) -> None:
        queued = QueuedDelivery.objects.filter(webhook__in=webhooks)
        rows: dict[str, Callable[[], Any]] = {
            "webhook": lambda: list(webhooks.select_for_update()),
            "edit": lambda: webhooks.update(name=self.webhook),
            "queue": lambda: list(queued.select_for_update()[:3]),
            "lanes": lambda: Delivery.objects.filter(webhook__in=webhooks).retriable().retry("admin"),
            "object": lambda: list(Label.objects.select_for_update().filter(pk=1)),
        }
        with transaction.atomic():
            rows[self.rows]()
            site.world.sleep(self.seconds)


@dataclass(frozen=True)
class Fault(Entry):
    """A fault that a process meets after so many more steps."""

    process: str
    after: int

    def perform(self, site: Site) -> None:
        if process := site.living.get(self.process):
            process.traps.append(self.trap(site))

    def trap(self, site: Site) -> Trap:
        raise NotImplementedError


class Kill(Fault):
    def trap(self, site: Site) -> Trap:
        return Trap(self.after, lambda task, what: site.kill(task.process))


class KillAfterCommit(Fault):
    def trap(self, site: Site) -> Trap:
        def meet(task: Any, what: Any) -> Any:
            def commit_and_die(connection: Any, commit: Callable[[], Any]) -> None:
                commit()
                site.kill(task.process)

            return commit_and_die

        return Trap(self.after // 4, meet, at_commit=True)


class LoseAnswer(Fault):
    """A commit whose answer is lost."""

    def trap(self, site: Site) -> Trap:
        return Trap(self.after // 4, site.databases.answer_lost, at_commit=True)


class Cut(Fault):
    """The connection to the database is cut."""

    def trap(self, site: Site) -> Trap:
        return Trap(self.after, site.databases.cut_before)


@dataclass(frozen=True)
class Refuse(Fault):
    """A statement fails: it is cancelled, or meets a deadlock or a serialization failure."""

    code: str

    def trap(self, site: Site) -> Trap:
        return Trap(self.after, site.databases.refused(self.code))


@dataclass(frozen=True)
class Stall(Fault):
    """A process is stopped, as by SIGSTOP or a machine without memory."""

    seconds: float

    def trap(self, site: Site) -> Trap:
        def stop(task: Any, what: Any) -> None:
            site.world.log(f"is stopped for {self.seconds:.0f} s")
            task.process.stopped_until = site.world.now + self.seconds
            site.world.sleep(self.seconds)

        return Trap(self.after, stop)


@dataclass(frozen=True)
class SetClock(Entry):
    """A clock is set: that of the database, or of the machine of a process."""

    whose: str
    seconds: float

    def perform(self, site: Site) -> None:
        site.set_clock(self.whose, self.seconds)


@dataclass(frozen=True)
class Behave(Entry):
    """A receiver changes for a while."""

    webhook: str
    behaviour: str
    seconds: float

    def perform(self, site: Site) -> None:
        if self.behaviour == "gone":
            site.was_disabled.add(self.webhook)
        site.receivers.behave(self.webhook, self.behaviour, self.at + self.seconds)


@dataclass(frozen=True)
class RedisFails(Entry):
    """Wake-ups are lost or late, or Redis is away."""

    lost: float
    late: float
    seconds: float

    def perform(self, site: Site) -> None:
        site.redis.lost, site.redis.late = self.lost, self.late
        if not (self.lost or self.late):
            site.redis.away_until = site.world.now + self.seconds


def write(seed: int, is_postgresql: bool) -> list[Entry]:
    """The story of a seed. One in two has no fault of processes and of the database: its promises are stricter."""
    chance = random.Random(f"story {seed}")
    changes = _changes(chance, is_postgresql)
    busy = [change.at for change in changes]
    entries = [*changes, *_receivers(chance, busy)]
    if chance.random() < 0.6:
        entries += _acts(chance, is_postgresql, busy)
    if chance.random() < 0.5:
        entries += _faults(chance, is_postgresql, busy)
    return sorted(entries, key=lambda entry: entry.at)


def _moment(chance: random.Random, busy: Sequence[float] = ()) -> float:
    """A time, mostly just after one of the ``busy`` ones: between two looks of a worker, a fault meets nothing."""
    if busy and chance.random() < 0.7:
        return round(min(LASTS, chance.choice(busy) + chance.expovariate(4)), 2)
    return round(chance.uniform(0, LASTS), 2)


def _changes(chance: random.Random, is_postgresql: bool) -> list[Entry]:
    found: list[Entry] = []
    longest = (0.01, 3.0, 12.0) if is_postgresql else (0.01, 0.3, 1.0)  # on SQLite, all writers wait meanwhile
    burst = chance.random() < 0.3
    for number in range(1, chance.randint(4, 14)):
        at = round(chance.uniform(5, 7), 2) if burst and chance.random() < 0.7 else _moment(chance)
        objects = tuple(chance.sample(range(1, OBJECTS + 1), chance.choice((1, 1, 1, 2, 3))))
        found.append(
            Change(
                at,
                chance.choice(WEBS),
                number,
                objects,
                lasts=chance.choice((0, 0, 0, *longest)),
                is_new=chance.random() < 0.15,
                rolls_back=chance.random() < 0.1,
                undoes=chance.random() < 0.15,
                size=chance.choice((0, 0, 0, 20, 40)),
            )
        )
    return found


def _receivers(chance: random.Random, busy: Sequence[float]) -> list[Entry]:
    found: list[Entry] = []
    for _ in range(chance.randint(0, 4)):
        webhook = chance.choice((SUBJECT, SUBJECT, UNORDERED))
        behaviour = chance.choice([one for one in BEHAVIOURS if one != "gone" or chance.random() < 0.3])
        found.append(Behave(_moment(chance, busy), webhook, behaviour, round(chance.uniform(1, 30), 2)))
    if chance.random() < 0.3:
        lost, late = chance.choice(((0.0, 0.0), (0.5, 0.3), (1.0, 0.0), (0.0, 1.0)))
        found.append(RedisFails(_moment(chance, busy), lost, late, round(chance.uniform(1, 20), 2)))
    return found


def _acts(chance: random.Random, is_postgresql: bool, busy: Sequence[float]) -> list[Entry]:
    found: list[Entry] = []
    for _ in range(chance.randint(1, 4)):
        at, webhook = _moment(chance, busy), chance.choice((SUBJECT, SUBJECT, UNORDERED))
        kind = chance.choice(("pause", "pause", "disable", "delete", "move", "retry", "resend", "discard", "run"))
        later = round(min(LASTS, at + chance.uniform(0.5, 15)), 2)
        if is_postgresql and chance.random() < 0.5:  # SQLite has one writer: nobody else could write
            rows = chance.choice(("webhook", "edit", "queue", "lanes", "object"))
            found.append(Hold(at, webhook, rows, round(chance.uniform(1, 30), 1)))
        elif kind == "pause":
            found += [Pause(at, webhook), Resume(later, webhook)]
        elif kind == "disable":
            found += [Disable(at, webhook), Enable(later, webhook)]
        elif kind == "run":
            found.append(Run(at, webhook, chance.choice(("retry", "resend", "replay", "recover"))))
        elif kind in SIMPLE:
            found.append(SIMPLE[kind](at, webhook))
    return found


SIMPLE: dict[str, type[Act]] = {"delete": Delete, "move": Move, "retry": Retry, "resend": Resend, "discard": Discard}


def _faults(chance: random.Random, is_postgresql: bool, busy: Sequence[float]) -> list[Entry]:
    found: list[Entry] = []
    refusals = ("57014", "40P01", "40001", "55P03") if is_postgresql else ("57014", "40P01")
    for _ in range(chance.randint(1, 4)):
        process, after = chance.choice((*WORKERS, *WORKERS, *WEBS)), chance.randint(0, 40)
        at = _moment(chance, busy)
        match chance.choice(("kill", "kill", "commit", "answer", "cut", "refuse", "stall", "stall", "clock")):
            case "kill":
                found.append(Kill(at, process, after))
            case "commit":
                found.append(KillAfterCommit(at, process, after))
            case "answer":
                found.append(LoseAnswer(at, process, after))
            case "cut":
                found.append(Cut(at, process, after))
            case "refuse":
                found.append(Refuse(at, process, after, chance.choice(refusals)))
            case "stall":
                found.append(Stall(at, process, after, round(chance.uniform(1, 40), 1)))
            case "clock":
                seconds = chance.choice((-86400, -600, -20, -2, 2, 20, 600, 86400))
                found.append(SetClock(at, chance.choice(("database", process)), float(seconds)))
    return found


def lines(story: Sequence[Entry]) -> str:
    """A story as a person reads it."""
    return "\n".join(map(str, story))
