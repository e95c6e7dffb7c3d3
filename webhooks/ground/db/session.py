"""The session of a connection: the plans and time limits of its statements, and who closes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from django.db import connections, transaction

from webhooks.ground.db import SCANS, WHOLE_TABLE_PLANS, fetch_all, in_block, is_postgresql


@contextmanager
def index_plans(using: str, may_sort: bool = False, seconds: float | None = None) -> Iterator[None]:
    """Let PostgreSQL look up rows by indexes, and in the order of an index, against its statistics.

    For statements with a LIMIT: they stop early. With ``may_sort`` it may also find few rows first and sort them.
    Inside a host's transaction, the settings are as before afterwards. ``seconds`` as for ``statement_limit``.
    """
    plans = dict.fromkeys(SCANS if may_sort else WHOLE_TABLE_PLANS, "'off'")
    with _set_for_block(using, plans, seconds):
        yield


@contextmanager
def statement_limit(using: str, seconds: float) -> Iterator[None]:
    """Let PostgreSQL stop each statement that takes longer than ``seconds``, see ``is_statement_timeout``.

    A shorter limit of the host stays. The statements run in a savepoint, so the host's transaction can go on.
    """
    with _set_for_block(using, {}, seconds):
        yield


@contextmanager
def _set_for_block(using: str, settings: Mapping[str, str], seconds: float | None) -> Iterator[None]:
    """Change settings of PostgreSQL to these values in SQL."""
    if not is_postgresql(using):
        yield
        return
    is_nested = in_block(using)
    if seconds is not None:
        limit = int(seconds * 1000)
        shorter = f"""(
            SELECT CASE WHEN setting::int BETWEEN 1 AND {limit} THEN setting ELSE '{limit}' END
            FROM pg_settings WHERE name = 'statement_timeout'
        )"""
        settings = {**settings, "statement_timeout": shorter}
    with transaction.atomic(using, savepoint=seconds is not None):
        before = ", ".join(f"current_setting('{name}')" for name in settings)
        change = ", ".join(f"set_config('{name}', {value}, true)" for name, value in settings.items())
        [row] = fetch_all(using, f"SELECT {before}, {change}")
        yield
        if is_nested or seconds is not None:  # the limit is for the statements, not for the COMMIT
            change = ", ".join(f"set_config('{name}', %s, true)" for name in settings)
            fetch_all(using, f"SELECT {change}", row[: len(settings)])


@contextmanager
def closing_new_connections() -> Iterator[None]:
    """Close the connections that the block opens, and before it the failed ones.

    For code that may run outside of requests, in a thread that ends or in one that stays: Django does it for requests.
    """
    for connection in connections.all(initialized_only=True):
        # Django's errors_occurred and close_if_unusable_or_obsolete: close_old_connections() closes good ones, too.
        if connection.errors_occurred:
            connection.close_if_unusable_or_obsolete()
    kept = {db.alias for db in connections.all(initialized_only=True) if db.connection is not None}
    try:
        yield
    finally:
        for connection in connections.all(initialized_only=True):
            if connection.alias not in kept:
                connection.close()
