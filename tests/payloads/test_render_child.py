"""The processes that render templates: their limits, their ends, and their pace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from django.test import Client
from django.urls import reverse

from tests.support.draining import drain
from tests.support.inbox import ROOT, Inbox
from tests.support.makers import make_delivery, make_event, make_webhook
from tests.support.waiting import PATIENCE, until
from tests.support.workers import SHIPPED, STOCK, Workers
from tests.testapp.models import Thing
from webhooks.models import Attempt, Delivery, State
from webhooks.payloads import templates
from webhooks.payloads.render_child import Answer
from webhooks.payloads.templates import QUICK, SLOW, Renderer, TemplateError

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
    return {pid for pid in children(parent) if b"render_child" in Path(f"/proc/{pid}/cmdline").read_bytes()}


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
    until(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "R" and renderer.pace(0) == QUICK, 10, "work")
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
    until(lambda: any(lock.locked() for lock in templates._locks.values()), 10, "the rendering to begin")
    renderer.close()
    thread.join(10 * PATIENCE)
    assert "ended" in message[0]
    with pytest.raises(TemplateError, match="was ended"):
        renderer.body("{{ 1 }}", "{}")


def test_a_slow_webhook_does_not_delay_a_quick_one(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "SECONDS", 60.0)
    renderer.body("{{ 1 }}", "{}", QUICK_ONE)
    with pytest.raises(TemplateError):
        renderer.body(ENDLESS, "{}", SLOW_ONE)
    assert renderer.pace(SLOW_ONE) == SLOW
    monkeypatch.setattr(templates, "CPU_SECONDS", 60)
    monkeypatch.setattr(templates, "QUICK_SECONDS", 60)  # the quick one stays quick on a busy machine
    thread, message = in_background(lambda: renderer.body(ENDLESS, "{}", SLOW_ONE))
    until(lambda: templates._locks[SLOW].locked(), 10, "the slow one to begin")
    for _ in range(100):
        assert renderer.body("{{ 1 }}", "{}", QUICK_ONE) == "1"
    assert thread.is_alive(), message
    renderer.close()
    thread.join(10 * PATIENCE)
    assert message


def test_a_webhook_stays_slow_for_a_hundred_times_its_rendering(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(templates.time, "monotonic", lambda: now[0])

    def answer(took: float) -> Callable[..., object]:
        def ask(child: object, request: bytes, most: int) -> tuple[Answer, float]:
            now[0] += took
            return (b"t", 0, b""), took

        return ask

    paces = []
    for took, later in [(0.01, 0), (0.25, 0), (0.01, 20), (0.01, 6), (0.01, 0)]:
        monkeypatch.setattr(templates._Child, "ask", answer(took))
        renderer.body("{{ 1 }}", "{}", SLOW_ONE)
        now[0] += later
        paces.append(renderer.pace(SLOW_ONE))
    assert paces == [QUICK, SLOW, SLOW, QUICK, QUICK]


def test_a_webhook_that_ends_the_process_is_slow(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "QUICK_SECONDS", 0.29)
    with pytest.raises(TemplateError, match="more than 300 MB"):
        renderer.body("{{ 'a' * 10 ** 9 }}", "{}", SLOW_ONE)
    assert renderer.pace(SLOW_ONE) == SLOW


def test_many_slow_webhooks_take_little_time_from_quick_ones(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, quick = [1000.0], [0.0]
    monkeypatch.setattr(templates.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(templates._Child, "ask", lambda *args: ((b"t", 0, b""), 0.25))
    for webhook in range(100):
        renderer.body("{{ 1 }}", "{}", webhook)
    for _ in range(20_000):
        now[0] += 0.25
        retried = [webhook for webhook in range(100) if renderer.pace(webhook) == QUICK]
        for webhook in retried:
            quick[0] += 0.25
            renderer.body("{{ 1 }}", "{}", webhook)
    assert quick[0] / (now[0] - 1000) < 0.015


def test_new_webhooks_are_slow_while_another_one_is_slow(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    now, took = [1000.0], [0.01]
    monkeypatch.setattr(templates.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(templates._Child, "ask", lambda *args: ((b"t", 0, b""), took[0]))
    known, slow, new, other = 1, 2, 3, 4
    renderer.body("{{ 1 }}", "{}", known)
    took[0] = 0.25
    renderer.body("{{ 1 }}", "{}", slow)
    assert [renderer.pace(one) for one in (known, slow, new)] == [QUICK, SLOW, SLOW]
    took[0] = 0.01
    renderer.body("{{ 1 }}", "{}", new)
    assert [renderer.pace(one) for one in (known, slow, new, other)] == [QUICK, SLOW, QUICK, SLOW]
    now[0] += 26
    assert [renderer.pace(one) for one in (slow, other)] == [QUICK, QUICK]


def test_the_memory_of_a_template_is_freed_for_the_next_one(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, "QUICK_SECONDS", 60)  # all in one process
    for _ in range(4):
        renderer.body("{% set l = ['x' * 150000000] %}{% set _ = l.append(l) %}", "{}", SLOW_ONE)
        assert len(renderer.body("{{ 'x' * 900000 }}", "{}", QUICK_ONE)) == 900_000


# A process like a worker, with an idle and a busy renderer. It has forked, as rq does for a job.
WORKER = """
import os, threading, time
import django
django.setup()
from webhooks.payloads import templates
templates.CPU_SECONDS = 2.0
idle, busy = templates.Renderer(), templates.Renderer()
idle.body("{{ 1 }}", "{}")
templates._locks["quick"] = threading.Lock()  # the renderers of one process share it
threading.Thread(target=busy.body, args=(%r, "{}"), daemon=True).start()
while not busy._children:
    time.sleep(0.01)
if (fork := os.fork()) == 0:
    ours = idle.body("{{ 1 + 1 }}", "{}")  # by a new process of the fork
    os.write(1, f"{ours}\\n".encode())
    time.sleep(60)
print(fork, *[child._process.pid for one in (idle, busy) for child in one._children.values()], flush=True)
time.sleep(60)
"""


def test_a_process_ends_with_its_worker() -> None:
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "PYTHONPATH": f"{ROOT}:{ROOT / 'example'}"}
    command = [sys.executable, "-c", WORKER % ENDLESS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True, cwd=ROOT) as worker:
        assert worker.stdout
        lines = sorted((worker.stdout.readline() for _ in range(2)), key=len)
        fork, *rendering = map(int, lines[1].split())
        try:
            assert lines[0] == "2\n"
            [of_fork] = renderers(fork)
            assert len(rendering) == 2
            assert not any(map(is_gone, rendering))
            worker.kill()
            until(lambda: all(map(is_gone, rendering)), 10, "the processes that render to end")
            assert not is_gone(fork), "the fork, which had a copy of the socket, still runs"
        finally:
            os.kill(fork, signal.SIGKILL)
    until(lambda: is_gone(of_fork), 10, "that of the fork to end")


def test_a_fork_waits_until_a_process_has_been_started(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    is_starting, may_go_on = threading.Event(), threading.Event()
    start = templates._started

    def slowly(standard: int) -> subprocess.Popen[bytes]:
        is_starting.set()
        assert may_go_on.wait(10)
        return start(standard)

    def fork() -> None:
        if (pid := os.fork()) == 0:
            os._exit(0)
        os.waitpid(pid, 0)

    monkeypatch.setattr(templates, "_started", slowly)
    rendering, message = in_background(lambda: renderer.body("{{ 1 }}", "{}"))
    assert is_starting.wait(10)
    forking, _ = in_background(fork)
    forking.join(0.2)
    assert forking.is_alive()
    may_go_on.set()
    rendering.join(10 * PATIENCE)
    forking.join(10 * PATIENCE)
    assert message == ["1"]
    assert not forking.is_alive()


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
def test_a_preview_and_a_check_leave_no_process_behind(admin_client: Client) -> None:
    before = children(os.getpid())
    webhook = make_webhook(Thing, body_template="<{{ event }}>", additional_headers="X-A: {{ event }}")
    webhook.full_clean()
    delivery = make_delivery(webhook)
    page = admin_client.get(reverse("admin:webhooks_delivery_change", args=[delivery.pk])).content.decode()
    assert "&lt;updated&gt;" in page
    webhook.body_template = ENDLESS
    webhook.save()
    page = admin_client.get(reverse("admin:webhooks_delivery_change", args=[delivery.pk])).content.decode()
    assert "the template took more than 0.3 s" in page
    assert children(os.getpid()) <= before


@pytest.mark.one_database
@pytest.mark.usefixtures("database")
def test_slow_templates_do_not_delay_other_webhooks(inbox: Inbox) -> None:
    slow = [
        make_webhook(
            Thing, url=inbox.url("ok/slow"), body_template="{{ range(40000) | map('string') | sort | length }}"
        )
        for _ in range(4)
    ]
    healthy = [
        make_webhook(Thing, url=inbox.url("ok/plain")),
        make_webhook(Thing, url=inbox.url("ok/quick"), body_template="x{{ data.id }}"),
    ]
    for number in range(6):
        make_event(*slow, object_id=str(number))
    for number in range(30):
        make_event(*healthy, object_id=str(number))
    drain(120)
    assert {(one.state, one.reason) for one in Delivery.objects.all()} == {(State.SUCCEEDED, "")}
    order = [one.delivery.webhook for one in Attempt.objects.order_by("started_at").select_related("delivery__webhook")]
    last_healthy = max(number for number, webhook in enumerate(order) if webhook in healthy)
    late = sum(webhook in slow for webhook in order[last_healthy:])
    assert late > len(slow) * 6 / 2, "most of the slow ones come after the last of the others"
