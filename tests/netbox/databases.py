"""A database in which tests commit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.db import connections

from webhooks import hooks


@contextmanager
def copied_database(django_db_blocker: Any) -> Iterator[None]:
    """Use a copy of the test database, and drop it. To empty NetBox's tables would take longer."""
    default = connections["default"]
    name = default.settings_dict["NAME"]
    original, copy = (default.ops.quote_name(one) for one in (name, f"{name}_copy"))
    with django_db_blocker.unblock():
        use(name)
        with default._nodb_cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {copy}")
            cursor.execute(f"CREATE DATABASE {copy} TEMPLATE {original}")
        use(f"{name}_copy")
        try:
            yield
        finally:
            use(name)
            with default._nodb_cursor() as cursor:
                cursor.execute(f"DROP DATABASE {copy} WITH (FORCE)")


def use(name: str) -> None:
    """Let all connections of this process lead to the database ``name``."""
    hooks.flush()
    hooks._begin_anew()  # its thread has a connection to the database before
    connections.close_all()
    connections["default"].settings_dict["NAME"] = name
    ContentType.objects.clear_cache()
