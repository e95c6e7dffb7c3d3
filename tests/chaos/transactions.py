"""The transactions of a writer: over one or many labels, and some of them rolled back in every way there is."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from django.db import InterfaceError, OperationalError, connection, transaction

from tests.chaos import ledger
from tests.chaos.writer import Plan
from tests.support.rollbacks import bare_savepoint
from tests.testapp.models import Label


class Rollback(Exception):
    pass


class Work:
    """``done`` counts the committed changes. ``announce`` gets a line before each transaction."""

    def __init__(self, plan: Plan, announce: Callable[[str], None]) -> None:
        self.plan, self.announce = plan, announce
        self.chance = random.Random(plan.seed)
        self.done = self._count = 0

    def transaction(self) -> None:
        changes = self._changes()
        try:
            if self.chance.random() < self.plan.rollbacks:
                self._come_to_nothing(changes)
            else:
                self._commit(changes)
        except (InterfaceError, OperationalError) as error:
            self._recover(error, changes)

    def _changes(self) -> list[ledger.Change]:
        many = self.chance.randint(2, self.plan.most) if self.plan.most > 1 and self.chance.random() < 0.5 else 1
        many = min(many, max(1, self.plan.changes - self.done))
        labels = self.chance.sample(self.plan.labels, many)
        # In one order everywhere: no two transactions then wait for each other.
        labels = labels if self.plan.is_deadlocking else sorted(labels)
        return [(pk, self._value()) for pk in labels]

    def _value(self) -> str:
        self._count += 1
        return f"{self.plan.name}-{self.plan.seed}-{self._count}"

    def _commit(self, changes: list[ledger.Change]) -> None:
        self.announce(f"commit {changes}")
        with transaction.atomic():
            self._make(changes)
        self.done += len(changes)

    def _recover(self, error: Exception, changes: list[ledger.Change]) -> None:
        if "deadlock detected" in str(error):
            self.announce(f"deadlock {changes}")
            return
        self.announce(f"disconnected {changes}: {error!r}")
        connection.close()
        time.sleep(0.2)
        try:
            self.done = ledger.count(
                f"{self.plan.name}-{self.plan.seed}-"
            )  # the server may have taken the last transaction, or not
        except (InterfaceError, OperationalError):
            connection.close()

    def _make(self, changes: list[ledger.Change]) -> None:
        for pk, value in changes:
            Label(pk=pk, name=value).save(force_update=True)
            if self.plan.is_deadlocking:
                time.sleep(0.005)
        ledger.note(changes)

    def _come_to_nothing(self, changes: list[ledger.Change]) -> None:
        how = self.chance.choice(
            [self._raise, self._roll_back_a_block, self._roll_back_a_savepoint, self._roll_back_in_part]
        )
        self.announce(f"{how.__name__.strip('_')} {changes}")
        how(changes)

    def _raise(self, changes: list[ledger.Change]) -> None:
        try:
            with transaction.atomic():
                self._make(changes)
                raise Rollback
        except Rollback:
            pass

    def _roll_back_a_block(self, changes: list[ledger.Change]) -> None:
        with transaction.atomic():
            self._raise(changes)

    def _roll_back_a_savepoint(self, changes: list[ledger.Change]) -> None:
        with transaction.atomic():
            savepoint = bare_savepoint()
            self._make(changes)
            transaction.savepoint_rollback(savepoint)

    def _roll_back_in_part(self, changes: list[ledger.Change]) -> None:
        """The same objects, changed again after a savepoint was rolled back: only the last values count."""
        again = [(pk, self._value()) for pk, _ in changes]
        self.announce(f"commit {again}")
        with transaction.atomic():
            savepoint = bare_savepoint()
            self._make(changes)
            transaction.savepoint_rollback(savepoint)
            self._make(again)
        self.done += len(again)
