"""What the receiver got, in the order in which it came."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from demo import receiver
from demo.errors import wait_for
from demo.run import Run


@dataclass(frozen=True)
class Post:
    """One request: ``at`` in seconds since 1970, lower-case header names, ``status`` as it was answered."""

    at: float
    path: str
    headers: dict[str, str]
    body: str
    status: int

    @property
    def webhook_id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def payload(self) -> dict[str, Any]:
        return receiver.payload(self.headers["content-type"], self.body)


class Inbox:
    def __init__(self, here: Run) -> None:
        self._here = here

    def posts(self) -> list[Post]:
        if not self._here.inbox.exists():
            return []
        # A line that is being written has no end yet.
        lines = self._here.inbox.read_text().split("\n")[:-1]
        return [Post(**json.loads(line)) for line in lines]

    def of(self, object_type: str, pk: int, event: str) -> list[Post]:
        """Every request about one change of one object."""
        return [
            post
            for post in self.posts()
            if (post.payload["object_type"], post.payload["data"]["id"], post.payload["event"])
            == (object_type, pk, event)
        ]

    def wait_for(self, object_type: str, pk: int, event: str, count: int = 1) -> list[Post]:
        """The same, once there are as many as ``count``. Raises DemoError when they do not come."""

        def enough() -> list[Post] | None:
            found = self.of(object_type, pk, event)
            return found if len(found) >= count else None

        what = f"POST number {count} about {object_type} {pk}, {event},"
        return wait_for(enough, 30, what, self._here.log("rqworker"))
