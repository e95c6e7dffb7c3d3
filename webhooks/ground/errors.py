"""Errors: log them on one line, recognize errors of the database, and never catch the time limit of a job."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from django.db import DatabaseError, IntegrityError, connections

from webhooks.ground.text import one_line

# The exceptions of rq and Celery that end a job, by name: neither has to be installed.
JOB_TIMEOUTS = {("rq.timeouts", "BaseTimeoutException"), ("billiard.exceptions", "SoftTimeLimitExceeded")}

# PostgreSQL: deadlock, lock not available. A conflict may be a serialization failure, too.
LOCK_CODES = {"40P01", "55P03"}
CONFLICTS = {"40001", *LOCK_CODES}

# PostgreSQL's codes of an undefined table and an undefined column, and SQLite's words for them.
UNDEFINED_CODES = ("42P01", "42703")
UNDEFINED_WORDS = re.compile(r"no such (table|column)|has no column named")

# The name of a table of the app in a message. A table of the project may be called crm_webhooks_note.
OWN_TABLE = re.compile(r"(?<!\w)rq_webhooks_")

RUN_MIGRATE = "The tables of webhooks are missing, or older than its code: run manage.py migrate"


# What a record is about, as its attributes. Each record of the app has all of them, for formatters that name them.
NOTHING: dict[str, Any] = {"webhook": "", "delivery": "", "event": None, "kind": ""}
ABOUT = "_webhooks_about"


def about(*, webhook: object = "", delivery: object = "", event: int | None = None, kind: str = "") -> dict[str, Any]:
    """What a record is about, as its ``extra``: a webhook or its name, the id of a delivery, the id of an event, the
    kind of error.

    Under a name that no project has: ``logging`` raises KeyError for an attribute that a project's factory of records
    has set."""
    shown = {"webhook": one_line(str(webhook)), "delivery": str(delivery), "event": event, "kind": str(kind)}
    return {ABOUT: shown}


def get_logger(name: str) -> logging.Logger:
    """The logger of a module, with each message on one line: a line break in a name could imitate another record."""
    logger = logging.getLogger(name)
    if not any(isinstance(listed, OneLine) for listed in logger.filters):
        logger.addFilter(OneLine())
    return logger


class OneLine(logging.Filter):
    """Keeps the message on one line, and starts each line of its traceback with a bar. Adds what ``about`` left out."""

    def filter(self, record: logging.LogRecord) -> bool:
        given = vars(record).pop(ABOUT, {})
        vars(record).update(NOTHING | vars(record) | given)
        if isinstance(record.args, tuple):
            record.args = tuple(arg if isinstance(arg, int | float) else one_line(str(arg)) for arg in record.args)
        if record.exc_info and not record.exc_text:
            trace = logging.Formatter().formatException(record.exc_info)
            record.exc_text = "\n".join(f"  | {one_line(line)}" for line in trace.split("\n"))
        return True


class LastResort(logging.StreamHandler[Any]):
    """Writes records with their time, if the host has no handler for them. Python's own writes none.

    These are warnings, errors and the history: the level of the root logger drops the rest.
    """

    def __init__(self) -> None:
        logging.Handler.__init__(self, logging.INFO)  # StreamHandler would keep the stream of this moment
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    @property
    def stream(self) -> Any:
        return sys.stderr

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:  # the host may add one at any time
            super().emit(record)


def log_with_time() -> None:
    """Give the log of the app a handler of the last resort, if the host's settings give it none."""
    logger = logging.getLogger("webhooks")
    if not logger.hasHandlers():
        logger.addHandler(LastResort())


def reraise_job_timeout(error: BaseException) -> None:
    """Raise the error again if it is the time limit of an rq or Celery job.

    Call it wherever the app handles every Exception. A timeout is raised once: if the app handled it, the job would run
    on without a limit.
    """
    if any((kind.__module__, kind.__qualname__) in JOB_TIMEOUTS for kind in type(error).__mro__):
        raise error


class Outage:
    """Logs one warning when something begins to fail, and one when it works again."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self.has_failed = False
        """Whether an outage has not ended."""

    def failed(self, message: str, *args: object) -> None:
        if not self.has_failed:
            self.has_failed = True
            self._logger.warning(message, *args)

    def succeeded(self, message: str) -> None:
        if self.has_failed:
            self.has_failed = False
            self._logger.warning(message)


logger = get_logger(__name__)


class log_errors(AbstractContextManager["log_errors", bool]):  # reads as a function
    """In a ``with``: log an error under a message, and go on.

    Raises what aborted the transaction: a caller that went on would lose its changes without notice.
    """

    def __init__(self, using: str, message: str, *args: Any) -> None:
        self._using, self._message, self._args = using, message, args

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        reraise_job_timeout(error)
        if names_missing_table(error):
            error.add_note(f"{RUN_MIGRATE}.")
        logger.error(self._message, *self._args, exc_info=error)
        return not is_aborted(self._using)


def why_failed(work: Callable[[], object], *expected: type[Exception]) -> str:
    """The text of the expected error that ``work`` raises; empty if it raises none."""
    try:
        work()
    except expected as error:
        return str(error) or type(error).__name__
    return ""


def is_aborted(using: str) -> bool:
    """Whether the open transaction can only be rolled back. Then its error must be raised again: the host's COMMIT
    would silently become a ROLLBACK."""
    connection = connections[using]
    # Django's needs_rollback: get_rollback() raises outside of blocks.
    if connection.needs_rollback:
        return True  # the connection is lost, and with it every savepoint
    if connection.vendor != "postgresql" or connection.connection is None:
        return False
    in_error = 3  # the transaction status of libpq, as psycopg 2 and 3 report it
    return bool(connection.connection.info.transaction_status == in_error)


def is_conflict(error: Exception) -> bool:
    """Whether a statement failed because of another transaction."""
    return isinstance(error, IntegrityError) or _sqlstate(error) in CONFLICTS


def is_statement_timeout(error: Exception) -> bool:
    """Whether PostgreSQL stopped a statement that took too long."""
    return _sqlstate(error) == "57014"  # query_canceled


def is_lock_refused(error: Exception) -> bool:
    """Whether a statement did not get a lock: not in time, or because two waited for each other."""
    return _sqlstate(error) in LOCK_CODES


def is_missing_table(error: BaseException) -> bool:
    """Whether a statement failed because a table or a column does not exist: the app is not migrated."""
    is_undefined = _sqlstate(error) in UNDEFINED_CODES or UNDEFINED_WORDS.search(str(error))
    return isinstance(error, DatabaseError) and bool(is_undefined)


def names_missing_table(error: BaseException) -> bool:
    """Whether the message also names a table of the app. Code of the project may miss a table of the project."""
    return is_missing_table(error) and bool(OWN_TABLE.search(str(error)))


def describe_error(error: BaseException) -> str:
    """The message of a database error on one line. If the tables are not migrated, it says first what to do."""
    message = " ".join(str(error).split())
    return f"{RUN_MIGRATE} ({message})" if is_missing_table(error) else message


def _sqlstate(error: BaseException) -> str:
    """PostgreSQL's code of an error. Empty for other errors."""
    cause = error.__cause__
    return getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or ""  # psycopg 3, psycopg 2
