"""Whether the tables of the app are migrated, and what to say where they are not."""

from __future__ import annotations

import re

from django.db import DatabaseError, connections
from django.db.migrations.executor import MigrationExecutor

# How PostgreSQL and SQLite say that a table or a column does not exist. PostgreSQL says it in the language of its
# settings, but always with a code: undefined table, undefined column.
CODES = ("42P01", "42703")
WORDS = re.compile(r"no such (table|column)|has no column named")

RUN_MIGRATE = "The tables of webhooks are missing, or older than its code: run manage.py migrate"


def are_missing(error: BaseException) -> bool:
    """Whether a statement of the app failed because its tables are not migrated."""
    is_undefined = getattr(error.__cause__, "sqlstate", None) in CODES or WORDS.search(str(error))
    return isinstance(error, DatabaseError) and bool(is_undefined)


def in_words(error: BaseException) -> str:
    """What a database says in an error, on one line; first what to do, if the tables are not migrated."""
    said = " ".join(str(error).split())
    return f"{RUN_MIGRATE} ({said})" if are_missing(error) else said


def unmigrated(using: str) -> bool:
    """Whether a migration of the app waits. False for a database that cannot be asked."""
    try:
        executor = MigrationExecutor(connections[using])
        targets = [key for key in executor.loader.graph.leaf_nodes() if key[0] == "webhooks"]
        return bool(executor.migration_plan(targets))
    except DatabaseError:
        return False
