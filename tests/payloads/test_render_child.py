"""The processes that render templates: their limits, their ends, and their pace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.draining import drain
from tests.support.inbox import ROOT, Inbox
from tests.support.makers import make_event, make_webhook
from tests.support.waiting import PATIENCE, until
from tests.support.workers import SHIPPED, STOCK, Workers
from tests.testapp.models import Thing
from webhooks.ground.payloads import templates
from webhooks.ground.payloads.render_child import Answer
from webhooks.ground.payloads.templates import NEW, QUICK, SLOW, Renderer, TemplateError
from webhooks.models import Attempt, Delivery, State

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")

ENDLESS = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"
QUICK_ONE, SLOW_ONE = 1, 2


def children(parent: int) -> set[int]:
    """The running child processes of a process."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, of = path.read_text().rpartition(")")[2].split()[:2]
            if int(of) == parent and state != "Z":
                found.add(int(path.parent.name))
    return found


def renderers(parent: int) -> set[int]:
    return {pid for pid in children(parent) if b"render_child" in command(pid)}


def command(pid: int) -> bytes:
    """The command of a process, empty if it has ended: a stock worker has one for each job."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.fixture
def renderer() -> Iterator[Renderer]:
    with Renderer() as made:
        yield made


def in_background(work: Callable[[], object]) -> tuple[threading.Thread, list[str]]:
    message: list[str] = []

    def run() -> None:
        try:
            message.append(str(work()))
        except TemplateError as error:
            message.append(str(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, message


def test_a_process_has_no_secrets_and_no_files(renderer: Renderer) -> None:
    before = children(os.getpid())
    assert renderer.body("{{ 1 }}", "{}") == "1"
    [pid] = children(os.getpid()) - before
    process = Path(f"/proc/{pid}")
    assert process.joinpath("environ").read_bytes().rstrip(b"\0") in (b"", b"LC_CTYPE=C.UTF-8")
    assert process.joinpath("cwd").readlink() == Path("/")
    descriptors = [path.readlink() for path in process.joinpath("fd").iterdir()]
    assert len(descriptors) == 2
    assert all(str(one).startswith("socket:") for one in descriptors)
    limits = {line[:26].strip(): line[26:].split()[:2] for line in process.joinpath("limits").read_text().splitlines()}
    for name in ("Max core file size", "Max open files", "Max processes", "Max file size"):
        assert limits[name] == ["0", "0"], name
    assert limits["Max address space"] == ["300000000", "300000000"]
    assert b"django" not in process.joinpath("maps").read_bytes()
    renderer.close()
    assert is_gone(pid)


def test_an_idle_process_that_was_killed_is_restarted(renderer: Renderer) -> None:
    before = children(os.getpid())
    renderer.body("{{ 1 }}", "{}")
    [pid] = children(os.getpid()) - before
    os.kill(pid, signal.SIGKILL)
    until(lambda: is_gone(pid), 5, "the process to end")
    assert renderer.body("{{ 2 }}", "{}") == "2"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_killing_a_busy_process_fails_only_one_rendering(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(templates, "CPU_SECONDS", 30)
    before = children(os.getpid())
    thread, message = in_background(lambda: renderer.body(ENDLESS, "{}"))
    until(lambda: bool(children(os.getpid()) - before), 10, "the process to start")
    [pid] = children(os.getpid()) - before
    until(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "R", 10, "the process to work")
    os.kill(pid, number)
    thread.join(10 * PATIENCE)
    assert (
        message == [f"the process that rendered the template ended ({number.name})"] or "does not start" in message[0]
    )
    assert renderer.body("{{ 2 }}", "{}") == "2"


def test_a_stopped_process_is_killed(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "SECONDS", 0.5)
    before = children(os.getpid())
    renderer.body("{{ 1 }}", "{}")
    [pid] = children(os.getpid()) - before
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(TemplateError, match=r"the template took more than 0\.5 s"):
        renderer.body("{{ data }}", json.dumps({"data": "x" * 900_000}))  # more than fits into a socket
    assert is_gone(pid)


def test_closing_ends_a_rendering_and_starts_no_process(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "CPU_SECONDS", 30)
    renderer.body("{{ 1 }}", "{}")
    thread, message = in_background(lambda: renderer.body(ENDLESS, "{}"))
    until(templates._one_at_a_time.locked, 10, "the rendering to begin")
    renderer.close()
    thread.join(10 * PATIENCE)
    assert "ended" in message[0]
    with pytest.raises(TemplateError, match="was ended"):
        renderer.body("{{ 1 }}", "{}")


def test_endless_templates_delay_a_quick_webhook_by_seconds_at_most(renderer: Renderer) -> None:
    def render_endless_ones() -> None:
        for number in range(3):
            with suppress(TemplateError):
                renderer.body(ENDLESS, "{}", SLOW_ONE + number % 2)

    renderer.body("{{ 1 }}", "{}", QUICK_ONE)
    thread, message = in_background(render_endless_ones)
    delays = []
    while thread.is_alive():
        began = time.monotonic()
        assert renderer.body("{{ 1 }}", "{}", QUICK_ONE) == "1"
        delays.append(time.monotonic() - began)
    assert message == ["None"]
    assert len(delays) > 5
    assert max(delays) < templates.SECONDS * PATIENCE


def test_the_last_rendering_makes_a_webhook_quick_or_slow(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    paces = [renderer.pace(SLOW_ONE)]
    for cpu_seconds in (0.01, 0.25, 0.01):
        monkeypatch.setattr(templates._Child, "ask", lambda *args, took=cpu_seconds: ((b"t", b""), took))
        renderer.body("{{ 1 }}", "{}", SLOW_ONE)
        paces.append(renderer.pace(SLOW_ONE))
    assert paces == [NEW, QUICK, SLOW, QUICK]


def test_a_webhook_that_ends_the_process_is_slow(renderer: Renderer) -> None:
    with pytest.raises(TemplateError, match="more than 300 MB"):
        renderer.body("{{ 'a' * 10 ** 9 }}", "{}", SLOW_ONE)
    assert renderer.pace(SLOW_ONE) == SLOW


def test_many_slow_webhooks_leave_a_third_to_quick_ones(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]

    def advance(seconds: float) -> None:
        now[0] += max(0.0, seconds)

    def ask(*args: object) -> tuple[Answer, float]:
        advance(0.25)
        return (b"t", b""), 0.25

    renderer.body("{{ 1 }}", "{}")
    monkeypatch.setattr(templates.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(renderer._closed, "wait", advance)
    monkeypatch.setattr(templates._Child, "ask", ask)
    for _ in range(2):
        began = now[0]
        for webhook in range(1, 101):
            renderer.body("{{ 1 }}", "{}", webhook)
    assert now[0] - began == pytest.approx(100 * 0.25 * 1.5)


def test_the_memory_of_a_template_is_freed_for_the_next_one(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, "CPU_SECONDS", 30)
    monkeypatch.setattr(templates, "SECONDS", 60)
    for _ in range(4):
        renderer.body("{% set l = ['x' * 150000000] %}{% set _ = l.append(l) %}", "{}", SLOW_ONE)
        assert len(renderer.body("{{ 'x' * 900000 }}", "{}", QUICK_ONE)) == 900_000


# A process like a worker, with an idle and a busy renderer. It forks meanwhile, as rq does for a job.
WORKER = """
import os, threading, time
import django
django.setup()
from webhooks.ground.payloads import templates
templates.CPU_SECONDS = 2.0
idle, busy = templates.Renderer(), templates.Renderer()
idle.body("{{ 1 }}", "{}")
threading.Thread(target=busy.body, args=(%r, "{}"), daemon=True).start()
while not busy._child:
    time.sleep(0.01)
if (fork := os.fork()) == 0:
    with templates.Renderer() as ours:
        os.write(1, f"{ours.body('{{ 1 + 1 }}', '{}')}\\n".encode())
    os._exit(0)
os.waitpid(fork, 0)
print(idle._child._process.pid, busy._child._process.pid, flush=True)
time.sleep(60)
"""


def test_a_process_ends_with_its_worker() -> None:
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "PYTHONPATH": f"{ROOT}:{ROOT / 'example'}"}
    command = [sys.executable, "-c", WORKER % ENDLESS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True, cwd=ROOT) as worker:
        assert worker.stdout
        assert worker.stdout.readline() == "2\n", "the fork does not wait for a rendering of its parent"
        rendering = [int(pid) for pid in worker.stdout.readline().split()]
        assert len(rendering) == 2
        assert not any(map(is_gone, rendering))
        worker.kill()
        until(lambda: all(map(is_gone, rendering)), 10, "the processes that render to end")


@pytest.mark.one_database
@pytest.mark.parametrize("worker_class", [SHIPPED, STOCK])
def test_a_worker_without_templates_starts_no_process(
    database: str, workers: Workers, inbox: Inbox, worker_class: str
) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    worker = workers.start(worker_class)
    worker.wait_until_listening()
    Thing.objects.create(name="a")
    inbox.wait_for(1)
    assert not renderers(worker.pid)
    webhook.body_template = "{{ data.name }}"
    webhook.save()
    Thing.objects.create(name="templated")
    inbox.wait_for(2)
    assert inbox.received()[1].body == b"templated"
    if worker_class == SHIPPED:
        [pid] = renderers(worker.pid)
        worker.kill()
        until(lambda: is_gone(pid), 10, "the process that renders to end")


@pytest.mark.one_database
@pytest.mark.django_db
def test_the_check_of_a_form_leaves_no_process_behind() -> None:
    before = children(os.getpid())
    make_webhook(Thing, body_template="<{{ event }}>", additional_headers="X-A: {{ event }}").full_clean()
    assert children(os.getpid()) <= before


@pytest.mark.one_database
@pytest.mark.usefixtures("database")
def test_slow_templates_do_not_delay_other_webhooks(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(child: Any, request: bytes, most: int) -> tuple[Answer, float]:
        """What is slow, on any machine."""
        answer, _ = really_ask(child, request, most)
        is_slow = b"slow" in request
        time.sleep(0.1 if is_slow else 0)
        return answer, 0.1 if is_slow else 0.001

    really_ask = templates._Child.ask
    monkeypatch.setattr(templates._Child, "ask", ask)
    slow = [make_webhook(Thing, url=inbox.url("ok/slow"), body_template="slow {{ data.id }}") for _ in range(4)]
    healthy = [
        make_webhook(Thing, url=inbox.url("ok/plain")),
        make_webhook(Thing, url=inbox.url("ok/quick"), body_template="x{{ data.id }}"),
    ]
    for number in range(6):
        make_event(*slow, object_id=str(number))
    for number in range(10):
        make_event(*healthy, object_id=str(number))
    drain(120)
    assert {(one.state, one.reason) for one in Delivery.objects.all()} == {(State.SUCCEEDED, "")}
    order = [one.delivery.webhook for one in Attempt.objects.order_by("started_at").select_related("delivery__webhook")]
    last_healthy = max(number for number, webhook in enumerate(order) if webhook in healthy)
    late = sum(webhook in slow for webhook in order[last_healthy:])
    assert late > len(slow) * 6 / 2, "most of the slow ones come after the last of the others"
