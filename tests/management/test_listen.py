"""``manage.py webhooks_listen``: a receiver that prints, in a process of its own."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from django.core.management import CommandError, call_command

from dcim.models import Site
from tests.support.servers import free_port
from tests.support.waiting import until
from tests.support.workers import Process, Workers
from webhooks.models import Attempt, Delivery, State, Webhook
from webhooks.testing import deliver

Listen = Callable[..., tuple[Process, Path, str]]

LOOPBACK: dict[str, Any] = {"ALLOW_NETWORKS": ["127.0.0.1"]}


@pytest.fixture
def listen(workers: Workers, tmp_path: Path, webhooks_settings: Callable[..., None]) -> Iterator[Listen]:
    """Start the command on a free port. Gives its process, its log and the origin of its receiver."""
    webhooks_settings(**LOOPBACK)
    running = []

    def start(*arguments: str, **changed: Any) -> tuple[Process, Path, str]:
        log = tmp_path / f"listen-{len(running)}.log"
        command = ["example/manage.py", "webhooks_listen", "--skip-checks", "--port", "0", *arguments]
        with log.open("wb") as output:
            process = workers.run(command, workers.environment(**LOOPBACK, **changed), output)
        running.append(process)
        until(lambda: "Ctrl-C" in log.read_text() or process.poll() is not None, 30, "the command to listen")
        assert process.poll() is None, log.read_text()
        return process, log, re.findall(r"http://127\.0\.0\.1:\d+", log.read_text())[0]

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def test_a_registered_model_is_printed_and_the_webhook_goes_at_the_end(listen: Listen) -> None:
    process, log, _origin = listen("--register", "dcim.site")
    assert "No worker runs. Start one: python manage.py rqworker webhooks" in log.read_text()
    site = Site.objects.create(name="Oslo", slug="oslo")
    [attempt] = deliver()
    assert (attempt.succeeded, attempt.status) == (True, 204)
    line = f"POST / verified: created dcim.site {site.pk} “Oslo” (sequence {attempt.delivery.event_id})"
    until(lambda: line in log.read_text(), 10, "the delivery to be printed")
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0, log.read_text()
    assert not Webhook.objects.exists()


def test_sigterm_ends_it_in_the_same_way(listen: Listen) -> None:
    process, _log, _origin = listen("--register", "dcim.site")
    assert Webhook.objects.count() == 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert not Webhook.objects.exists()


@pytest.mark.parametrize(("arguments", "status"), [(["--status", "503"], 503), (["--gone"], 410), ([], 204)])
def test_it_answers_as_it_is_told(listen: Listen, arguments: list[str], status: int) -> None:
    _process, log, origin = listen(*arguments)
    answer = requests.post(f"{origin}/in?a=b", json={"event": "updated", "data": {}}, timeout=10)
    assert answer.status_code == status
    assert "POST /in?a=b not verified: updated\n" in log.read_text()


def test_a_body_from_a_template_is_no_payload(listen: Listen) -> None:
    _process, log, origin = listen()
    requests.post(origin, json={"text": "Oslo was created"}, timeout=10)
    line = "POST / not verified: the body is no payload of a webhook, such as one from a template: --body shows it\n"
    assert line in log.read_text()


def test_a_wrong_signature_is_named(listen: Listen) -> None:
    _process, log, origin = listen("--secret", "s3cret", "--body")
    requests.post(origin, data=b"no json \x1b[31m", headers={"webhook-id": "1"}, timeout=10)
    text = log.read_text()
    assert "REFUSED" in text
    assert "the body is no payload of a webhook" in text
    assert "\x1b" not in text


def test_a_receiver_that_hangs_does_not_answer(listen: Listen) -> None:
    _process, _log, origin = listen("--hang")
    with pytest.raises(requests.ReadTimeout):
        requests.post(origin, timeout=0.5)


def test_an_answer_that_says_gone_disables_the_webhook(listen: Listen) -> None:
    listen("--register", "dcim.site", "--gone")
    Site.objects.create(name="Oslo", slug="oslo")
    [attempt] = deliver()
    assert attempt.status == 410
    assert not Webhook.objects.get().enabled
    assert Delivery.objects.in_states(State.FAILED).exists() or Attempt.objects.exists()


def test_after_a_kill_the_next_one_replaces_the_webhook(listen: Listen) -> None:
    # A port that the system chooses, it may also give to a connection meanwhile.
    arguments = "--register", "dcim.site", "--port", str(free_port())
    process, _log, _origin = listen(*arguments)
    killed = Webhook.objects.get()
    process.kill()
    process.wait(20)
    listen(*arguments)
    assert Webhook.objects.get().pk != killed.pk


def test_two_may_listen_and_neither_deletes_the_webhook_of_the_other(listen: Listen) -> None:
    first, _log, _origin = listen("--register", "dcim.site")
    listen("--register", "dcim.site")
    assert Webhook.objects.count() == 2
    first.send_signal(signal.SIGINT)
    assert first.wait(20) == 0
    assert Webhook.objects.count() == 1


def test_a_port_in_use_is_refused(listen: Listen, workers: Workers, tmp_path: Path) -> None:
    _process, _log, origin = listen("--register", "dcim.site")
    log = tmp_path / "second.log"
    with log.open("wb") as output:
        port = origin.rpartition(":")[2]
        command = ["example/manage.py", "webhooks_listen", "--skip-checks", "--register", "dcim.site", "--port", port]
        process = workers.run(command, workers.environment(**LOOPBACK), output)
    assert process.wait(30) == 1
    assert f"Nothing can listen on 127.0.0.1, port {port}: Address already in use. Try --port 0." in log.read_text()
    assert Webhook.objects.count() == 1


@pytest.mark.parametrize("arguments", [("--port", "70000"), ("--port", "x"), ("--delay", "-1"), ("--delay", "nan")])
def test_a_value_that_would_fail_later_is_refused(arguments: tuple[str, str]) -> None:
    with pytest.raises(CommandError, match=f"{arguments[1]} is no (port|delay): give 0 to "):
        call_command("webhooks_listen", *arguments)


def test_it_names_the_worker_that_the_settings_need(listen: Listen) -> None:
    _process, log, _origin = listen("--register", "dcim.site", WAKE_UP="database")
    assert "No worker runs. Start one: python manage.py webhooks_worker" in log.read_text()


def test_an_unregistered_model_is_refused_with_the_known_ones(workers: Workers, tmp_path: Path) -> None:
    log = tmp_path / "listen.log"
    with log.open("wb") as output:
        command = ["example/manage.py", "webhooks_listen", "--skip-checks", "--port", "0", "--register", "dcim.nothing"]
        process = workers.run(command, workers.environment(**LOOPBACK), output)
    assert process.wait(30) != 0
    assert "Not registered: dcim.nothing. Registered are: " in log.read_text()
