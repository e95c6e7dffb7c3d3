"""Context managers that are decorators as well, for functions that run when they are called."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any


class Block(AbstractContextManager[None]):
    """What ``begin`` makes: one for a ``with``, and one for each call of a function that it decorates.

    It refuses to decorate a function that is async or a generator: the block would end before the function runs.
    """

    def __init__(self, name: str, begin: Callable[[], AbstractContextManager[None]]) -> None:
        self._name, self._begin, self._block = name, begin, begin()

    def __enter__(self) -> None:
        self._block.__enter__()

    def __exit__(self, *raised: Any) -> bool | None:
        return self._block.__exit__(*raised)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if iscoroutinefunction(function) or isgeneratorfunction(function) or isasyncgenfunction(function):
            raise TypeError(
                f"{self._name}() cannot decorate {function.__qualname__}, which is async or a generator and runs after "
                f"the call: write `with {self._name}(…):` in it."
            )

        @wraps(function)
        def within(*args: Any, **kwargs: Any) -> Any:
            with self._begin():
                return function(*args, **kwargs)

        return within
