"""``manage.py webhooks_doctor`` finds planted mistakes, each with its remedy."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.db import connection

from tests.support.makers import make_delivery, make_webhook
from tests.support.workers import Workers
from tests.testapp.models import Thing, Unregistered
from webhooks import db, registry
from webhooks.management.commands import webhooks_doctor
from webhooks.models import State, Webhook
from webhooks.security.encryption import Secret

pytestmark = pytest.mark.usefixtures("database", "own_registrations")


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
    real = db.database_time
    monkeypatch.setattr(db, "database_time", lambda using: real(using) + 3600)


def fail_a_delivery(**tools: Any) -> None:
    make_delivery(make_webhook(Thing, name="ledger"), State.FAILED)


Change = Callable[..., None]

# What is planted, a part of what is found, and a part of its remedy.
PLANTED: dict[str, tuple[Callable[..., Any], str, str]] = {
    "off": (lambda change, **_: change(ENABLED=False), "Webhooks are off", '"ENABLED": True'),
    "a misspelt setting": (lambda change, **_: change(TIMOUT=5), "TIMOUT", "TIMEOUT"),
    "a value of a setting": (lambda change, **_: change(TIMEOUT=-1), "TIMEOUT", "TIMEOUT"),
    "a model that is none": (lambda change, **_: change(MODELS=["dcim.nothing"]), "dcim.nothing", "app_label"),
    "a queue that is none": (lambda change, **_: change(QUEUE="nothing"), "no queue “nothing”", "RQ_QUEUES"),
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
    "a failed delivery": (fail_a_delivery, "will not be retried", ""),
    "no worker": (fail_a_delivery, "o worker", "rqworker"),
}  # fmt: skip


@pytest.fixture
def planted(
    request: pytest.FixtureRequest, settings: Any, webhooks_settings: Change, monkeypatch: pytest.MonkeyPatch, redis: Any
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
    found = [one for one in printed.replace("\n    ", "  ").splitlines() if problem.replace("“", '"').replace("”", '"') in one]
    assert found, printed
    assert remedy in found[0], printed


def test_a_test_goes_the_whole_way_through_a_worker(workers: Workers, webhooks_settings: Change) -> None:
    allowed = {"ALLOW_NETWORKS": ["127.0.0.1"]}
    webhooks_settings(**allowed)
    workers.start(**allowed).wait_until_listening()
    _status, printed = doctor("--host", "127.0.0.1", "--seconds", "60")
    assert "OK  A test went the whole way" in printed, printed
    assert not Webhook.objects.exists()


def test_without_a_worker_the_test_says_so(redis: Any, webhooks_settings: Change) -> None:
    webhooks_settings(ALLOW_NETWORKS=["127.0.0.1"])
    status, printed = doctor("--host", "127.0.0.1", "--seconds", "0.3")
    assert status == 2
    assert "No worker took the test event within 0.3 s" in printed
    assert not Webhook.objects.exists()


def test_an_address_where_nothing_may_be_sent_is_named(redis: Any, webhooks_settings: Change) -> None:
    webhooks_settings(ALLOW_NETWORKS=[])
    _status, printed = doctor("--host", "127.0.0.1", "--seconds", "0.3")
    assert 'add "127.0.0.1" to WEBHOOKS["ALLOW_NETWORKS"]' in printed


def test_an_address_of_another_machine_is_no_place_to_listen(redis: Any) -> None:
    _status, printed = doctor("--host", "192.0.2.1", "--seconds", "0.3")
    assert "No receiver can listen on 192.0.2.1" in printed


def test_the_default_address_is_one_of_this_machine() -> None:
    assert webhooks_doctor.own_address().count(".") == 3
    assert "testapp.thing" in registry.registered_models()
