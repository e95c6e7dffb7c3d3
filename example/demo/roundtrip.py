"""``--once``: create, update and delete a site, change a tenant whose receiver fails twice; check each."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from demo import signatures
from demo.errors import DemoError
from demo.inbox import Inbox, Post
from demo.ledger import Ledger
from demo.run import USERNAME, Run
from demo.site import Site

SITES = "/api/dcim/sites/"
TENANTS = "/api/tenancy/tenants/"

# How long to look for a POST that should not come, in seconds.
QUIET_SECONDS = 2


@dataclass(frozen=True)
class Expected:
    """What one change has to set off: one event, and an attempt for each of ``statuses``."""

    name: str
    object_type: str
    event: str
    data: dict[str, Any]
    statuses: tuple[int, ...] = (200,)


class RoundTrip:
    def __init__(self, here: Run) -> None:
        self._here = here
        self._site = Site(here)
        self._inbox = Inbox(here)
        self._ledger = Ledger(here)
        self._posts = 0

    def run(self) -> None:
        """Raises DemoError at the first thing that is not as it should be."""
        site = self.create()
        site = self.update(site)
        self.delete(site)
        self.retry()
        self.check_that_no_more_comes()

    def create(self) -> Any:
        new = {"name": "Oslo OSL1", "slug": "osl1", "status": "planned", "tags": ["edge"]}
        site = self._site.call("POST", SITES, new)
        self.check(Expected("create", "dcim.site", "created", site))
        return site

    def update(self, site: Any) -> Any:
        site = self._site.call("PATCH", f"{SITES}{site['id']}/", {"status": "active", "facility": "Hall 7"})
        self.check(Expected("update", "dcim.site", "updated", site))
        payload = self._inbox.of("dcim.site", site["id"], "updated")[0].payload
        before = {name: payload["snapshots"]["prechange"][name] for name in ("status", "facility")}
        self._same("update: the state before", before, {"status": "planned", "facility": ""})
        return site

    def delete(self, site: Any) -> None:
        self._site.call("DELETE", f"{SITES}{site['id']}/")
        self.check(Expected("delete", "dcim.site", "deleted", site))

    def retry(self) -> None:
        tenant = self._site.find(TENANTS, "globex")
        tenant = self._site.call("PATCH", f"{TENANTS}{tenant['id']}/", {"description": "Moves in June"})
        self.check(Expected("retry", "tenancy.tenant", "updated", tenant, statuses=(503, 503, 200)))

    def check(self, expected: Expected) -> None:
        posts = self._inbox.wait_for(
            expected.object_type, expected.data["id"], expected.event, len(expected.statuses)
        )
        state = self._ledger.state(posts[0].webhook_id)
        self._check_posts(expected, self._inbox.of(expected.object_type, expected.data["id"], expected.event))
        self._check_delivery(expected, posts[0], state)
        self._posts += len(posts)
        print(f"ok  {expected.name}: {self._summary(expected, posts[0])}", flush=True)

    def _summary(self, expected: Expected, post: Post) -> str:
        *failed, _ = expected.statuses
        came = f"{len(failed)} POSTs refused, the next one taken, all under one id" if failed else "one POST"
        answers = ", ".join(f"HTTP {status}" for status in expected.statuses)
        return (
            f"{came}; {expected.object_type} {expected.event},\n"
            "    its data as the API gives it, both signatures right;\n"
            f"    delivery {post.webhook_id} recorded as succeeded, its attempts as {answers}"
        )

    def _check_posts(self, expected: Expected, posts: list[Post]) -> None:
        name, first = expected.name, posts[0]
        self._same(f"{name}: HTTP answers", [post.status for post in posts], list(expected.statuses))
        self._same(f"{name}: ids", {post.webhook_id for post in posts}, {first.webhook_id})
        self._same(f"{name}: bodies", {post.body for post in posts}, {first.body})
        for post in posts:
            is_right = signatures.are_right(post, self._here.webhook_secret)
            self._same(f"{name}: signatures right", is_right, True)
        payload = first.payload
        self._same(f"{name}: data", payload["data"], self._site.as_sent(expected.data))
        self._same(f"{name}: model", payload["model"], expected.object_type.rpartition(".")[2])
        self._same(f"{name}: username", payload["username"], USERNAME)
        self._same(f"{name}: request id", payload["request"]["id"], payload["request_id"])

    def _check_delivery(self, expected: Expected, post: Post, state: str) -> None:
        name, webhook_id = expected.name, post.webhook_id
        self._same(f"{name}: delivery state", state, "succeeded")
        self._same(f"{name}: sequence", post.payload["sequence"], self._ledger.sequence(webhook_id))
        self._same(f"{name}: recorded attempts", self._ledger.statuses(webhook_id), list(expected.statuses))

    def check_that_no_more_comes(self) -> None:
        time.sleep(QUIET_SECONDS)
        ids = [post.webhook_id for post in self._inbox.posts()]
        self._same("POSTs in all", len(ids), self._posts)
        self._same("deliveries in all", self._ledger.count(), len(set(ids)))
        print(f"ok  nothing else arrived: {self._posts} POSTs in all", flush=True)

    def _same(self, what: str, found: object, wanted: object) -> None:
        if found != wanted:
            raise DemoError(f"{what}: {found!r} instead of {wanted!r}", self._here.log("rqworker"))
