"""One change to look at, the addresses to go on from, then whatever the receiver gets until Ctrl-C."""

from __future__ import annotations

import json
import time
from typing import IO

from demo.inbox import Inbox, Post
from demo.ledger import Ledger
from demo.run import PASSWORD, ROOT, USERNAME, Run
from demo.site import Site
from demo.supervise import Supervisord

SITES = "/api/dcim/sites/"
SHOWN_HEADERS = ("content-type", "webhook-id", "webhook-timestamp", "webhook-signature", "x-hook-signature")


def show(here: Run) -> None:
    """Change a site through the API, and print what that set off."""
    site = Site(here)
    path = f"{SITES}{site.find(SITES, 'ams1')['id']}/"
    change = {"description": "Seen by scripts/demo"}
    before = time.time()
    changed = site.call("PATCH", path, change)
    print(f"\nA site was changed through the REST API:\n\n    PATCH {path} {json.dumps(change)} -> 200")
    post = Inbox(here).wait_for("dcim.site", changed["id"], "updated")[0]
    print(f"\nThis POST arrived at the receiver {post.at - before:.2f} s later:\n")
    print(_indented(_as_text(post)))
    print("\nThis delivery was recorded:\n")
    print(_indented("\n".join(Ledger(here).describe(post.webhook_id))))


def _as_text(post: Post) -> str:
    headers = [f"{name}: {_cut(post.headers[name])}" for name in SHOWN_HEADERS if name in post.headers]
    body = json.dumps(post.payload, indent=2)
    return "\n".join([f"POST {post.path}", *headers, "", body])


def _cut(value: str) -> str:
    return value if len(value) < 80 else value[:77] + "..."


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


def print_addresses(here: Run) -> None:
    print(f"""
The site:           {here.site_url}/
The admin:          {here.site_url}/admin/
Status of webhooks: {here.site_url}/admin/webhook-backend-status/
Log in as:          {USERNAME}, password {PASSWORD}
The REST API:       {here.site_url}/api/ with the header "Authorization: Token {here.key}"
Your own webhook:   give it the payload URL {here.own_url}
Logs, database:     {_short(here)}

Change a site, a rack, a prefix or an address and watch its POST arrive below. Tenants go to a receiver that
fails twice, circuits to one that always fails. Ctrl-C stops everything and removes the data.
""", flush=True)  # fmt: skip


def _short(here: Run) -> str:
    is_inside = here.directory.is_relative_to(ROOT)
    return str(here.directory.relative_to(ROOT) if is_inside else here.directory)


def follow(here: Run, supervisord: Supervisord) -> None:
    """Print what the receiver prints. Returns never; raises DemoError when a program does not stay up."""
    with here.log("receiver").open() as output:
        output.read()
        while True:
            _relay(output)
            supervisord.check()
            time.sleep(0.5)


def _relay(output: IO[str]) -> None:
    text = output.read()
    if text:
        print(text, end="", flush=True)
