"""The example project and its demo."""

from __future__ import annotations

import configparser
import io
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE
from unittest.mock import Mock
from urllib.error import HTTPError

import pytest
from django.core.management import call_command
from django.test import Client

from dcim import models as dcim
from demo.receiver import Receiver, posts
from demo.showcase import print_addresses
from demo.site import Site
from demo.startup import EXAMPLE, Demo
from demo.supervisord import CONFIG, Supervisord
from tests.support.servers import free_port
from tests.support.waiting import until
from users.models import User
from webhooks.models import Webhook

ADDRESS = "Science Park 610\n1098 XH Amsterdam\nNetherlands"


@pytest.mark.usefixtures("database")
def test_the_admin_keeps_the_line_ends_of_an_address() -> None:
    site = dcim.Site.objects.create(name="Amsterdam", slug="ams1", physical_address=ADDRESS)
    client = Client()
    client.force_login(User.objects.create_superuser("admin"))
    page = client.get(f"/admin/dcim/site/{site.pk}/change/").text
    shown = re.search(r'<textarea name="physical_address"[^>]*>\s*(.*?)</textarea>', page, re.DOTALL)
    assert shown
    assert shown[1] == ADDRESS
    form = {"name": "Amsterdam", "slug": "ams1", "status": "active", "custom_field_data": "{}"}
    as_a_browser = {**form, "physical_address": shown[1].replace("\n", "\r\n"), "facility": "Hall 3"}
    answer = client.post(f"/admin/dcim/site/{site.pk}/change/", as_a_browser)
    assert answer.status_code == 302, answer.text
    site.refresh_from_db()
    assert (site.physical_address, site.facility) == (ADDRESS, "Hall 3")


@pytest.mark.usefixtures("database")
def test_the_demo_webhook_of_sites_includes_the_previous_state() -> None:
    call_command("demo_webhooks", "http://127.0.0.1:1", stdout=io.StringIO())
    assert list(Webhook.objects.filter(prechange=True).values_list("name", flat=True)) == ["Sites and racks"]


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    """The receiver of the demo."""
    with Receiver(tmp_path) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def status_of(request: urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


def test_the_demo_prints_a_receiver_url_for_your_own_webhook(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, receiver: Receiver
) -> None:
    site, programs = Site("http://127.0.0.1:8000", "k" * 40), Mock(Supervisord)
    print_addresses(Demo(tmp_path, programs, site, f"http://127.0.0.1:{receiver.server_port}", "secret"))
    url = re.search(r"use the payload URL (\S+)\n", capsys.readouterr().out)
    assert url
    assert status_of(urllib.request.Request(url[1], b"{}")) == 200
    assert [(post.path, post.body) for post in posts(tmp_path)] == [("/mine", "{}")]


def test_the_receiver_fails_on_some_paths(receiver: Receiver) -> None:
    def answers(path: str, webhook_id: str) -> list[int]:
        url = f"http://127.0.0.1:{receiver.server_port}/{path}"
        return [status_of(urllib.request.Request(url, b"{}", {"webhook-id": webhook_id})) for _ in range(4)]

    assert answers("tenants/fails-2-times", "a") == [503, 503, 200, 200]
    assert answers("tenants/fails-2-times?x=1", "b") == [503, 503, 200, 200]
    assert answers("circuits/always-fails", "c") == [503] * 4


def test_a_restarted_receiver_keeps_its_port(tmp_path: Path) -> None:
    port_file = tmp_path / "receiver.port"
    with Receiver(tmp_path) as first:
        assert port_file.read_text() == str(first.server_port)
    # Not on that port: the system chose it, and may give it to a connection meanwhile.
    port_file.write_text(str(port := free_port()))
    for _ in range(2):
        with Receiver(tmp_path) as restarted:
            assert restarted.server_port == port


def is_open(address: tuple[str, int]) -> bool:
    with socket.socket() as client:
        return client.connect_ex(address) == 0


def test_connections_that_a_browser_opens_in_advance_do_not_block_the_site(tmp_path: Path) -> None:
    config = configparser.RawConfigParser()
    config.read(CONFIG)
    address = ("127.0.0.1", free_port())
    command = config["program:web"]["command"].replace("%(ENV_SITE_BIND)s", "{}:{}".format(*address))
    command = command.replace("%(ENV_SITE_VENV)s", sys.prefix).replace("project.wsgi", "quick_site")
    (tmp_path / "quick_site.py").write_text(
        "def application(environ, start_response):\n    start_response('204 No Content', [])\n    return []\n"
    )
    with subprocess.Popen(shlex.split(command), cwd=tmp_path) as site, ExitStack() as browser:
        browser.callback(site.terminate)
        until(lambda: is_open(address), 30, "gunicorn to listen")
        for _ in range(6):  # as many as a browser opens to one site
            browser.enter_context(socket.create_connection(address))
        for _ in range(12):
            urllib.request.urlopen("http://{}:{}".format(*address), timeout=15).close()


@pytest.fixture
def script() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start Python with a script that can import the demo."""
    started: list[subprocess.Popen[str]] = []

    def start(text: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(EXAMPLE)}
        started.append(
            subprocess.Popen([sys.executable, "-c", text], env=environment, stdout=PIPE, stderr=PIPE, text=True)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_a_finalizer_stops_the_demo(
    script: Callable[[str], subprocess.Popen[str]], number: signal.Signals
) -> None:
    process = script("""
import signal, time, weakref
from demo import signals

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup

class Migration:
    pass

def finalize():
    print("finalizing", flush=True)
    time.sleep(1)

signals.listen()
migration = Migration()
weakref.finalize(migration, finalize)
del migration
while True:
    signals.exit_if_received()
""")
    assert process.stdout
    assert process.stdout.readline() == "finalizing\n"
    process.send_signal(number)
    assert process.communicate(timeout=20) == ("\nStopping ...\n", "")
    assert process.returncode == 128 + number


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has PR_SET_PDEATHSIG")
def test_supervisord_gets_sigterm_if_the_demo_is_killed(
    script: Callable[[str], subprocess.Popen[str]],
) -> None:
    process = script("""
import subprocess, time
from demo.supervisord import end_with_parent

subprocess.Popen(["sleep", "60"], preexec_fn=end_with_parent)
print("ready", flush=True)
time.sleep(60)
""")
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.kill()
    # communicate() returns only after the child has ended and closed the pipe.
    assert process.communicate(timeout=20) == ("", "")
