"""A router of a host with a replica."""

from __future__ import annotations

from typing import Any


class Replicated:
    """Django's own example: reads go to a replica, which does not exist here."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "replica"

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "default"

    def allow_relation(self, first: Any, second: Any, **hints: Any) -> bool:
        return True
