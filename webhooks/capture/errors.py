"""Sparing a change what goes wrong with the webhooks that would tell of it."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from webhooks import db
from webhooks.capture import unrecorded
from webhooks.capture.unrecorded import Missed
from webhooks.db import is_aborted
from webhooks.logs import get_logger, reraise_job_timeout

logger = get_logger(__name__)


class Sparing:
    """In a ``with``: log an error under a message, and let the change go on. Raises only what ended the transaction, in
    which a change that went on would be lost without a word. ``event`` is kept where it is what could not be recorded.
    """

    def __init__(self, using: str, message: str, *args: Any, event: Missed | None = None) -> None:
        self._using, self._message, self._args, self._event = using, message, args, event

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        reraise_job_timeout(error)
        if db.is_missing_table(error):
            error.add_note(f"{db.RUN_MIGRATE}.")
        logger.error(self._message, *self._args, exc_info=error)
        if is_aborted(self._using):
            return False
        if self._event:
            unrecorded.keep(self._using, self._event, error)
        return True
