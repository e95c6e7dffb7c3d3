"""Loop protection: a receiver that writes back into the site over real sockets does not cause an endless loop."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.test.testcases import LiveServerThread
from rest_framework.authtoken.models import Token

from dcim.models import Site
from tests.support.draining import STATE
from tests.support.makers import make_webhook
from tests.support.waiting import until
from tests.support.workers import Workers
from users.models import User
from webhooks.ground.headers import DEPTH
from webhooks.models import Delivery, Event, State
from webhooks.models.queue import OPEN_STATES
from webhooks.operations import replays

MAX_DEPTH = 3


@pytest.fixture
def site_url(database: str, redis: Any) -> Iterator[str]:
    """The example project, served by this process."""
    server = LiveServerThread("127.0.0.1", StaticFilesHandler, connections_override={})
    server.daemon = True
    server.start()
    assert server.is_ready.wait(60)
    assert server.error is None
    yield f"http://127.0.0.1:{server.port}"
    server.terminate()


def patch(site_url: str, token: str, site: int, comment: str, depth: str = "") -> None:
    headers = {"Authorization": f"Token {token}", "Content-Type": "application/json"}
    if depth:
        headers[DEPTH] = depth
    body = json.dumps({"comments": comment}).encode()
    request = urllib.request.Request(f"{site_url}/api/dcim/sites/{site}/", body, headers, method="PATCH")
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status == 200


class WritesBack(ThreadingHTTPServer):
    """Changes the object of each request, and passes the loop header on or not."""

    daemon_threads = True

    def __init__(self, site_url: str, token: str, passes_depth: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.site_url, self.token, self.passes_depth = site_url, token, passes_depth
        self.depths: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: WritesBack

    def do_POST(self) -> None:
        payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        depth = self.headers[DEPTH]
        self.server.depths.append(depth)
        said = depth if self.server.passes_depth else ""
        patch(self.server.site_url, self.server.token, payload["data"]["id"], f"seen {len(self.server.depths)}", said)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


def serve(server: WritesBack) -> str:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/"


def all_ended() -> bool:
    is_open = Delivery.objects.in_states(*OPEN_STATES).exists()
    return not is_open and not Event.objects.undispatched().exists()


@pytest.mark.one_database
def test_loop_protection_ends_the_chain_of_a_receiver_that_writes_back(workers: Workers, site_url: str) -> None:
    robot = User.objects.create_user("robot")
    robot.user_permissions.set(Permission.objects.filter(codename__in=["view_site", "change_site", "chain_webhook"]))
    token = Token.objects.create(user=robot).key
    site = Site.objects.create(name="Berlin", slug="berlin")
    with WritesBack(site_url, token, passes_depth=True) as receiver:
        make_webhook(Site, on="u", url=serve(receiver))
        workers.start(MAX_DEPTH=MAX_DEPTH)
        patch(site_url, token, site.pk, "the first")
        until(lambda: Event.objects.failed().exists() and all_ended(), 60, lambda: f"the end, not {receiver.depths}")
        assert receiver.depths == ["1", "2", "3"]
        [cut] = Event.objects.failed()
        assert (cut.depth, cut.is_loop_protected, json.loads(cut.data)["comments"]) == (4, True, "seen 3")
        assert set(Delivery.objects.values_list(STATE, flat=True)) == {State.SUCCEEDED}

        # An admin may start another chain with it.
        replays.replay([cut])
        until(lambda: Event.objects.failed().exists() and all_ended(), 60, lambda: f"the end, not {receiver.depths}")
        assert receiver.depths == ["1", "2", "3"] * 2
        receiver.shutdown()


@pytest.mark.one_database
def test_changes_by_an_ignored_user_are_not_sent(workers: Workers, site_url: str) -> None:
    robot = Token.objects.create(user=User.objects.create_superuser("robot")).key
    person = Token.objects.create(user=User.objects.create_superuser("person")).key
    site = Site.objects.create(name="Berlin", slug="berlin")
    with WritesBack(site_url, robot, passes_depth=False) as receiver:
        make_webhook(Site, on="u", url=serve(receiver), excluded_usernames=["robot"])
        workers.start()
        for number in (1, 2):
            patch(site_url, person, site.pk, f"change {number}")
            until(lambda number=number: len(receiver.depths) == number and all_ended(), 60, "one request for each")
        assert receiver.depths == ["1", "1"]
        assert Site.objects.get().comments == "seen 2"
        receiver.shutdown()
