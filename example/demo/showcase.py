"""Show a change and its webhook, then the addresses, then each request at the receiver until Ctrl-C."""

import json
import time
from textwrap import indent

from demo import receiver
from demo.site import SITES
from demo.startup import EMAIL, PASSWORD, Demo
from demo.supervisord import log

SHOWN_HEADERS = ("content-type", "webhook-id", "webhook-timestamp", "webhook-signature", "x-hook-signature")


# The first lines of the payload: the event, who changed the object, and the beginning of its data.
PAYLOAD_LINES = 20


def show_a_change(demo: Demo, full: bool = False) -> None:
    """Change a site through the REST API, and print its webhook, whole if ``full``, and its delivery."""
    path = f"{SITES}{demo.site.find(SITES, 'ams1')['id']}/"
    change = {"description": "Seen by scripts/demo"}
    before = time.time()
    demo.site.call("PATCH", path, change)
    print(f"\nA site was changed through the REST API:\n\n    PATCH {path} {json.dumps(change)} -> 200")
    post = demo.programs.wait_for(lambda: receiver.posts(demo.directory), "A POST", "rqworker")[0]
    headers = [f"{name}: {post.headers[name]}" for name in SHOWN_HEADERS]
    payload = json.dumps(post.payload, indent=2).splitlines()
    if not full and (left := len(payload) - PAYLOAD_LINES) > 0:
        payload[PAYLOAD_LINES:] = [f"... {left} more lines: see the delivery in the admin, or use --full"]
    request = "\n".join([f"POST {post.path}", *headers, "", *payload])
    print(f"\nThis POST arrived at the receiver {post.at - before:.2f} s later:\n\n{indent(request, '    ')}")
    delivery = demo.finished_delivery(post.headers["webhook-id"])
    print("\nIts delivery:\n")
    print(f"    {delivery['id']}  {delivery['state']}  to webhook {delivery['webhook']['name']!r}")
    for attempt in reversed(delivery["attempts"]):
        answer = f"HTTP {attempt['status']}" if attempt["status"] else attempt["reason"]
        print(f"    attempt {attempt['number']}: {answer} after {attempt['duration_ms']} ms")


def print_addresses(demo: Demo) -> None:
    site = demo.site.url
    print(f"""
The site:           {site}/
The admin:          {site}/admin/
Status of webhooks: {site}/admin/webhook-backend-status/
Log in as:          {EMAIL}, password {PASSWORD}
The REST API:       {site}/api/ with the header "Authorization: Token {demo.site.token}"
Your own webhook:   use the payload URL {demo.receiver_url}/mine
Logs, database:     {demo.directory}

Change a site, a rack, a prefix or an address and watch its POST arrive below. Webhooks of tenants
fail twice, webhooks of circuits always fail. Ctrl-C stops everything and deletes the data.
""", flush=True)  # fmt: skip


def follow(demo: Demo) -> None:
    """Print the output of the receiver until Ctrl-C. Raises DemoError if a program fails."""
    with log(demo.directory, "receiver").open() as output:
        output.read()
        while True:
            if text := output.read():
                print(text, end="", flush=True)
            demo.programs.check()
            time.sleep(0.5)
