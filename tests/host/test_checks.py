"""The system checks: each reports its mistake, and is silent otherwise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import django
import pytest
from django.apps import apps
from django.contrib import admin
from django.core.checks import ERROR, INFO, CheckMessage, run_checks
from django.core.management import call_command
from django.db import ConnectionHandler, OperationalError, models
from django.test import Client
from django.test.utils import isolate_apps
from django.urls import clear_script_prefix, include, path, set_script_prefix
from django.utils import translation
from psycopg import IsolationLevel
from rest_framework import serializers

from tests.support import servers
from tests.support.inbox import ROOT
from tests.support.makers import make_webhook
from tests.testapp.models import Thing, TrackedPart, Unregistered
from tests.testapp.object_permissions import RestrictedQuerySet, restricting
from webhooks import hooks
from webhooks.contrib.alerts.checks import EMAILS
from webhooks.ground import registry
from webhooks.ground.registry.registration import Registration
from webhooks.insight.silence import Silence
from webhooks.management import checks
from webhooks.models import Delivery, Event, Webhook
from webhooks.workers.redis import complete_queue_settings
from webhooks.workers.worker import WebhookWorker

Change = Callable[..., None]

MIDDLEWARE = "webhooks.middleware.WebhooksMiddleware"


def found(deploy: bool = False) -> dict[str, CheckMessage]:
    """The messages of the app's checks, by id; none may appear twice in these tests."""
    messages = run_checks(tags=["webhooks"], include_deployment_checks=deploy, databases=["default"])
    by_id = {str(message.id): message for message in messages}
    assert len(by_id) == len(messages), messages
    return by_id


@pytest.fixture
def register(own_registrations: None) -> Callable[..., None]:
    """Register a model for this test."""

    def for_this_test(model: type[models.Model], **options: Any) -> None:
        # Not by register(): its receivers would stay connected.
        registry._registrations[model] = Registration(model, **options)

    return for_this_test


@pytest.fixture(autouse=True)
def valid_database(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The settings of a default database without mistakes, for both kinds of database."""
    config = {"OPTIONS": {"transaction_mode": "IMMEDIATE"}, "ATOMIC_REQUESTS": True}
    database = SimpleNamespace(vendor="sqlite", settings_dict=config)
    monkeypatch.setattr(checks, "connections", {"default": database})
    return config


@pytest.fixture(autouse=True)
def valid_models(webhooks_settings: Change) -> None:
    """List only apps with a serializer for every model, unlike the testapp."""
    webhooks_settings(MODELS=["dcim.*", "ipam.*"])


@pytest.fixture(autouse=True)
def migrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database with all tables; ``test_db`` looks for the real ones."""
    monkeypatch.setattr(checks, "_schema_problem", lambda using: None)


@pytest.fixture(autouse=True)
def unreadable(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The secrets that no key decrypts; ``operations/test_webhooks`` tests the real query."""
    names: list[tuple[str, str]] = []
    monkeypatch.setattr(checks, "unreadable_secrets", lambda: names)
    return names


@pytest.fixture(autouse=True)
def all_are_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What all webhooks send is registered; ``operations/test_silence`` tests the real query."""
    monkeypatch.setattr(checks, "unregistered_names", dict)


def test_a_host_without_mistakes_gets_no_message() -> None:
    assert found(deploy=True) == {}


def test_while_webhooks_are_off_only_the_setting_is_checked(settings: Any, valid_database: dict[str, Any]) -> None:
    settings.WEBHOOKS = {"ENABLED": False, "MODELS": ["no.such"], "TIMEOUT": 0, "DENY_PRIVATE": 1, "TYPO": 1}
    settings.RQ_QUEUES = {}
    settings.MIDDLEWARE = []
    settings.ROOT_URLCONF = ()
    valid_database["ATOMIC_REQUESTS"] = False
    assert set(found(deploy=True)) == {"webhooks.E002", "webhooks.E007", "webhooks.E008"}


def test_the_page_names_the_checks_that_run_while_webhooks_are_off(
    monkeypatch: pytest.MonkeyPatch, settings: Any, unreadable: list[tuple[str, str]]
) -> None:
    ids = set[str]()

    def mistaken(**values: Any) -> None:
        settings.WEBHOOKS = {"ENABLED": False, **values}
        hooks.import_listed()  # as at the start
        messages = run_checks(tags=["webhooks"], include_deployment_checks=True, databases=["default"])
        ids.update(str(message.id) for message in messages)

    def refused(using: str) -> None:
        raise OperationalError

    unreadable.append(("CMDB", "secret"))
    monkeypatch.setattr(checks, "unregistered_names", lambda: {"CMDB": Silence(("auth.group",), ())})
    settings.ADMINS = settings.MIDDLEWARE = []
    settings.ROOT_URLCONF = ()
    mistaken(QUEUE="hooks", MODELS=["no.such"], TYPO=1, TIMEOUT=0, DENY_PRIVATE=1, WAKE_UP="tasks", HOOKS=[EMAILS])
    monkeypatch.setattr(checks, "_schema_problem", refused)
    mistaken(MAY_VIEW="no.such", AUTH={"*": "no.such"}, HOOKS=["no.such"])
    monkeypatch.setattr(checks, "connections", {"default": SimpleNamespace(vendor="mysql", settings_dict={})})
    mistaken(ENCRYPTION_KEYS="")
    page = (ROOT / "docs" / "install.md").read_text()
    sentence = page.partition("While webhooks are off, only")[2].partition("run.")[0]
    listed = set[str]()
    for first, last in re.findall(r"`webhooks\.(\w+)`(?:\s+to\s+`webhooks\.(\w+)`)?", sentence):
        listed |= {f"webhooks.{first[0]}{number:03}" for number in range(int(first[1:]), int((last or first)[1:]) + 1)}
    assert listed == ids


def test_a_queue_that_is_missing_in_rq_queues_is_an_error(webhooks_settings: Change) -> None:
    webhooks_settings(QUEUE="hooks")
    [message] = found(deploy=True).values()
    assert (message.id, message.is_serious()) == ("webhooks.E001", True)
    assert message.msg == 'RQ_QUEUES has no queue "hooks", so no worker can be woken.'
    assert 'Add "hooks": {"HOST": "localhost", "PORT": 6379, "DB": 0} to RQ_QUEUES' in message.hint


def test_no_rq_queues_at_all_is_the_same_error(settings: Any) -> None:
    del settings.RQ_QUEUES
    assert set(found(deploy=True)) == {"webhooks.E001"}


@pytest.mark.parametrize(
    ("queues", "problem"),
    [
        (["webhooks"], "RQ_QUEUES is no dictionary"),
        (None, "RQ_QUEUES is no dictionary"),
        ("webhooks", "RQ_QUEUES is no dictionary"),
        ({"webhooks": "redis://localhost"}, 'RQ_QUEUES["webhooks"] is no dictionary'),
    ],
)
def test_rq_queues_of_a_wrong_type_are_the_same_error(settings: Any, queues: Any, problem: str) -> None:
    settings.RQ_QUEUES = queues
    complete_queue_settings("webhooks")
    [message] = found(deploy=True).values()
    assert (message.id, message.msg) == ("webhooks.E001", f"{problem}, so no worker can be woken.")


def test_another_queue_in_rq_queues_is_no_mistake(settings: Any, webhooks_settings: Change) -> None:
    settings.RQ_QUEUES = {**settings.RQ_QUEUES, "hooks": {"URL": "redis://127.0.0.1:1/0"}}
    webhooks_settings(QUEUE="hooks")
    assert found() == {}


def test_a_misspelt_key_of_the_setting_is_an_error(webhooks_settings: Change) -> None:
    webhooks_settings(TIMEOUTS=10, MODEL=[], nothing_like_it=1)
    message = found()["webhooks.E002"]
    assert message.is_serious()
    assert "MODEL, TIMEOUTS, nothing_like_it" in message.msg
    assert message.hint.startswith(
        "Did you mean MODELS instead of MODEL? Did you mean TIMEOUT instead of TIMEOUTS? See"
    )
    assert "page on settings" in message.hint


@pytest.mark.parametrize("label", ["dcim.sites", "no.such", "auth.group"])
def test_sensitive_fields_of_a_model_that_is_not_registered_are_an_error(webhooks_settings: Change, label: str) -> None:
    webhooks_settings(INCLUDE_SENSITIVE={"dcim.Site": ["api_key"], label: ["api_key"]})
    message = found()["webhooks.E003"]
    assert message.msg == f'WEBHOOKS["INCLUDE_SENSITIVE"] names "{label}", which is no registered model.'


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("dcim.sites", "'dcim' doesn't have a 'sites' model"),
        ("nonsense.*", "No installed app with label 'nonsense'"),
        ("nonsense.site", "No installed app with label 'nonsense'"),
    ],
)
def test_a_listed_model_that_does_not_exist_is_an_error(webhooks_settings: Change, label: str, reason: str) -> None:
    webhooks_settings(MODELS=[label])
    message = found()["webhooks.E003"]
    assert message.is_serious()
    assert f'WEBHOOKS["MODELS"] lists "{label}", which names no model' in message.msg
    assert reason in message.msg
    assert (
        'Use "app_label.model", "app_label.*" for all models of an app that have a serializer, or "*"' in message.hint
    )


def test_a_pattern_that_registers_nothing_is_an_error_that_says_where_it_looked(
    webhooks_settings: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_registrations", {})
    webhooks_settings(MODELS=["taggit.*"])
    [message] = found().values()
    assert (message.id, message.is_serious()) == ("webhooks.E016", True)
    assert message.msg == (
        'WEBHOOKS["MODELS"] lists "taggit.*", which registers nothing:\n  taggit.Tag has no '
        "taggit.api.serializers.TagSerializer and no taggit.serializers.TagSerializer\n  taggit.TaggedItem has no "
        "taggit.api.serializers.TaggedItemSerializer and no taggit.serializers.TaggedItemSerializer."
    )
    assert message.hint.startswith("Define a serializer at one of these paths, or name one in webhooks.register(")


@pytest.mark.parametrize("pattern", ["testapp.*", "*"])
def test_a_pattern_that_registers_only_some_models_names_the_others(
    webhooks_settings: Change, register: Callable[..., None], pattern: str
) -> None:
    webhooks_settings(MODELS=[pattern])
    message = found()["webhooks.I001"]
    assert message.level == INFO
    assert (
        "testapp.Unregistered has no tests.testapp.api.serializers.UnregisteredSerializer and no "
        "tests.testapp.serializers.UnregisteredSerializer" in message.msg
    )
    assert "testapp.Thing " not in message.msg
    assert "taggit." not in message.msg  # "*" does not include an app without serializers
    register(Unregistered, serializer="tests.testapp.api.serializers.ThingSerializer")
    assert "Unregistered" not in found()["webhooks.I001"].msg


def test_a_registered_model_without_a_serializer_is_an_error(register: Callable[..., None]) -> None:
    register(Unregistered)
    message = found()["webhooks.E004"]
    assert (message.is_serious(), message.obj) == (True, Unregistered)
    assert "No serializer for testapp.unregistered" in message.msg
    assert "tests.testapp.api.serializers.UnregisteredSerializer" in message.msg
    assert "tests.testapp.serializers.UnregisteredSerializer" in message.msg
    assert "webhooks.register('testapp.unregistered', serializer=…)" in message.msg
    assert message.hint == checks.UNSENDABLE
    assert "rqworker, runserver and most other commands refuse to start" in message.hint


def test_a_registered_model_with_a_named_serializer_is_no_mistake(register: Callable[..., None]) -> None:
    register(Unregistered, serializer="tests.testapp.api.serializers.ThingSerializer")
    assert found() == {}


def test_a_named_serializer_that_does_not_exist_is_an_error(register: Callable[..., None]) -> None:
    good = "tests.testapp.api.serializers.ThingSerializer"
    register(Unregistered, serializer=good, serializers={"brief": "tests.testapp.api.serializers.Nothing"})
    assert "importing tests.testapp.api.serializers.Nothing failed" in found()["webhooks.E004"].msg


def test_a_serializer_that_cannot_list_its_fields_is_an_error(register: Callable[..., None]) -> None:
    class Wrong(serializers.ModelSerializer):
        declared = serializers.CharField()  # REST framework refuses a declared field that is not in Meta.fields

        class Meta:
            model = Unregistered
            fields = ("name",)

    register(Unregistered, serializer=Wrong, exclude=["name"])
    message = found()["webhooks.E004"]
    assert message.obj == Unregistered
    assert message.msg.startswith("A serializer of testapp.unregistered cannot list its fields: AssertionError: ")


def test_an_excluded_field_that_does_not_exist_is_a_warning(register: Callable[..., None]) -> None:
    good = "tests.testapp.api.serializers.ThingSerializer"
    register(Unregistered, serializer=good, exclude=["name", "status", "nmae"])
    message = found()["webhooks.W007"]
    assert message.obj == Unregistered
    assert message.msg.startswith("nmae cannot be excluded from testapp.unregistered")


def test_what_a_serializer_reads_can_be_excluded(register: Callable[..., None]) -> None:
    class Renaming(serializers.ModelSerializer):
        place = serializers.CharField(source="label_of.street")

        class Meta:
            model = Unregistered
            fields = ("name", "place")

    register(Unregistered, serializer=Renaming, exclude=["street", "place", "streat"])
    assert found()["webhooks.W007"].msg.startswith("streat cannot be excluded from testapp.unregistered")
    register(Unregistered, serializer=Renaming, exclude=["street", "place"])
    assert "webhooks.W007" not in found()


@pytest.mark.parametrize("name", ["whole", "whole_id", "name"])
def test_a_field_can_be_excluded_by_every_name_that_reads_it(name: str, register: Callable[..., None]) -> None:
    class Brief(serializers.ModelSerializer):
        class Meta:
            model = TrackedPart
            fields = ("id",)

    register(TrackedPart, serializer=Brief, exclude=[name])
    assert "webhooks.W007" not in found()


def test_a_serializer_that_writes_freely_may_have_any_field(register: Callable[..., None]) -> None:
    class Free(serializers.BaseSerializer):
        fields = ("name",)

    register(Unregistered, serializer=Free, exclude=["nmae"])
    assert "webhooks.W007" not in found()


class Elsewhere:
    """Routes one model to another database."""

    def db_for_write(self, model: type[models.Model], **hints: Any) -> str | None:
        return "archive" if model is Unregistered else None


def test_a_registered_model_in_another_database_is_an_error(settings: Any, register: Callable[..., None]) -> None:
    settings.DATABASE_ROUTERS = [Elsewhere()]
    assert found() == {}
    register(Unregistered, serializer="tests.testapp.api.serializers.ThingSerializer")
    message = found()["webhooks.E005"]
    assert (message.is_serious(), message.obj) == (True, Unregistered)
    assert message.msg.startswith(
        'testapp.unregistered is in the database "archive", but the tables of webhooks are in "default"'
    )
    assert message.hint == "Route both to one database, or do not register the model."


def test_a_missing_django_rq_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.apps, "is_installed", lambda name: name != "django_rq")
    [message] = found().values()
    assert (message.id, message.is_serious()) == ("webhooks.E006", True)
    assert message.hint == (
        'Add "django_rq" to INSTALLED_APPS. Or do without Redis: set WEBHOOKS["WAKE_UP"] to "database", and run '
        "manage.py webhooks_worker."
    )


def test_the_other_package_of_the_same_name_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "webhooks-0.4.2.dist-info").mkdir()
    (tmp_path / "webhooks-0.4.2.dist-info" / "METADATA").write_text("Name: webhooks\nVersion: 0.4.2\n")
    monkeypatch.syspath_prepend(tmp_path)
    [message] = found().values()
    assert (message.id, message.hint) == (
        "webhooks.E020",
        "Uninstall both, then install django-rq-webhooks again.",
    )
    assert "webhooks 0.4.2 from PyPI" in message.msg


def test_an_invalid_value_is_an_error(webhooks_settings: Change) -> None:
    webhooks_settings(RETRY_SCHEDULE=[5, -1])
    error = found()["webhooks.E007"]
    assert error.is_serious()
    assert error.msg == (
        'The setting WEBHOOKS["RETRY_SCHEDULE"] must be a list of numbers of seconds, up to 100 years, '
        "[] for no retries, not [5, -1]."
    )
    assert error.hint == "See the documentation's page on settings."


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("DENY_PRIVATE", "yes", "must be True or False, not 'yes'"),
        ("PROXY", "https://me:secret@proxy:3128", "must be the URL of an HTTP proxy such as"),
    ],
)
def test_an_invalid_value_about_destinations_is_an_error_and_stops_sending(
    webhooks_settings: Change, key: str, value: Any, message: str
) -> None:
    webhooks_settings(**{key: value})
    error = found()["webhooks.E008"]
    assert error.is_serious()
    assert error.msg.startswith(f'The setting WEBHOOKS["{key}"] {message}')
    assert "secret" not in error.msg
    assert error.hint.startswith("Nothing is sent until it is corrected")


def test_a_missing_middleware_is_a_warning(settings: Any) -> None:
    settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if name != MIDDLEWARE]
    [message] = found().values()
    assert (message.id, message.is_serious()) == ("webhooks.W001", False)
    assert message.hint == f'Add "{MIDDLEWARE}" to MIDDLEWARE, after AuthenticationMiddleware.'


@pytest.mark.parametrize("options", [{}, {"transaction_mode": "DEFERRED"}])
def test_sqlite_without_begin_immediate_is_a_warning(valid_database: dict[str, Any], options: dict[str, str]) -> None:
    valid_database["OPTIONS"] = options
    [message] = found().values()
    assert (message.id, message.is_serious()) == ("webhooks.W002", False)
    assert "database is locked" in message.msg
    assert message.hint.startswith('Set DATABASES["default"]["OPTIONS"] = {"transaction_mode": "IMMEDIATE"}')


@pytest.mark.parametrize("is_enabled", [True, False])
def test_another_kind_of_database_is_an_error_also_before_webhooks_are_enabled(
    monkeypatch: pytest.MonkeyPatch, webhooks_settings: Change, is_enabled: bool
) -> None:
    database = SimpleNamespace(vendor="mysql", settings_dict={"OPTIONS": {}, "ATOMIC_REQUESTS": True})
    monkeypatch.setattr(checks, "connections", {"default": database})
    webhooks_settings(ENABLED=is_enabled)
    [message] = found().values()
    assert (message.id, message.is_serious()) == ("webhooks.E012", True)
    assert 'The database "default" is of the kind "mysql"' in message.msg
    assert "PostgreSQL and SQLite" in message.msg


def test_an_sqlite_without_returning_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.sqlite3, "sqlite_version_info", (3, 34, 1))
    [message] = found().values()
    assert (message.id, message.is_serious()) == ("webhooks.E012", True)
    assert "3.35" in message.hint


def test_the_tables_are_looked_for_only_with_deploy_and_their_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Django asks of every check: ``migrate`` runs the checks of a database before it creates the tables."""
    asked: list[str] = []
    monkeypatch.setattr(checks, "_schema_problem", asked.append)
    # From Django 6.1 on, no list of databases means all of them.
    without = [(True, None)] if django.VERSION < (6, 1) else []
    for deploy, databases in ((False, None), (False, ["default"]), (True, ["archive"]), *without):
        run_checks(tags=["webhooks"], include_deployment_checks=deploy, databases=databases)
        assert asked == []
    run_checks(tags=["webhooks"], include_deployment_checks=True, databases=["default"])
    assert asked == ["default"]


def test_missing_tables_are_no_error_before_webhooks_are_enabled(
    monkeypatch: pytest.MonkeyPatch, webhooks_settings: Change
) -> None:
    missing = CheckMessage(ERROR, "", id="webhooks.E013")
    monkeypatch.setattr(checks, "_schema_problem", lambda using: missing)
    assert found(deploy=True) == {"webhooks.E013": missing}
    webhooks_settings(ENABLED=False)
    assert found(deploy=True) == {}


def test_a_database_that_does_not_answer_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(using: str) -> None:
        raise OperationalError("connection refused\nIs the server running?")

    monkeypatch.setattr(checks, "_schema_problem", refused)
    [message] = found(deploy=True).values()
    assert (message.id, message.is_serious()) == ("webhooks.W015", False)
    assert 'the database "default" does not answer: connection refused' in message.msg
    assert "\n" not in message.msg


@pytest.mark.parametrize("is_enabled", [True, False])
def test_a_project_without_a_database_gets_a_message_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, webhooks_settings: Change, is_enabled: bool
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(checks, "connections", ConnectionHandler({}))
    webhooks_settings(ENABLED=is_enabled)
    assert "webhooks.E012" in found(deploy=True)


def test_postgresql_needs_no_transaction_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    database = SimpleNamespace(vendor="postgresql", settings_dict={"OPTIONS": {}, "ATOMIC_REQUESTS": True})
    monkeypatch.setattr(checks, "connections", {"default": database})
    assert found() == {}


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ({"isolation_level": IsolationLevel.SERIALIZABLE}, ["webhooks.W008"]),
        ({"isolation_level": IsolationLevel.READ_COMMITTED}, []),
    ],
)
def test_a_stricter_isolation_level_is_a_warning(
    options: dict[str, Any], ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    database = SimpleNamespace(vendor="postgresql", settings_dict={"OPTIONS": options, "ATOMIC_REQUESTS": True})
    monkeypatch.setattr(checks, "connections", {"default": database})
    assert list(found()) == ids


def test_batch_requests_without_atomic_requests_is_a_warning(
    valid_database: dict[str, Any], webhooks_settings: Any
) -> None:
    webhooks_settings(BATCH_REQUESTS=True)
    assert "webhooks.W013" not in found()
    valid_database["ATOMIC_REQUESTS"] = False
    assert "update()" in str(found()["webhooks.W013"].hint)


def test_missing_atomic_requests_are_a_warning(valid_database: dict[str, Any]) -> None:
    valid_database["ATOMIC_REQUESTS"] = False
    [message] = found().values()
    assert (message.id, message.is_serious()) == ("webhooks.W003", False)
    assert 'Set DATABASES["default"]["ATOMIC_REQUESTS"] = True' in message.hint


def test_a_status_page_without_a_url_is_a_warning(settings: Any) -> None:
    settings.ROOT_URLCONF = ()
    [message] = found().values()
    assert (message.id, message.is_serious()) == ("webhooks.W004", False)
    assert 'Add path("admin/", include("webhooks.urls")) to your urls.py' in message.hint


def test_the_hint_of_that_warning_removes_it(settings: Any) -> None:
    settings.ROOT_URLCONF = (path("admin/", include("webhooks.urls")), path("admin/", admin.site.urls))
    assert found() == {}


@pytest.mark.parametrize(
    ("is_registered", "works"),
    [
        (lambda model: False, False),
        (lambda model: model._meta.app_label == "rq_webhooks", False),
        (lambda model: model is not Delivery, False),
        (lambda model: True, True),
    ],
)
def test_pages_without_the_urls_of_the_default_admin_site_are_an_error(
    settings: Any,
    client: Client,
    admin_user: Any,
    monkeypatch: pytest.MonkeyPatch,
    is_registered: Callable[..., bool],
    works: bool,
) -> None:
    monkeypatch.delattr(admin.site, "each_context")  # the short one of conftest
    own = admin.AdminSite(name="own")
    for model in filter(is_registered, admin.site._registry):
        own.register(model, type(admin.site.get_model_admin(model)))
    settings.ROOT_URLCONF = (path("own/", include("webhooks.urls")), path("own/", own.urls))
    client.force_login(admin_user)
    client.raise_request_exception = False
    assert client.get("/own/webhook-backend-status/").status_code == (200 if works else 500)
    assert [(message.id, message.is_serious()) for message in found().values()] == (
        [] if works else [("webhooks.E019", True)]
    )


def test_an_admin_site_of_the_project_needs_no_default_site_without_the_pages(settings: Any) -> None:
    settings.ROOT_URLCONF = (path("own/", admin.AdminSite(name="own").urls),)
    assert [message.is_serious() for message in found().values()] == [False], "the status page has no URL"


def test_webhooks_after_the_admin_in_installed_apps_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = sorted(apps.get_app_configs(), key=lambda app: app.name == "webhooks")
    monkeypatch.setattr(apps, "get_app_configs", lambda: configs)
    assert found() == {}
    monkeypatch.setattr(admin.site, "index_template", "own/index.html")
    [message] = found().values()
    assert "own/index.html is its template" in message.msg
    assert (message.id, message.is_serious()) == ("webhooks.W009", False)
    assert 'Move "webhooks" before "django.contrib.admin"' in message.hint


def test_a_status_page_after_the_admin_is_the_same_warning(settings: Any) -> None:
    settings.ROOT_URLCONF = (path("admin/", admin.site.urls), path("admin/", include("webhooks.urls")))
    [message] = found().values()
    assert message.id == "webhooks.W004"
    assert "another view answers there" in message.msg
    assert "before admin.site.urls" in message.hint


def test_a_status_page_is_found_under_a_script_prefix(settings: Any) -> None:
    set_script_prefix("/netbox/")
    try:
        assert found() == {}
        settings.ROOT_URLCONF = (path("admin/", admin.site.urls), path("admin/", include("webhooks.urls")))
        assert "webhooks.W004" in found()
    finally:
        clear_script_prefix()


def test_a_job_class_that_does_not_run_wake_ups_is_a_warning_for_other_worker_classes(settings: Any) -> None:
    settings.RQ = {"JOB_CLASS": "tests.support.job_classes.OnlyTasks"}
    message = found()["webhooks.W014"]
    assert "does not point to a Task (webhooks.workers.jobs.drain)" in message.msg
    assert "rqworker webhooks --job-class rq.job.Job" in str(message.hint)
    settings.RQ |= {"WORKER_CLASS": "webhooks.workers.WebhookWorker"}
    assert "webhooks.W014" not in found()


@pytest.mark.parametrize("worker", [{}, {"WORKER_CLASS": "rq.SimpleWorker"}, {"WORKER_CLASS": "no.such.Worker"}])
def test_another_worker_class_is_a_warning_that_says_what_waits(settings: Any, worker: dict[str, str]) -> None:
    settings.RQ = worker
    [message] = found().values()
    assert (message.id, message.is_serious()) == ("webhooks.W012", False)
    assert (
        "retries, events recorded without Redis and the deletion of old rows wait for manage.py webhooks_sweep"
        in message.msg
    )
    assert 'Set RQ = {"WORKER_CLASS": "webhooks.workers.WebhookWorker"}' in message.hint


def test_a_subclass_of_the_shipped_worker_class_is_no_mistake(settings: Any) -> None:
    class Ours(WebhookWorker):
        pass

    settings.RQ = {"WORKER_CLASS": Ours}
    assert found() == {}


def test_no_registered_model_is_a_warning(webhooks_settings: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    webhooks_settings(MODELS=[])
    monkeypatch.setattr(registry, "_registrations", {})
    [message] = found().values()
    assert (message.id, message.is_serious()) == ("webhooks.W005", False)
    assert "no model is registered" in message.msg
    assert 'List models in WEBHOOKS["MODELS"], or call webhooks.register()' in message.hint


def test_a_redis_that_does_not_answer_is_a_warning_when_deploying(settings: Any) -> None:
    url = f"redis://127.0.0.1:{servers.free_port()}/0"
    settings.RQ_QUEUES = {name: {"URL": url} for name in settings.RQ_QUEUES}
    assert found() == {}
    [message] = found(deploy=True).values()
    assert (message.id, message.is_serious()) == ("webhooks.W006", False)
    assert message.msg.startswith("Redis cannot be used: ")
    assert "refused" in message.msg
    assert 'Start it, or correct RQ_QUEUES["webhooks"].' in message.hint


@pytest.mark.parametrize("keys", ["a key", ["short"], ["0" * 44], [b"0" * 44], [None]])
def test_invalid_encryption_keys_are_an_error_that_hides_them(webhooks_settings: Change, keys: Any) -> None:
    webhooks_settings(ENCRYPTION_KEYS=keys)
    [error] = found(deploy=True).values()
    assert (error.id, error.is_serious()) == ("webhooks.E009", True)
    assert error.msg == (
        'The setting WEBHOOKS["ENCRYPTION_KEYS"] must be a list of keys as Fernet.generate_key() makes them.'
    )
    assert "webhooks that have one send nothing" in error.hint


def test_a_secret_that_no_key_decrypts_is_an_error(settings: Any, unreadable: list[tuple[str, str]]) -> None:
    unreadable.append(("CMDB", "secret"))
    assert "webhooks.E010" not in found()
    message = found(deploy=True)["webhooks.E010"]
    assert message.is_serious()
    assert message.msg == "The secret of webhook “CMDB” cannot be decrypted with any key in the settings."
    assert "SECRET_KEY_FALLBACKS" in message.hint
    assert "webhooks_rotate_keys" in message.hint
    assert "Stop signing with the previous secret now" in message.hint


def test_a_webhook_of_a_model_that_is_not_registered_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "unregistered_names", lambda: {"CMDB": Silence(("auth.group",), ("dcim.audited",))})
    assert "webhooks.E015" not in found()
    message = found(deploy=True)["webhooks.E015"]
    assert message.is_serious()
    assert message.msg.startswith("Webhook “CMDB” sends nothing of auth.group, dcim.audited: not registered, so")
    assert message.hint.startswith(
        'Name it in the setting WEBHOOKS["MODELS"], or call webhooks.register() for it. Call'
    )
    with translation.override("de"):
        assert found(deploy=True)["webhooks.E015"] == message, "as Django's own checks"


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        ("nowhere.to.be_found", "which cannot be used: No module named"),
        ("tests.support.unconfigured.auth", "which cannot be used: KeyError: 'CMDB_PASSWORD'"),
        ("webhooks.models.permissions.BY_MODEL", "which cannot be used: it cannot be called"),
    ],
)
@pytest.mark.parametrize("key", ["MAY_VIEW", "MAY_VIEW_ALL", "HISTORY"])
def test_an_unusable_may_view_is_an_error(webhooks_settings: Change, key: str, named: str, problem: str) -> None:
    webhooks_settings(**{key: named})
    error = found()["webhooks.E011"]
    assert error.is_serious()
    assert f'{key}"] names {named}, {problem}' in error.msg


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        ("nowhere.to.be_found", "No module named 'nowhere'"),
        ("tests.support.unconfigured.auth", "KeyError: 'CMDB_PASSWORD'"),
        ("requests.auth.HTTPBasicAuth", "it must be an object of a class such as requests.auth.AuthBase"),
    ],
)
def test_an_unusable_auth_is_an_error(webhooks_settings: Change, named: str, problem: str) -> None:
    webhooks_settings(AUTH={"*.example.com": named})
    error = found()["webhooks.E014"]
    assert error.is_serious()
    assert f'WEBHOOKS["AUTH"] names {named}, which cannot be used: {problem}' in error.msg


@pytest.mark.parametrize(
    ("key", "where"),
    [
        ("http://hooks.example.com", "unencrypted"),
        ("http://*.example.com:8000/in", "unencrypted"),
        ("*", "to every host"),
        ("https://*:8443", "to every host"),
        ("hooks.example.com", ""),
        ("https://*.example.com:8443/in", ""),
    ],
)
def test_credentials_that_others_could_read_are_a_warning(webhooks_settings: Change, key: str, where: str) -> None:
    webhooks_settings(AUTH={key: "tests.support.pills.poison"})
    assert ("webhooks.W018" in found()) == bool(where)
    assert not where or f"“{key}”, so credentials are sent {where}." in found()["webhooks.W018"].msg


@pytest.mark.parametrize(
    ("key", "fields", "is_missed"),
    [
        ("cmdb.example.com", {"url": "http://cmdb.example.com/t0ken"}, True),
        ("cmdb.example.com", {"url": "https://cmdb.example.com:8443/t0ken"}, True),
        ("cmdb.example.com", {"url": "https://cmdb.example.com/", "ssl_verification": False}, True),
        ("https://cmdb.example.com/in", {"url": "https://cmdb.example.com/t0ken"}, True),
        ("cmdb.example.com", {"url": "https://cmdb.example.com/t0ken"}, False),
        ("cmdb.example.com", {"url": "http://other.example.com/t0ken"}, False),
        ("cmdb.example.com", {"url": "http://cmdb.example.com/t0ken", "enabled": False}, False),
        ("cmdb.example.com", {"url": "http://cmdb.example.com/{{ id }}"}, False),
    ],
)
@pytest.mark.django_db
@pytest.mark.one_database
def test_a_webhook_whose_url_misses_the_key_of_its_host_is_a_warning(
    webhooks_settings: Change, key: str, fields: dict[str, Any], is_missed: bool
) -> None:
    webhooks_settings(AUTH={key: "tests.support.pills.poison"})
    make_webhook(Thing, name="CMDB", **fields)
    message = found(deploy=True).get("webhooks.W019")
    assert bool(message) == is_missed
    if message:
        assert message.msg.startswith("Webhook “CMDB” sends to ")
        assert f"although “{key}” in AUTH" in message.msg
        assert "t0ken" not in message.msg


class OfTenant(models.QuerySet[Any]):
    def restrict(self, user: Any, action: str) -> Any:
        return self.filter(tenant__in=[user.pk])


@pytest.mark.django_db
@pytest.mark.one_database
@pytest.mark.parametrize(("querysets", "is_usable"), [(RestrictedQuerySet, True), (OfTenant, False)])
def test_what_restricts_the_rows_of_webhooks_is_named_and_tried(querysets: Any, is_usable: bool) -> None:
    assert not {"webhooks.I002", "webhooks.W020"} & found(deploy=True).keys()
    with restricting(Thing, Unregistered, querysets=querysets), restricting(TrackedPart, querysets=Unlike):
        named = found(deploy=True)
    path = f"{querysets.__module__}.{querysets.__name__}.restrict"
    assert named["webhooks.I002"].msg == (
        f"{path} of 2 models also decides which rows of webhooks a user may view and change. "
        f"Not so {Unlike.__module__}.Unlike.restrict."
    )
    assert ("webhooks.W020" not in named) == is_usable
    if not is_usable:
        assert "Cannot resolve keyword 'tenant' into field." in named["webhooks.W020"].msg


class Unlike(models.QuerySet[Any]):
    def restrict(self, user: Any, action: str = "view") -> Any:
        return self


@pytest.mark.parametrize(
    "key", ["hooks.example.com:443", "https://u@h.example/", "https://h.example/a/../b", "https://h.example/?a", ""]
)
def test_a_receiver_that_could_be_read_in_two_ways_is_an_error(webhooks_settings: Change, key: str) -> None:
    webhooks_settings(AUTH={key: "tests.support.pills.poison"})
    assert "must map hosts" in found()["webhooks.E007"].msg


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        ("nowhere.to.be_found", "No module named 'nowhere'"),
        ("tests.support.unconfigured.auth", "KeyError: 'CMDB_PASSWORD'"),
        ("requests.auth.HTTPBasicAuth", "it must be a subclass of webhooks.hooks.Hooks"),
        ("tests.hooks.test_notifications.Awaited", "its method event_recorded must not be asynchronous"),
    ],
)
def test_an_unusable_class_of_hooks_is_an_error(webhooks_settings: Change, named: str, problem: str) -> None:
    webhooks_settings(HOOKS=[named])
    error = found()["webhooks.E017"]
    assert error.is_serious()
    assert f'WEBHOOKS["HOOKS"] names {named}, which cannot be used: {problem}' in error.msg


@pytest.mark.skipif(django.VERSION >= (6,), reason="Django has tasks from version 6 on")
def test_tasks_of_a_django_without_them_are_an_error(webhooks_settings: Change) -> None:
    webhooks_settings(WAKE_UP="tasks")
    assert found()["webhooks.E018"].is_serious()


def test_every_id_of_a_check_has_a_test_here() -> None:
    ids = {word.strip('",)') for word in Path(checks.__file__).read_text().split() if word.startswith('id="webhooks.')}
    tested = Path(__file__).read_text()
    assert ids
    assert not [check for check in ids if f'"{check.removeprefix("id=").strip(chr(34))}"' not in tested]


@pytest.mark.one_database
@pytest.mark.usefixtures("database")  # Django 6.1 asks it whether it has JSON
def test_the_tests_own_project_is_clean(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("check", fail_level="WARNING")
    assert "no issues" in capsys.readouterr().out


def test_the_example_project_is_clean(tmp_path: Path, redis_url: str) -> None:
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "EXAMPLE_DATA_DIR": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "REDIS_URL": redis_url,
    }
    command = [sys.executable, "example/manage.py", "check", "--fail-level", "WARNING"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout


@isolate_apps("tests.testapp")
def test_a_foreign_key_of_the_project_to_what_workers_delete_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ticket(models.Model):
        delivery = models.ForeignKey(Delivery, models.SET_NULL, null=True, related_name="+")
        event = models.ForeignKey(Event, models.DO_NOTHING, null=True, related_name="+", db_constraint=False)
        webhook = models.ForeignKey(Webhook, models.CASCADE, null=True, related_name="+")

        class Meta:
            app_label = "testapp"

    assert "webhooks.W021" not in found()
    known = apps.get_models()
    monkeypatch.setattr(checks.apps, "get_models", lambda *args, **kwargs: [*known, Ticket])
    message = found()["webhooks.W021"]
    assert message.msg.startswith("testapp.Ticket.delivery is a foreign key to deliveries")
