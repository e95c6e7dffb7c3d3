"""The recipe for n8n as it is in the docs, with n8n itself: ``nox -s n8n`` installs it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests
from django.utils import timezone

from dcim.models import Site
from tests.support.draining import drain
from tests.support.recipes import define, statuses
from tests.support.servers import free_port
from tests.support.waiting import until
from webhooks.ground.security.encryption import Secret
from webhooks.models import Attempt, Delivery, QueuedDelivery

pytestmark = [pytest.mark.one_database, pytest.mark.usefixtures("redis", "transactional_db")]

TOKEN = "s3cret-token-4711"
HEADERS = {"N8N_HEADERS": f"X-Token: {TOKEN}"}
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OWNER = {"email": "admin@example.com", "firstName": "A", "lastName": "B", "password": "Passw0rd4711"}
# n8n sends nothing to its makers, and its cookie works without TLS.
QUIET = {
    "N8N_DIAGNOSTICS_ENABLED": "false",
    "N8N_VERSION_NOTIFICATIONS_ENABLED": "false",
    "N8N_TEMPLATES_ENABLED": "false",
    "N8N_DISABLED_MODULES": "mcp-registry,insights",
    "N8N_SECURE_COOKIE": "false",
}

# Nodes


def node(name: str, version: float, parameters: dict[str, Any], **more: Any) -> dict[str, Any]:
    kind = f"n8n-nodes-base.{name}"
    return {"id": str(uuid4()), "name": name, "type": kind, "typeVersion": version, "parameters": parameters, **more}


def read_node(**fields: str) -> dict[str, Any]:
    """A node that reads these expressions."""
    found = [{"id": name, "name": name, "value": value, "type": "string"} for name, value in fields.items()]
    return node("set", 3.4, {"assignments": {"assignments": found}, "options": {}})


def if_node(left: str, right: str) -> dict[str, Any]:
    """A node that goes on if these expressions are equal."""
    operator = {"type": "string", "operation": "equals"}
    condition = {"id": "one", "leftValue": left, "rightValue": right, "operator": operator}
    options = {"caseSensitive": True, "leftValue": "", "typeValidation": "strict", "version": 2}
    return node("if", 2.2, {"conditions": {"options": options, "combinator": "and", "conditions": [condition]}})


FAIL = node("stopAndError", 1, {"errorMessage": "The CMDB is down."})
NOTHING = if_node("={{ $json.body.event }}", "no event")


# n8n


class N8n:
    """A running n8n with an owner; ``log`` has its output."""

    def __init__(self, directory: Path) -> None:
        self.url, self.log = f"http://127.0.0.1:{free_port()}", directory / "log"
        address = {"N8N_LISTEN_ADDRESS": "127.0.0.1", "N8N_PORT": self.url.rpartition(":")[2]}
        own = {"N8N_USER_FOLDER": str(directory), "N8N_RUNNERS_BROKER_PORT": str(free_port())}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                ["n8n", "start"], cwd=directory, env=os.environ | QUIET | address | own, stdout=log, stderr=log
            )
        ready = "Editor is now accessible"
        until(lambda: ready in self.log.read_text() or self.process.poll() is not None, 120, "n8n to start")
        assert self.process.poll() is None, self.log.read_text()
        self._session, self._numbers = requests.Session(), count(1)
        self.call("owner/setup", OWNER)
        self._token = self.credential("httpHeaderAuth", name="X-Token", value=TOKEN)

    def call(self, path: str, data: dict[str, Any]) -> dict[str, Any]:
        """Send a request as the editor does, and return the answer."""
        answer = self._session.post(f"{self.url}/rest/{path}", json=data, timeout=60)
        assert answer.ok, answer.text
        found: dict[str, Any] = answer.json()["data"]
        return found

    def credential(self, kind: str, **data: str) -> dict[str, Any]:
        """Store a credential, and return what a node refers to it by."""
        stored = self.call("credentials", {"name": kind, "type": kind, "data": data})
        return {kind: {"id": stored["id"], "name": kind}}

    def workflow(self, *then: dict[str, Any], respond: str, **options: Any) -> Workflow:
        """A workflow that begins with the node of the recipe."""
        path = str(uuid4())
        settings = {"httpMethod": "POST", "path": path, "authentication": "headerAuth", "responseMode": respond}
        first = node("webhook", 2.1, {**settings, "options": options}, webhookId=path, credentials=self._token)
        nodes = [one | {"position": [number * 200, 0]} for number, one in enumerate((first, *then))]
        links = {
            one["name"]: {"main": [[{"node": other["name"], "type": "main", "index": 0}]]}
            for one, other in pairwise(nodes)
        }
        given = {"name": f"Workflow {next(self._numbers)}", "active": False, "nodes": nodes, "connections": links}
        stored = self.call("workflows", {**given, "settings": {"executionOrder": "v1"}})
        return Workflow(self, stored, f"{self.url}/webhook/{path}")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


class Workflow:
    """A workflow that is not published yet; ``url`` is its production URL."""

    def __init__(self, n8n: N8n, stored: dict[str, Any], url: str) -> None:
        self._n8n, self._stored, self.url = n8n, stored, url

    def publish(self) -> str:
        """Publish it, and wait until n8n knows its URL. Without the token no workflow starts."""
        self._n8n.call(f"workflows/{self._stored['id']}/activate", {"versionId": self._stored["versionId"]})
        until(lambda: requests.post(self.url, timeout=60).status_code == 403, 30, "n8n to know the workflow")
        return self.url


@pytest.fixture(scope="module")
def n8n(tmp_path_factory: pytest.TempPathFactory) -> Iterator[N8n]:
    running = N8n(tmp_path_factory.mktemp("n8n"))
    yield running
    running.stop()


# Tests


def test_a_workflow_gets_the_payload_and_the_id_and_another_token_is_refused(n8n: N8n) -> None:
    wanted = {"name": "={{ $json.body.data.name }}", "event": "={{ $json.body.event }}"}
    reader = read_node(**wanted, id='={{ $json.headers["webhook-id"] }}')
    webhook = define("n8n", n8n.workflow(reader, respond="lastNode").publish(), HEADERS)
    create_site('Oslo "OSL1" ⚡ & more')
    assert statuses() == [200]
    expected = {"name": 'Oslo "OSL1" ⚡ & more', "event": "created", "id": str(Delivery.objects.get().pk)}
    assert json.loads(answer()) == expected
    webhook.secret_headers = Secret("X-Token: another-token")
    webhook.save()
    create_site("Narvik")
    assert statuses() == [200, 403]


def test_a_delivery_shows_the_hint_of_n8n_and_arrives_after_the_workflow_is_published(n8n: N8n) -> None:
    workflow = n8n.workflow(respond="onReceived")
    define("n8n", workflow.url, HEADERS)
    create_site("Oslo")
    assert statuses() == [404]
    assert "The workflow must be active for a production URL" in answer()
    workflow.publish()
    QueuedDelivery.objects.update(due_at=timezone.now())
    drain()
    assert statuses() == [404, 200]


@pytest.mark.parametrize(
    ("then", "respond", "status"),
    [(FAIL, "onReceived", 200), (FAIL, "lastNode", 500), (NOTHING, "onReceived", 200), (NOTHING, "lastNode", 500)],
)
def test_a_workflow_that_fails_or_returns_nothing_fails_its_delivery_only_if_n8n_answers_at_the_end(
    n8n: N8n, then: dict[str, Any], respond: str, status: int
) -> None:
    define("n8n", n8n.workflow(then, respond=respond).publish(), HEADERS)
    create_site("Oslo")
    assert statuses() == [status]


def test_a_node_that_ignores_bots_refuses_webhooks(n8n: N8n) -> None:
    define("n8n", n8n.workflow(respond="onReceived", ignoreBots=True).publish(), HEADERS)
    create_site("Oslo")
    assert statuses() == [403]


def test_a_workflow_verifies_the_signature(n8n: N8n) -> None:
    options = {"action": "hmac", "binaryData": True, "binaryPropertyName": "data", "type": "SHA512", "encoding": "hex"}
    credential = n8n.credential("crypto", hmacSecret=SECRET)
    crypto = node("crypto", 2, {**options, "dataPropertyName": "digest"}, credentials=credential)
    compare = if_node("={{ $json.digest }}", '={{ $json.headers["x-hook-signature"] }}')
    url = n8n.workflow(crypto, compare, respond="lastNode", rawBody=True).publish()
    webhook = define("n8n", url, HEADERS | {"N8N_SECRET": SECRET}, secret={"env": "N8N_SECRET"})
    create_site("Oslo ⚡")
    assert statuses() == [200]
    webhook.secret = Secret("another")
    webhook.save()
    create_site("Narvik")
    assert statuses() == [200, 500]  # the last node has passed on nothing


def create_site(name: str) -> None:
    Site.objects.create(name=name, slug=f"site-{Site.objects.count()}")
    drain()


def answer() -> str:
    """The body of the last answer."""
    return str(Attempt.objects.latest("pk").response_body)
