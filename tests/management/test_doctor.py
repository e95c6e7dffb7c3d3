"""``manage.py webhooks_doctor`` finds planted mistakes, each with its remedy."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.db import OperationalError, connection

from tests.support.makers import make_delivery, make_webhook
from tests.support.workers import Workers
from tests.testapp.models import Thing, Unregistered
from webhooks.ground import registry
from webhooks.ground.db import clock
from webhooks.ground.security.encryption import Secret
from webhooks.management import checks
from webhooks.management.commands import webhooks_doctor
from webhooks.models import State, Webhook
from webhooks.workers.network import connect

pytestmark = pytest.mark.usefixtures("database", "own_registrations")


Change = Callable[..., None]


def doctor(*arguments: str) -> tuple[int, str]:
    """The exit status of the command, and what it prints."""
    out = io.StringIO()
    try:
        call_command("webhooks_doctor", *arguments, stdout=out)
    except SystemExit as end:
        return int(end.code or 0), out.getvalue()
    return 0, out.getvalue()


def drop_a_table(**tools: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE rq_webhooks_skip RENAME TO rq_webhooks_gone")


def send_an_unregistered_model(**tools: Any) -> None:
    webhook = make_webhook(Thing, name="ledger")
    kept = ContentType.objects.get_for_model(Unregistered)
    Webhook.object_types.through.objects.create(webhook_id=webhook.pk, contenttype_id=kept.pk)


def disable_by_failures(**tools: Any) -> None:
    make_webhook(Thing, name="ledger", enabled=False, disabled_reason="failing")


def store_an_unreadable_secret(**tools: Any) -> None:
    webhook = make_webhook(Thing, name="ledger")
    Webhook.objects.filter(pk=webhook.pk).update(secret=Secret(stored="fernet:no-key-made-this"))


def turn_the_clock(monkeypatch: pytest.MonkeyPatch, **tools: Any) -> None:
    real = clock.database_time
    monkeypatch.setattr(clock, "database_time", lambda using: real(using) + 3600)


def send_to_loopback(change: Change, **tools: Any) -> None:
    change(ALLOW_NETWORKS=["127.0.0.1"])
    make_webhook(Thing, name="ledger", url="http://127.0.0.1:9000/{{ data.id }}?token=secret")
    change(ALLOW_NETWORKS=[])


def fail_a_delivery(**tools: Any) -> None:
    make_delivery(make_webhook(Thing, name="ledger"), State.FAILED)


# What is planted, a part of what is found, and a part of its remedy.
PLANTED: dict[str, tuple[Callable[..., Any], str, str]] = {
    "off": (lambda change, **_: change(ENABLED=False), "Webhooks are off", '"ENABLED": True'),
    "a misspelt setting": (lambda change, **_: change(TIMOUT=5), "TIMOUT", "TIMEOUT"),
    "a value of a setting": (lambda change, **_: change(TIMEOUT=-1), "TIMEOUT", "TIMEOUT"),
    "a model that is none": (lambda change, **_: change(MODELS=["dcim.nothing"]), "dcim.nothing", "app_label"),
    "a queue that is none": (lambda change, **_: change(QUEUE="nothing"), "no queue “nothing”", "RQ_QUEUES"),
    "what wakes workers": (lambda change, **_: change(WAKE_UP="rabbit"), "WAKE_UP", "page on settings"),
    "the worker class": (lambda settings, **_: setattr(settings, "RQ", {}), "WORKER_CLASS", "webhooks.workers"),
    "the middleware": (lambda settings, **_: setattr(settings, "MIDDLEWARE", []), "no user", "MIDDLEWARE"),
    "the order of the URLs": (
        lambda settings, **_: setattr(settings, "ROOT_URLCONF", "tests.management.admin_first"),
        "The status page of webhooks cannot be opened", "before admin.site.urls",
    ),
    "Redis": (
        lambda settings, **_: setattr(settings, "RQ_QUEUES", {"webhooks": {"URL": "redis://127.0.0.1:1/0"}}),
        "Redis cannot be used", "RQ_QUEUES",
    ),
    "a table": (drop_a_table, "rq_webhooks_skip", "backup"),
    "an unregistered model": (send_an_unregistered_model, "testapp.unregistered", "register"),
    "a disabled webhook": (disable_by_failures, "ledger", "nable"),
    "an unreadable secret": (store_an_unreadable_secret, "cannot be decrypted", "webhooks_rotate_keys"),
    "the clock": (turn_the_clock, "The clock of this machine differs by", "Synchronize"),
    "a destination": (send_to_loopback, "cannot be sent: 127.0.0.1 is loopback", "ALLOW_NETWORKS"),
    "a failed delivery": (fail_a_delivery, "will not be retried", ""),
    "no worker": (fail_a_delivery, "o worker", "rqworker"),
}  # fmt: skip


@pytest.fixture
def planted(
    request: pytest.FixtureRequest,
    settings: Any,
    webhooks_settings: Change,
    monkeypatch: pytest.MonkeyPatch,
    redis: Any,
) -> Any:
    plant, problem, remedy = PLANTED[request.param]
    plant(settings=settings, change=webhooks_settings, monkeypatch=monkeypatch)
    yield problem, remedy
    if plant is drop_a_table:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE rq_webhooks_gone RENAME TO rq_webhooks_skip")


@pytest.mark.parametrize("planted", PLANTED, indirect=True)
def test_each_planted_mistake_is_found_with_its_remedy(planted: tuple[str, str]) -> None:
    status, printed = doctor("--no-send")
    problem, remedy = planted
    assert status in (1, 2), printed
    found = [
        one
        for one in printed.replace("\n    ", "  ").splitlines()
        if problem.replace("“", '"').replace("”", '"') in one
    ]
    assert found, printed
    assert remedy in found[0], printed


def test_a_test_goes_the_whole_way_through_a_worker(workers: Workers, webhooks_settings: Change) -> None:
    allowed = {"ALLOW_NETWORKS": ["127.0.0.1"]}
    webhooks_settings(**allowed)
    workers.start(**allowed).wait_until_listening()
    _status, printed = doctor("--host", "127.0.0.1", "--seconds", "60")
    assert "OK  A test went the whole way" in printed, printed
    assert not Webhook.objects.exists()


def test_a_worker_at_another_redis_is_no_contradiction(
    workers: Workers, settings: Any, webhooks_settings: Change
) -> None:
    allowed = {"ALLOW_NETWORKS": ["127.0.0.1"]}
    webhooks_settings(**allowed)
    workers.start(**allowed).wait_until_listening()
    server = settings.RQ_QUEUES["webhooks"]["URL"].rpartition("/")[0]
    settings.RQ_QUEUES = {"webhooks": {"URL": f"{server}/15"}}
    status, printed = doctor("--host", "127.0.0.1", "--seconds", "60")
    assert status == 2
    assert "ERROR  No worker is running" in printed
    assert "WARNING  A test went the whole way" in printed
    assert "So a worker runs, with another Redis than this process: compare their RQ_QUEUES." in printed


def test_each_forbidden_destination_is_judged_once_and_disabled_webhooks_are_left_out(
    redis: Any, webhooks_settings: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(connect, "why_blocked", lambda url: asked.append(url) or "it is loopback")
    for number in range(3):
        make_webhook(Thing, name=f"ledger {number}", url=f"http://a.example.com/{number}?token=secret")
    make_webhook(Thing, name="off", url="http://b.example.com/", enabled=False)
    make_webhook(Thing, name="by data", url="{{ data.url }}")
    _status, printed = doctor("--no-send")
    assert asked == ["http://a.example.com/"]
    assert printed.count("cannot be sent: it is loopback.") == 3
    for word in ("“off”", "“by data”", "token"):
        assert word not in printed
    monkeypatch.setattr(webhooks_doctor, "RESOLVE_SECONDS", -1)
    _status, printed = doctor("--no-send")
    assert "The destinations of 3 webhooks were not checked: the name server is slow." in printed


def test_nothing_is_good_while_webhooks_are_off_and_that_is_one_finding(redis: Any, webhooks_settings: Change) -> None:
    webhooks_settings(ENABLED=False)
    status, printed = doctor()
    assert status == 2
    assert printed.lower().count("webhooks are off") + printed.lower().count("turned off") == 1
    assert "as they must be" not in printed
    assert "shows no problem" not in printed


@pytest.mark.parametrize(("wake_up", "has_redis"), [("rq", True), ("database", False)])
def test_redis_is_named_only_where_it_is_used(
    wake_up: str, has_redis: bool, redis: Any, webhooks_settings: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhooks_settings(WAKE_UP=wake_up)
    monkeypatch.setattr(webhooks_doctor.checks, "run_checks", lambda **options: [])
    _status, printed = doctor("--no-send")
    assert "as they must be." in printed
    assert ("Redis" in printed.splitlines()[0]) == has_redis


def test_without_a_worker_the_test_says_so(redis: Any, webhooks_settings: Change) -> None:
    webhooks_settings(ALLOW_NETWORKS=["127.0.0.1"])
    status, printed = doctor("--host", "127.0.0.1", "--seconds", "0.3")
    assert status == 2
    assert "No worker took the test event within 0.3 s" in printed
    assert not Webhook.objects.exists()


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ({"ALLOW_NETWORKS": []}, 'to allow it, add "127.0.0.1" to WEBHOOKS["ALLOW_NETWORKS"]'),
        ({"ALLOW_SCHEMES": ["https"]}, 'http:// is not in WEBHOOKS["ALLOW_SCHEMES"]'),
        ({"ALLOW_PORTS": [443]}, 'is not in WEBHOOKS["ALLOW_PORTS"]'),
        ({"ALLOW_HOSTS": ["hooks.example.com"]}, '127.0.0.1 matches nothing in WEBHOOKS["ALLOW_HOSTS"]'),
        ({"DENY_NETWORKS": ["127.0.0.0/8"]}, 'WEBHOOKS["DENY_NETWORKS"] denies'),
    ],
)
def test_a_rule_that_forbids_the_receiver_is_named_with_a_remedy(
    rules: dict[str, Any], reason: str, redis: Any, webhooks_settings: Change
) -> None:
    webhooks_settings(**{"ALLOW_NETWORKS": ["127.0.0.1"], **rules})
    _status, printed = doctor("--host", "127.0.0.1", "--seconds", "0.3")
    [found] = [one for one in printed.replace("\n    ", "  ").splitlines() if "The test of the whole way" in one]
    assert reason in found
    assert "If webhooks need not reach this machine, all is well: give --no-send." in found
    assert "log of the worker" not in found


def test_an_address_of_another_machine_is_no_place_to_listen(redis: Any) -> None:
    _status, printed = doctor("--host", "192.0.2.1", "--seconds", "0.3")
    assert "No receiver can listen on 192.0.2.1" in printed
    assert "Give an address of this machine with --host." in printed
    assert "log of the worker" not in printed


@pytest.mark.parametrize("queues", [{}, {"webhooks": {"URL": "redis://127.0.0.1:1/0"}}])
def test_what_wakes_workers_is_one_finding_if_it_is_no_valid_value(
    queues: dict[str, Any], settings: Any, webhooks_settings: Change
) -> None:
    settings.RQ_QUEUES = queues
    webhooks_settings(WAKE_UP="rabbit")
    make_webhook(Thing)
    status, printed = doctor("--seconds", "0.3")
    assert status == 2
    [found] = [line for line in printed.splitlines() if line.startswith("ERROR")]
    assert found.startswith('ERROR  The setting WEBHOOKS["WAKE_UP"] must be')
    for word in ("Redis", "RQ_QUEUES", "rqworker", "No worker", "The test of the whole way"):
        assert word not in printed


def test_no_test_is_sent_where_no_worker_can_start(settings: Any, redis: Any, caplog: pytest.LogCaptureFixture) -> None:
    settings.RQ_QUEUES = {"default": {"URL": "redis://127.0.0.1:1/0"}}
    status, printed = doctor("--seconds", "0.3")
    assert status == 2
    assert "The test of the whole way" not in printed
    assert "No worker could be woken" not in caplog.text


def test_a_database_that_does_not_answer_is_an_error(redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(alias: str) -> str:
        raise OperationalError("connection refused")

    monkeypatch.setattr(checks, "_schema_problem", refuse)
    status, printed = doctor("--no-send")
    assert status == 2
    assert 'ERROR  The tables of webhooks cannot be checked: the database "default" does not answer' in printed


@pytest.mark.parametrize(("allowed", "is_loopback"), [(["127.0.0.1"], True), ([], False)])
def test_the_default_address_is_loopback_where_nothing_else_is_allowed(
    webhooks_settings: Change, allowed: list[str], is_loopback: bool
) -> None:
    webhooks_settings(ALLOW_NETWORKS=[])
    webhooks_settings(ALLOW_NETWORKS=allowed, DENY_NETWORKS=[webhooks_doctor.own_address()])
    assert (webhooks_doctor.own_address() == "127.0.0.1") == is_loopback


def test_the_default_address_is_one_of_this_machine() -> None:
    assert webhooks_doctor.own_address().count(".") == 3
    assert "testapp.thing" in registry.registered_models()
