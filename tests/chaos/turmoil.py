"""Transactions that save and tag the same few things, inside of savepoints of every kind, many of them rolled back."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from django.db import OperationalError, transaction

from tests.support.rollbacks import bare_savepoint
from tests.testapp.models import Label, Thing


class Rollback(Exception):
    pass


class Turmoil:
    """``done`` counts what happened, by name."""

    def __init__(self, seed: int, things: Sequence[int], labels: Sequence[Label]) -> None:
        self.chance = random.Random(seed)
        self.things, self.labels = things, labels
        self.done: Counter[str] = Counter()

    def rage(self, transactions: int) -> None:
        for _ in range(transactions):
            keys = sorted(self.chance.sample(self.things, self.chance.randint(1, 2)))
            stale = [Thing.objects.get(pk=pk) for pk in keys]
            try:
                with suppress(Rollback), transaction.atomic():
                    for thing in stale:  # in one order everywhere, so that few wait for each other
                        self._steps(partial(self._change, thing), depth=0)
                    self._maybe_fail(0.1)
            except OperationalError as error:
                assert "deadlock detected" in str(error)
                self.done["deadlock"] += 1
            else:
                self.done["transaction"] += 1

    def _steps(self, change: Callable[[], None], depth: int) -> None:
        for _ in range(self.chance.randint(1, 3)):
            inside = self.chance.choice([self._plain, self._atomic, self._by_hand]) if depth < 3 else self._plain
            inside(change, depth + 1)
            if inside is not self._plain:
                time.sleep(self.chance.uniform(0, 0.01))  # so that others can take a lock that was released

    def _plain(self, change: Callable[[], None], depth: int) -> None:
        change()

    def _atomic(self, change: Callable[[], None], depth: int) -> None:
        with suppress(Rollback), transaction.atomic():
            self._steps(change, depth)
            self._maybe_fail(0.6)
            return
        self.done["rolled back a block"] += 1

    def _by_hand(self, change: Callable[[], None], depth: int) -> None:
        savepoint = bare_savepoint()
        self._steps(change, depth)
        if self.chance.random() < 0.6:
            transaction.savepoint_rollback(savepoint)
            self.done["rolled back a savepoint"] += 1
        elif self.chance.random() < 0.5:
            transaction.savepoint_commit(savepoint)

    def _maybe_fail(self, probability: float) -> None:
        if self.chance.random() < probability:
            raise Rollback

    def _change(self, stale: Thing) -> None:
        label = self.chance.choice(self.labels)
        self.chance.choice(
            [
                stale.save,
                lambda: self._rename(Thing.objects.get(pk=stale.pk)),
                lambda: self._rename(stale),
                lambda: stale.labels.add(label),
                lambda: label.things.remove(stale),
                stale.labels.clear,
                lambda: stale.labels.set([label]),
            ]
        )()

    def _rename(self, thing: Thing) -> None:
        thing.name, thing.status = self.chance.choice("abc"), self.chance.choice(["active", "retired"])
        thing.save()
