"""The checks of ``--once``: three changes of a site, one of a tenant with a receiver that fails twice."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

from demo import receiver
from demo.receiver import Post
from demo.site import DELIVERIES, SITES, TENANTS
from demo.startup import EMAIL, Demo
from demo.supervisord import DemoError

Statuses = tuple[int, ...]  # the HTTP status of each attempt

# Seconds to wait for a POST that must not arrive.
QUIET_SECONDS = 2


def check_round_trip(demo: Demo) -> None:
    """Raises DemoError if a check fails."""
    call = demo.site.call
    new = {"name": "Oslo OSL1", "slug": "osl1", "status": "planned", "tags": ["edge"]}
    site = call("POST", SITES, new)
    check_change(demo, "dcim.site created", site)
    path = f"{SITES}{site['id']}/"
    site = call("PATCH", path, {"status": "active", "facility": "Hall 7"})
    snapshots = check_change(demo, "dcim.site updated", site)["snapshots"]
    before = {name: snapshots["prechange"][name] for name in ("status", "facility")}
    compare("dcim.site updated: previous state", before, {"status": "planned", "facility": ""})
    call("DELETE", path)
    check_change(demo, "dcim.site deleted", site)
    path = f"{TENANTS}{demo.site.find(TENANTS, 'globex')['id']}/"
    tenant = call("PATCH", path, {"description": "Moves in June"})
    check_change(demo, "tenancy.tenant updated", tenant, (503, 503, 200))
    time.sleep(QUIET_SECONDS)
    ids = [post.headers["webhook-id"] for post in receiver.posts(demo.directory)]
    compare("number of POSTs", len(ids), 6)
    deliveries = call("GET", DELIVERIES)["results"]
    compare("deliveries", {delivery["id"] for delivery in deliveries}, set(ids))
    print("ok  nothing else arrived: 6 POSTs in total", flush=True)


def check_change(demo: Demo, change: str, data: Any, statuses: Statuses = (200,)) -> Any:
    """Check that the change caused one delivery of ``data`` with these statuses. Returns the payload."""
    count = len(statuses)
    demo.programs.wait_for(lambda: len(posts_of(demo, change)) >= count, f"{change}: all POSTs", "rqworker")
    first = posts_of(demo, change)[0]
    webhook_id, payload = first.headers["webhook-id"], first.payload
    delivery = demo.finished_delivery(webhook_id)
    posts = posts_of(demo, change)  # includes an attempt too many, if there was one
    data = json.loads(json.dumps(data).replace(demo.site.url, ""))  # payloads have paths instead of URLs
    compare(f"{change}: HTTP answers", tuple(post.status for post in posts), statuses)
    compare(f"{change}: ids", {post.headers["webhook-id"] for post in posts}, {webhook_id})
    compare(f"{change}: bodies", {post.body for post in posts}, {posts[0].body})
    compare(f"{change}: valid signatures", {is_signed(post, demo.webhook_secret) for post in posts}, {True})
    compare(f"{change}: data", payload["data"], data)
    compare(f"{change}: model", payload["model"], payload["object_type"].rpartition(".")[2])
    compare(f"{change}: username", payload["username"], EMAIL)
    compare(f"{change}: request id", payload["request"]["id"], payload["request_id"])
    compare(f"{change}: sequence", payload["sequence"], delivery["event"]["id"])
    compare(f"{change}: state of the delivery", delivery["state"], "succeeded")
    compare(f"{change}: attempts", tuple(one["status"] for one in delivery["attempts"][::-1]), statuses)
    print(f"ok  {change}, HTTP {', '.join(map(str, statuses))}: data equal to the API's, valid signatures,")
    print(f"    delivery {webhook_id} succeeded, same attempts in the API", flush=True)
    return payload


def posts_of(demo: Demo, change: str) -> list[Post]:
    posts = receiver.posts(demo.directory)
    return [post for post in posts if change == f"{post.payload['object_type']} {post.payload['event']}"]


def is_signed(post: Post, secret: str) -> bool:
    """Check the signatures of Standard Webhooks and NetBox, without the code of the app."""
    headers, body = post.headers, post.body.encode()
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    standard = "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    netbox = hmac.digest(secret.encode(), body, hashlib.sha512).hex()
    return (headers.get("webhook-signature"), headers.get("x-hook-signature")) == (standard, netbox)


def compare(what: str, actual: object, expected: object) -> None:
    if actual != expected:
        raise DemoError(f"{what}: {actual!r} instead of {expected!r}", "rqworker")
