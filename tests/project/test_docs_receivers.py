"""The receivers of docs/receivers.md and docs/more-receivers.md, run unchanged, over real sockets."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

import pytest

import webhooks
from tests.support.draining import drain, states
from tests.support.inbox import ROOT
from tests.support.makers import make_webhook
from tests.support.servers import free_port
from tests.support.waiting import until
from tests.testapp.models import Thing
from webhooks.ground.conf import conf
from webhooks.ground.security import signing
from webhooks.ground.security.encryption import Secret
from webhooks.models import State, Webhook

SECRET_FIELDS = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "a plain one, ümlaut included"]
BODY = b'{"event": "updated", "object_type": "dcim.site", "data": {"id": 7}}'


def code(title: str) -> str:
    pages = "".join((ROOT / "docs" / name).read_text() for name in ("receivers.md", "more-receivers.md"))
    [found] = re.findall(rf'^```\w+ title="{re.escape(title)}"\n(.*?)^```', pages, re.MULTILINE | re.DOTALL)
    return str(found)


# Put before the work of a receiver, to make it fail.
FAILING = {
    "python": ("def work(event):\n", "    if os.path.exists('broken'):\n        raise OSError('no room')\n"),
    "javascript": (
        "async function work(event) {\n",
        "  if ((await import('node:fs')).existsSync('broken')) throw new Error('no room');\n",
    ),
    "go": (
        "func work(one event) error {\n",
        '\tif _, err := os.Stat("broken"); err == nil {\n\t\treturn errors.New("no room")\n\t}\n',
    ),
    "java": (
        "    static void work(JsonObject event) throws Exception {\n",
        '        if (new java.io.File("broken").exists()) throw new IOException("no room");\n',
    ),
    "php": (
        "function work(array $event): void\n{\n",
        "    if (file_exists(getcwd() . '/broken')) throw new RuntimeException('no room');\n",
    ),
    "ruby": ("def work(event)\n", '  raise "no room" if File.exist?("broken")\n'),
}


def failing(language: str, text: str) -> str:
    head, more = FAILING[language]
    assert text.count(head) == 1
    return text.replace(head, head + more)


def listens(address: str) -> bool:
    host, _colon, port = address.partition(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return False
    return True


class Running:
    """A receiver process; ``printed`` has its lines. Its work fails while the file ``broken`` exists.

    Many tests use it, one after another. Each has ids of its messages that no other has."""

    def __init__(self, command: list[str], secret: str, directory: Path) -> None:
        environment = os.environ | {"WEBHOOK_SECRET": secret, "PORT": "0"}
        self.broken = directory / "broken"
        self._secret, self._tests = secret, 0
        self.process = subprocess.Popen(command, cwd=directory, env=environment, stdout=subprocess.PIPE, text=True)
        self.printed: list[str] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        if addresses := [one for one in command if one.startswith("127.0.0.1:")]:
            until(lambda: listens(addresses[0]), 30, "the receiver to start")
            self.url = f"http://{addresses[0]}/"
        else:
            until(lambda: self.printed or self.process.poll() is not None, 30, "the receiver to start")
            self.url = f"http://127.0.0.1:{self.printed.pop(0).removeprefix('port ')}/"

    def _listen(self) -> None:
        for line in self.process.stdout or ():
            self.printed.append(line.strip())

    def begin(self) -> None:
        """Forget the lines of an earlier test, those on their way too."""
        self._tests += 1
        body = b'{"event": "begin", "object_type": "test", "data": {"id": %d}}' % self._tests
        assert self.post(self.signed(self._secret, "begin", body=body), body) == 204
        until(lambda: f"begin test {self._tests}" in self.printed, 10, "the first line of the test")
        self.printed.clear()

    def signed(
        self, secret: str, message: str = "msg", age: int = 0, body: bytes = BODY, previous: str = ""
    ) -> dict[str, str]:
        """The headers of a message of this test."""
        message_id = f"{message}-{self._tests}"
        return signing.headers(secret, message_id, int(time.time()) - age, body, previous=previous)

    def post(self, headers: dict[str, str], body: bytes = BODY) -> int:
        headers = {"Content-Type": "application/json"} | headers
        request = urllib.request.Request(self.url, body, headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=40) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def wait_for(self, count: int) -> list[str]:
        until(lambda: len(self.printed) >= count, 10, lambda: f"{count} lines, not {self.printed}")
        return self.printed

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(40)
        self._listener.join(40)  # it reads to the end
        if self.process.stdout:
            self.process.stdout.close()


GSON = "/usr/share/java/gson.jar"


@dataclass(frozen=True)
class Language:
    """A language in which there is a receiver."""

    file: str
    command: tuple[str, ...]
    """How it is run: {file}, {directory} and {address} are filled in. One without an address prints its port."""
    build: tuple[str, ...] = ()
    packages: str = ""
    """The packages of Debian that have the commands."""


LANGUAGES = {
    "python": Language("receiver.py", (sys.executable, "-W", "error", "{file}")),
    "javascript": Language("receiver.mjs", ("node", "{file}"), packages="nodejs"),
    "go": Language(
        "receiver.go", ("{directory}/receiver",), ("go", "build", "-o", "{directory}/receiver", "{file}"), "golang-go"
    ),
    "java": Language(
        "Receiver.java",
        ("java", "-cp", f"{GSON}:{{directory}}", "Receiver"),
        ("javac", "-cp", GSON, "-d", "{directory}", "{file}"),
        "default-jdk-headless libgoogle-gson-java",
    ),
    "php": Language(
        "receiver.php",
        ("php", "-d", "enable_post_data_reading=0", "-S", "{address}", "{file}"),
        packages="php-cli php-sqlite3",
    ),
    "ruby": Language("receiver.rb", ("ruby", "-w", "{file}"), packages="ruby ruby-webrick"),
}


@cache
def built(name: str) -> Path:
    """The directory with the receiver of a language, compiled if it needs that."""
    language, directory = LANGUAGES[name], Path(tempfile.mkdtemp(prefix=f"receiver-{name}-"))
    (directory / language.file).write_text(failing(name, code(language.file)))
    if language.build:
        subprocess.run(filled(language.build, language, directory), check=True, cwd=directory)
    return directory


def filled(command: Sequence[str], language: Language, directory: Path) -> list[str]:
    values = {"file": directory / language.file, "directory": directory, "address": f"127.0.0.1:{free_port()}"}
    return [part.format_map(values) for part in command]


def command_of(name: str) -> list[str]:
    language = LANGUAGES[name]
    if not shutil.which((language.build or language.command)[0]) or (name == "java" and not Path(GSON).exists()):
        assert not os.environ.get("CI"), f"no {name} on this machine, and nothing may be left out here"
        pytest.skip(f"no {name} on this machine: install it (Debian: apt-get install {language.packages})")
    return filled(language.command, language, built(name))


# Both kinds of secrets are read in the same way in all languages.
EACH = [
    (name, secret)
    for name in LANGUAGES
    for secret in SECRET_FIELDS
    if secret == SECRET_FIELDS[0] or name in ("python", "javascript")
]


@pytest.fixture(params=EACH, ids=lambda one: f"{one[0]}-{one[1][:5]}")
def language_and_secret(request: pytest.FixtureRequest) -> tuple[str, str]:
    name, secret = request.param
    return name, secret


@pytest.fixture
def secret(language_and_secret: tuple[str, str]) -> str:
    return language_and_secret[1]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], Running]]:
    """Starts a receiver, or gives the one that was started before."""
    running: dict[tuple[str, str], Running] = {}

    def start(name: str, secret: str) -> Running:
        if (name, secret) not in running:
            running[name, secret] = Running(command_of(name), secret, tmp_path_factory.mktemp(name))
        return running[name, secret]

    yield start
    for one in running.values():
        one.stop()


@pytest.fixture
def receiver(language_and_secret: tuple[str, str], started: Callable[[str, str], Running]) -> Iterator[Running]:
    running = started(*language_and_secret)
    running.begin()
    yield running
    running.broken.unlink(missing_ok=True)


def test_a_signed_request_is_accepted_once(receiver: Running, secret: str) -> None:
    assert receiver.post(receiver.signed(secret)) == 204
    assert receiver.post(receiver.signed(secret, age=-1)) == 204, "the same delivery, tried again"
    assert receiver.post(receiver.signed(secret, "another")) == 204
    assert receiver.wait_for(2) == ["updated dcim.site 7"] * 2


def test_both_secrets_of_an_overlap_are_accepted(receiver: Running, secret: str) -> None:
    assert receiver.post(receiver.signed("the new one", previous=secret)) == 204
    assert receiver.post(receiver.signed(secret, "other", previous="the old one")) == 204


def test_a_time_that_is_off_is_refused(receiver: Running, secret: str) -> None:
    assert receiver.post(receiver.signed(secret, age=310)) == 401
    assert receiver.post(receiver.signed(secret, age=-310)) == 401


def test_a_forged_request_is_refused(receiver: Running, secret: str) -> None:
    good = receiver.signed(secret)
    assert receiver.post(good, BODY.replace(b"7", b"8")) == 401
    assert receiver.post(receiver.signed(secret + "QUJD")) == 401
    now = str(int(time.time()))
    old = receiver.signed(secret, age=3600, body=now.encode() + b"." + BODY)
    dotted = {"webhook-id": f"{old['webhook-id']}.{old['webhook-timestamp']}", "webhook-timestamp": now}
    assert receiver.post(old | dotted) == 401
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        assert receiver.post({key: value for key, value in good.items() if key != name}) == 401
        assert receiver.post(good | {name: "1"}) == 401
    for signature in ("v1,", "v1", good["webhook-signature"][3:], "v2" + good["webhook-signature"][2:], "ä" * 44):
        assert receiver.post(good | {"webhook-signature": signature.encode().decode("latin-1")}) == 401
    assert len(receiver.wait_for(14)) == 14, receiver.printed
    assert not [line for line in receiver.printed if not line.startswith("refused: ")]


def test_the_very_same_request_is_refused_the_second_time(receiver: Running, secret: str) -> None:
    headers = receiver.signed(secret)
    assert receiver.post(headers) == 204
    assert receiver.post(headers) == 401
    assert len(receiver.wait_for(2)) == 2


def test_a_form_is_accepted(receiver: Running, secret: str) -> None:
    fields = {"event": "updated", "object_type": "dcim.site", "username": "", "request": "null", "snapshots": "{}"}
    for key in ("7", "ümlaut & more"):
        body = urlencode(fields | {"data": json.dumps({"id": key}), "changed": "[]"}).encode()
        headers = receiver.signed(secret, quote(key), body=body) | {"Content-Type": "application/x-www-form-urlencoded"}
        assert receiver.post(headers, body) == 204
    assert receiver.wait_for(2) == ["updated dcim.site 7", "updated dcim.site ümlaut & more"]


def test_data_without_an_id_are_accepted(receiver: Running, secret: str) -> None:
    for number, data in enumerate((b"null", b"[1]", b'"text"', b"{}", b"0")):
        body = b'{"event": "dcim.rack_audited", "object_type": "", "data": %b}' % data
        assert receiver.post(receiver.signed(secret, str(number), body=body), body) == 204
    assert receiver.wait_for(5) == ["dcim.rack_audited"] * 5


def test_an_old_state_of_an_object_is_dropped(receiver: Running, secret: str) -> None:
    def post(number: int, sequence: int, action: str = "updated", key: int = 7) -> None:
        event = {"event": action, "object_type": "dcim.rack", "sequence": sequence, "data": {"id": key}}
        body = json.dumps(event).encode()
        assert receiver.post(receiver.signed(secret, str(number), body=body), body) == 204

    post(1, 5)
    post(2, 4)
    post(3, 4, key=8)
    post(4, 4, "rack_counted")
    post(5, 6, "deleted")
    assert receiver.wait_for(4) == [
        "updated dcim.rack 7", "updated dcim.rack 8", "rack_counted dcim.rack 7", "deleted dcim.rack 7",
    ]  # fmt: skip


def test_work_that_failed_is_done_at_the_next_attempt(receiver: Running, secret: str) -> None:
    receiver.broken.touch()
    assert receiver.post(receiver.signed(secret)) == 500
    receiver.broken.unlink()
    assert receiver.post(receiver.signed(secret, age=-1)) == 204
    assert receiver.post(receiver.signed(secret, age=-2)) == 204
    assert receiver.post(receiver.signed(secret, "another")) == 204
    failed, *done = receiver.wait_for(3)
    assert "no room" in failed
    assert done == ["updated dcim.site 7"] * 2


def test_a_body_that_cannot_be_parsed_is_refused_and_the_receiver_goes_on(receiver: Running, secret: str) -> None:
    assert receiver.post(receiver.signed(secret, body=b"{"), b"{") == 500
    assert receiver.post(receiver.signed(secret, "another")) == 204


@pytest.mark.one_database
def test_a_custom_event_without_data_arrives(database: str, receiver: Running, secret: str) -> None:
    make_webhook(url=receiver.url, secret=secret, custom_events=["dcim.rack_audited"])
    for content_type in ("application/json", "application/x-www-form-urlencoded"):
        Webhook.objects.update(content_type=content_type)
        webhooks.send("dcim.rack_audited")
        drain()
    assert states() == [State.SUCCEEDED] * 2
    assert receiver.wait_for(2) == ["dcim.rack_audited"] * 2


# Of other objects in each test: the receiver keeps the last sequence of each object.
NEW_KEYS = itertools.count(1)


@pytest.mark.one_database
def test_changes_arrive_before_and_after_the_secret_is_replaced(database: str, receiver: Running, secret: str) -> None:
    webhook = make_webhook(Thing, url=receiver.url, secret=secret)
    thing = Thing.objects.create(pk=next(NEW_KEYS), name="a")
    drain()
    webhook = Webhook.objects.get()
    webhook.replace_secret(Secret("whsec_" + "QUJD" * 8))
    webhook.save()
    thing.save()
    drain()
    assert states() == [State.SUCCEEDED] * 2
    assert receiver.wait_for(2) == [f"created testapp.thing {thing.pk}", f"updated testapp.thing {thing.pk}"]


# The key of each of these would be empty, so an attacker could sign.
KEYLESS = ["whsec_", "whsec_!", "whsec_===="]


@pytest.mark.parametrize("secret", ["", *KEYLESS])
@pytest.mark.parametrize("language", [name for name, one in LANGUAGES.items() if "{address}" not in one.command])
def test_a_receiver_does_not_start_without_a_key(language: str, secret: str, tmp_path: Path) -> None:
    environment = os.environ | {"WEBHOOK_SECRET": secret, "PORT": "0"}
    with subprocess.Popen(
        command_of(language), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            printed, problem = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, printed) == (1, "")
    assert "secret" in problem.lower()


def test_the_receiver_in_python_needs_no_package_of_this_project() -> None:
    imported = set(re.findall(r"^(?:from|import) (\w+)", code("receiver.py"), re.MULTILINE))
    assert imported - sys.stdlib_module_names == {"standardwebhooks"}


def test_all_connections_that_a_worker_opens_at_once_get_through(receiver: Running) -> None:
    # Half of SENDERS may go to one webhook. A receiver that does nothing has only its queue of connections.
    address = ("127.0.0.1", urlsplit(receiver.url).port)
    receiver.process.send_signal(signal.SIGSTOP)
    try:
        with ExitStack() as stack:
            for number in range(conf.senders // 2):
                try:
                    stack.enter_context(socket.create_connection(address, 2))
                except TimeoutError:
                    pytest.fail(f"only {number} connections got through")
    finally:
        receiver.process.send_signal(signal.SIGCONT)
