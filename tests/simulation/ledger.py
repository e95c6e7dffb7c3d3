"""What was changed, from a witness that knows nothing about webhooks: a plain table, written in each transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from tests.simulation.databases import Server
from tests.testapp.models import Unregistered

Change = tuple[str, str]
"""The id of an object, and the name that a transaction has given it."""


class Ledger:
    def __init__(self, server: Server) -> None:
        self._server = server
        self.committed_at: dict[Change, float] = {}
        """When the process of a change knew that it was committed. A lost answer leaves a change out."""

    def note(self, changes: Iterable[Change]) -> None:
        """Call it in the transaction of the changes, with the locks of their objects."""
        Unregistered.objects.bulk_create([Unregistered(name=f"{pk}={name}") for pk, name in changes])

    def committed(self) -> dict[str, list[str]]:
        """The names of each object, in the order in which they were committed."""
        found: dict[str, list[str]] = defaultdict(list)
        for (text,) in self._server.query("SELECT name FROM testapp_unregistered ORDER BY id"):
            pk, _, name = text.partition("=")
            found[pk].append(name)
        return found
