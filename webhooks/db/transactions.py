"""Transactions that try again where several workers meet, and those that cannot go on."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from django.db import IntegrityError, OperationalError, connections, transaction

T = TypeVar("T")

TRIES = 5

# PostgreSQL: serialization failure, deadlock, lock not available.
CONFLICTS = {"40001", "40P01", "55P03"}


def atomically(work: Callable[[], T], using: str) -> T:
    """Run ``work`` in a transaction, again when another transaction got in its way: both then see what the other
    did. Raises IntegrityError or OperationalError when that happens five times in a row, or for any other reason.
    """
    for tries_left in reversed(range(TRIES)):
        try:
            with transaction.atomic(using):
                return work()
        except (IntegrityError, OperationalError) as error:
            if not tries_left or not is_conflict(error):
                raise
        time.sleep(random.uniform(0, 0.02))  # noqa: S311 # nosec B311 # only spreads the tries
    raise AssertionError("unreachable")


def savepoint(using: str) -> AbstractContextManager[Any]:
    """A savepoint for what may fail in the transaction that is open. In autocommit mode a failed query ends nothing."""
    return nullcontext() if connections[using].get_autocommit() else transaction.atomic(using)


# Of libpq: what psycopg, old and new, says of a transaction that PostgreSQL has aborted.
IN_ERROR = 3


def is_aborted(using: str) -> bool:
    """Whether the transaction that is open can only be rolled back. An error that says so must not be swallowed: its
    COMMIT would be a ROLLBACK, and say nothing."""
    connection = connections[using]
    if connection.needs_rollback:
        return True  # not even to a savepoint could it be rolled back: the connection is lost
    if connection.vendor != "postgresql" or connection.connection is None:
        return False
    return bool(connection.connection.info.transaction_status == IN_ERROR)


def is_conflict(error: Exception) -> bool:
    """Whether another transaction is why a statement failed."""
    cause = error.__cause__
    code = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)  # of psycopg, new and old
    return isinstance(error, IntegrityError) or code in CONFLICTS
