"""Loggers whose records nobody can forge: names, URLs and reasons come from people and receivers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from webhooks.text import written_out


def one_line(text: str) -> str:
    """The text with what cannot be seen written out: a line break as ``\\n``."""
    return written_out(text, breaks=True)


class OneLine(logging.Filter):
    """Keeps the message of a record on one line; each line of its traceback begins with a bar, as no record does."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(map(_seen, record.args))
        if record.exc_info and not record.exc_text:
            trace = logging.Formatter().formatException(record.exc_info)
            record.exc_text = "\n".join(f"  | {one_line(line)}" for line in trace.split("\n"))
        return True


class _Silence(logging.Filter):
    def __init__(self, holds: Callable[[], bool]) -> None:
        super().__init__()
        self._holds = holds

    def filter(self, record: logging.LogRecord) -> bool:
        return not self._holds()


def silence(name: str, holds: Callable[[], bool]) -> None:
    """Let the logger of a library say nothing in threads for which this holds."""
    logging.getLogger(name).addFilter(_Silence(holds))


def logger_of(name: str) -> logging.Logger:
    """The logger of a module. Once is enough for each, and again does no harm."""
    logger = logging.getLogger(name)
    if not any(isinstance(one, OneLine) for one in logger.filters):
        logger.addFilter(OneLine())
    return logger


def _seen(argument: Any) -> Any:
    return argument if isinstance(argument, int | float) else one_line(str(argument))
