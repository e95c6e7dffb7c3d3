"""What one rendering of a template may cost. Pure.

Nothing from outside can stop a thread of Python. So everything that a template can repeat or multiply pays before it is
done, and what cannot be paid is not done. The unit is a character of text.
"""

from __future__ import annotations

import time
from collections.abc import ItemsView, KeysView, ValuesView
from contextvars import ContextVar
from typing import Any

STEP = 20  # what a turn of a loop, a call or a filter costs
VALUE = 10  # what each value in a list or an object counts beside its text
READ = 10  # characters of a text that a method reads for one unit
LOOK = 20_000  # units between two looks at the clock
BITS = 20_000  # of a whole number: more make arithmetic slow
_MANY = (list, tuple, set, frozenset, KeysView, ValuesView, ItemsView)


class OverBudget(Exception):
    """A template needs more than it may."""


class Budget:
    """``units`` in all, ``largest`` for one value, and ``seconds`` of this thread's processor time."""

    def __init__(self, units: int, largest: int, seconds: float) -> None:
        self.largest = largest
        self._units = units
        self._seconds = seconds
        self._until_look = LOOK
        self._end = time.thread_time() + seconds

    def pay(self, units: int) -> None:
        """Raises OverBudget, and then at every further payment too."""
        units = max(units, 0) + 1
        self._units -= units
        self._until_look -= units + STEP
        if self._units < 0:
            raise OverBudget("the template does too much: too many turns of its loops, or too much text")
        if self._until_look < 0:
            self._until_look = LOOK
            if time.thread_time() > self._end:
                self._units = -1
                raise OverBudget(f"the template took longer than {self._seconds:g} s")

    def pay_for(self, *values: Any) -> None:
        """Pay for what these values come to when they are written out."""
        self.pay(sum(self.size(value) for value in values))

    def afford(self, units: int) -> None:
        """Raises OverBudget for one value of so many units."""
        if units > self.largest:
            raise OverBudget(f"a value would become larger than {self.largest:,} characters")
        self.pay(units)

    def size(self, value: Any) -> int:
        """The size of a value with all that is in it, counted as often as it is there. Raises OverBudget."""
        if isinstance(value, str):
            return self._fitting(len(value))
        total = 0
        waiting = [value]
        while waiting:
            inner = waiting.pop()
            total += VALUE
            if isinstance(inner, str | bytes):
                total += len(inner)
            elif isinstance(inner, dict):
                waiting.extend(inner)
                waiting.extend(inner.values())
            elif isinstance(inner, _MANY):
                waiting.extend(inner)
            elif isinstance(inner, range):
                total += len(inner)
            elif isinstance(inner, int):
                total += _digits(inner)
            self._fitting(total + len(waiting) * VALUE)
        return total

    def _fitting(self, size: int) -> int:
        if size > self.largest:
            raise OverBudget(f"a value is larger than {self.largest:,} characters")
        return size


def _digits(number: int) -> int:
    bits = number.bit_length()
    if bits > BITS:
        raise OverBudget(f"a number has more than {BITS:,} bits")
    return bits // 3


# The budget of the rendering that this thread is in.
_current: ContextVar[Budget] = ContextVar("budget")


def current() -> Budget:
    return _current.get()


class spending:
    """``with spending(budget):`` makes it the current one."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def __enter__(self) -> Budget:
        self._token = _current.set(self._budget)
        return self._budget

    def __exit__(self, *error: object) -> None:
        _current.reset(self._token)
