"""``--once``: create, update and delete a site, change a tenant whose receiver fails twice; check each."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

from demo import receiver
from demo.receiver import Post
from demo.site import DELIVERIES, SITES, TENANTS
from demo.startup import USERNAME, Demo
from demo.supervisord import DemoError

Statuses = tuple[int, ...]  # of HTTP, one for each attempt

# How long to watch for a POST that must not come, in seconds.
QUIET_SECONDS = 2


def check_round_trip(demo: Demo) -> None:
    """Raises DemoError if anything is not as it should be."""
    call = demo.site.call
    new = {"name": "Oslo OSL1", "slug": "osl1", "status": "planned", "tags": ["edge"]}
    site = call("POST", SITES, new)
    check_change(demo, "dcim.site created", site)
    path = f"{SITES}{site['id']}/"
    site = call("PATCH", path, {"status": "active", "facility": "Hall 7"})
    snapshots = check_change(demo, "dcim.site updated", site)["snapshots"]
    before = {name: snapshots["prechange"][name] for name in ("status", "facility")}
    compare("dcim.site updated: the state before", before, {"status": "planned", "facility": ""})
    call("DELETE", path)
    check_change(demo, "dcim.site deleted", site)
    path = f"{TENANTS}{demo.site.find(TENANTS, 'globex')['id']}/"
    tenant = call("PATCH", path, {"description": "Moves in June"})
    check_change(demo, "tenancy.tenant updated", tenant, (503, 503, 200))
    time.sleep(QUIET_SECONDS)
    ids = [post.headers["webhook-id"] for post in receiver.posts(demo.directory)]
    compare("POSTs in all", len(ids), 6)
    deliveries = call("GET", DELIVERIES)["results"]
    compare("deliveries in all", {delivery["id"] for delivery in deliveries}, set(ids))
    print("ok  nothing else arrived: 6 POSTs in all", flush=True)


def check_change(demo: Demo, change: str, data: Any, statuses: Statuses = (200,)) -> Any:
    """The change set off one delivery of ``data``, and its attempts got ``statuses``. Returns the payload."""

    def arrived() -> list[Post]:
        found = receiver.posts(demo.directory)
        return [post for post in found if change == f"{post.payload['object_type']} {post.payload['event']}"]

    demo.programs.wait_for(lambda: len(arrived()) >= len(statuses), f"{change}: all its POSTs", "rqworker")
    webhook_id, payload = arrived()[0].headers["webhook-id"], arrived()[0].payload
    delivery = demo.ended_delivery(webhook_id)
    posts = arrived()
    data = json.loads(json.dumps(data).replace(demo.site.url, ""))  # in a payload, URLs are paths
    attempts = tuple(attempt["status"] for attempt in reversed(delivery["attempts"]))
    compare(f"{change}: HTTP answers", tuple(post.status for post in posts), statuses)
    compare(f"{change}: ids", {post.headers["webhook-id"] for post in posts}, {webhook_id})
    compare(f"{change}: bodies", {post.body for post in posts}, {posts[0].body})
    compare(f"{change}: signatures right", {is_signed(post, demo.webhook_secret) for post in posts}, {True})
    compare(f"{change}: data", payload["data"], data)
    compare(f"{change}: model", payload["model"], payload["object_type"].rpartition(".")[2])
    compare(f"{change}: username", payload["username"], USERNAME)
    compare(f"{change}: request id", payload["request"]["id"], payload["request_id"])
    compare(f"{change}: sequence", payload["sequence"], delivery["event"]["id"])
    compare(f"{change}: state of the delivery", delivery["state"], "succeeded")
    compare(f"{change}: recorded attempts", attempts, statuses)
    print(f"ok  {change}, HTTP {', '.join(map(str, statuses))}: data as the API gives it, signatures right,")
    print(f"    delivery {webhook_id} recorded as succeeded, with the same attempts", flush=True)
    return payload


def is_signed(post: Post, secret: str) -> bool:
    """Check both signatures, of Standard Webhooks and of NetBox, without the app's code."""
    headers, body = post.headers, post.body.encode()
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    standard = "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    netbox = hmac.digest(secret.encode(), body, hashlib.sha512).hex()
    return (headers.get("webhook-signature"), headers.get("x-hook-signature")) == (standard, netbox)


def compare(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise DemoError(f"{what}: {found!r} instead of {wanted!r}", "rqworker")
