"""A pytest plugin for the test suites of other projects: with a webhook on every model, or without the app.

It runs in the project's own process, so it imports nothing from this checkout but the app. These variables of the
environment say what to do:

======================  ============================================================================================
``EVERYWHERE_RESULTS``  the directory for the results: ``tests.json``, and ``events-….json`` of each process
``EVERYWHERE_ENABLED``  "1": install the app, register every model, and create a webhook for all of them
``EVERYWHERE_HIDDEN``   "1": leave the app's own queries out of ``connection.queries``, which tests count
``EVERYWHERE_ENGINE``   "sqlite": files replace the project's databases
``EVERYWHERE_COMMITS``  "1", on SQLite: each test commits, and afterwards its database becomes a copy from before. A
                        ``TestCase`` otherwise runs in one transaction, in which all changes of an object are one Event
======================  ============================================================================================
"""

from __future__ import annotations

import functools
import json
import logging
import os
import sqlite3
import sys
from collections import Counter, deque
from pathlib import Path
from typing import Any

import django
import pytest
from django.conf import settings

RESULTS = Path(os.environ["EVERYWHERE_RESULTS"])
IS_ENABLED = os.environ.get("EVERYWHERE_ENABLED") == "1"
COMMITS = os.environ.get("EVERYWHERE_COMMITS") == "1"
HIDES_QUERIES = os.environ.get("EVERYWHERE_HIDDEN") == "1"
ENGINE = os.environ.get("EVERYWHERE_ENGINE", "")

AUTHENTICATION = "django.contrib.auth.middleware.AuthenticationMiddleware"
MIDDLEWARE = "webhooks.middleware.WebhooksMiddleware"

# The worst one counts: of a test's setup, call and teardown, and of its subtests.
OUTCOMES = ("passed", "skipped", "xfailed", "failed", "error")


# The settings, and the registrations


def set_up_everywhere(set_up: Any) -> Any:
    """``django.setup`` with the settings that the app needs."""

    @functools.wraps(set_up)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        from django.apps import apps

        if apps.ready:
            return
        if ENGINE == "sqlite":
            settings.DATABASES = {alias: database(alias) for alias in settings.DATABASES}
        settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # the default takes a second
        if IS_ENABLED:
            change_settings()
        set_up(*args, **kwargs)
        if COMMITS:
            commit()
        if IS_ENABLED:
            connect()

    return wrapped


def database(alias: str) -> dict[str, Any]:
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{alias}.sqlite3"}


def change_settings() -> None:
    if any(app.startswith("webhooks.") for app in settings.INSTALLED_APPS):
        return  # the project has the app already, as NetBox with the plugin
    settings.INSTALLED_APPS = list(dict.fromkeys(["webhooks", *settings.INSTALLED_APPS, "rest_framework", "django_rq"]))
    middleware = list(settings.MIDDLEWARE)
    after = middleware.index(AUTHENTICATION) + 1 if AUTHENTICATION in middleware else len(middleware)
    settings.MIDDLEWARE = [*middleware[:after], MIDDLEWARE, *middleware[after:]]
    # Nothing listens there: the wake-ups are lost, and a worker would find the Events by itself.
    queues = getattr(settings, "RQ_QUEUES", {})
    settings.RQ_QUEUES = {**queues, "webhooks": {"URL": "redis://127.0.0.1:1/0"}}
    settings.WEBHOOKS = {"ENABLED": True, "PAYLOAD_BYTES": 10_000_000}


def connect() -> None:
    """Register the models, and again those that test modules define. Create the webhook after each migration."""
    from django.db.models.signals import post_migrate

    logging.getLogger("webhooks").addHandler(ErrorCounter(logging.ERROR))
    count_events()
    if HIDES_QUERIES:
        hide_queries()
    register_all()
    post_migrate.connect(on_migrated, dispatch_uid="everywhere")


def register_all() -> None:
    from django.apps import apps
    from django.core.exceptions import ImproperlyConfigured

    import webhooks
    from webhooks.ground import registry

    for model in apps.get_models():
        if model._meta.app_label != "rq_webhooks" and not model._meta.proxy and not registry.registration_of(model):
            try:
                webhooks.register(model, serializer=serializer_of(model))
            except ImproperlyConfigured as refused:
                MEASURED["refused"][str(refused)] = 1


def serializer_of(model: Any) -> Any:
    from django.db.models import FilePathField
    from rest_framework.serializers import ModelSerializer

    # REST framework wants to know the path of the field of a model that has none.
    left_out = [field.name for field in model._meta.fields if isinstance(field, FilePathField)]
    meta = type("Meta", (), {"model": model, "exclude": left_out})
    return type(f"{model.__name__}Serializer", (ModelSerializer,), {"Meta": meta, "__module__": __name__})


def on_migrated(sender: Any, app_config: Any, using: str, **kwargs: Any) -> None:
    """Subscribe a webhook to every model, with the state before each change, after the last app was migrated."""
    from django.apps import apps
    from django.contrib.contenttypes.models import ContentType

    from webhooks.ground import registry
    from webhooks.models import Event, Webhook

    last = [one for one in apps.get_app_configs() if one.models_module is not None][-1]
    if app_config is not last or using != Event.objects.db:
        return
    register_all()
    webhook, _ = Webhook.objects.get_or_create(
        name="everywhere",
        defaults={
            "payload_url": "http://127.0.0.1:1/",
            "on_created": True,
            "on_updated": True,
            "on_deleted": True,
            "prechange": True,
        },
    )
    webhook.object_types.set(ContentType.objects.get_for_models(*registry.registered_models().values()).values())
    ContentType.objects.clear_cache()


# Commits


def commit() -> None:
    """Let ``TestCase`` commit: instead of a transaction, it begins with a copy of each database."""
    from django.db import connections
    from django.test import TestCase

    def copy_all(cls: Any) -> dict[str, sqlite3.Connection]:
        copies = {}
        for alias in cls._databases_names():
            connections[alias].ensure_connection()
            copies[alias] = sqlite3.connect(":memory:")
            connections[alias].connection.backup(copies[alias])
        return copies

    def restore_all(cls: Any, copies: dict[str, sqlite3.Connection]) -> None:
        for alias, copy in copies.items():
            connection = connections[alias]
            connection.ensure_connection()
            connection.connection.rollback()
            copy.backup(connection.connection)
            copy.close()

    TestCase._enter_atomics = classmethod(copy_all)
    TestCase._rollback_atomics = classmethod(restore_all)


# What was recorded

MEASURED: dict[str, Any] = {
    name: Counter() for name in ("changes", "actions", "models", "failed", "logged", "refused", "unreadable")
}


class ErrorCounter(logging.Handler):
    """Counts what the app logs as an error: a change that it missed is logged, never raised."""

    def emit(self, record: logging.LogRecord) -> None:
        if "[Errno 111]" not in record.getMessage():  # Redis is away on purpose
            MEASURED["logged"][f"{test_id()}: {record.getMessage()}"] += 1


def test_id() -> str:
    return os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0]


def count_events() -> None:
    """Count the changes, and the Events at the end of each test, before its rows are rolled back or flushed away."""
    from django.test import TestCase, TransactionTestCase

    from webhooks.capture import events

    record_change = events._record_change

    def counted_change(state: Any, change: Any) -> None:
        MEASURED["changes"][str(change.action)] += 1
        record_change(state, change)

    events._record_change = counted_change

    starts: list[int] = []
    enter, roll_back = TestCase._enter_atomics.__func__, TestCase._rollback_atomics.__func__
    tear_down = TransactionTestCase._fixture_teardown

    def counted_enter(cls: Any) -> Any:
        atomics = enter(cls)
        starts.append(last_event(cls))
        return atomics

    def counted_roll_back(cls: Any, atomics: Any) -> None:
        read_events(cls, starts.pop())
        roll_back(cls, atomics)

    def counted_tear_down(self: Any) -> None:
        if not isinstance(self, TestCase) or not self._databases_support_transactions():
            read_events(self, 0)
        tear_down(self)

    TestCase._enter_atomics = classmethod(counted_enter)
    TestCase._rollback_atomics = classmethod(counted_roll_back)
    TransactionTestCase._fixture_teardown = counted_tear_down


def has_database(test: Any) -> bool:
    from webhooks.models import Event

    return "__all__" in test.databases or Event.objects.db in test.databases


def last_event(test: Any) -> int:
    from django.db.models import Max

    from webhooks.models import Event

    return (Event.objects.aggregate(last=Max("pk"))["last"] or 0) if has_database(test) else 0


def read_events(test: Any, start: int) -> None:
    from django.db import Error, connections

    from webhooks.models import Event

    if not has_database(test):
        return
    connection = connections[Event.objects.db]
    if connection.needs_rollback:  # the test left its transaction broken
        MEASURED["unreadable"][test_id()] += 1
        return
    try:
        found = list(Event.objects.filter(pk__gt=start).values_list("action", "object_type", "error"))
    except Error:  # the test has the tables altered, or its connection closed
        MEASURED["unreadable"][test_id()] += 1
        return
    for action, object_type, error in found:
        MEASURED["actions"][action] += 1
        MEASURED["models"][object_type] += 1
        if error:
            MEASURED["failed"][f"{test_id()}: {object_type} {action}: {error.strip().splitlines()[-1]}"] += 1


# The app's own queries


class OthersQueries(deque):
    """Leaves out the queries of the app's receivers, and of the serializers that they call."""

    def append(self, entry: Any) -> None:
        frame: Any = sys._getframe(1)
        while frame is not None and not frame.f_globals.get("__name__", "").startswith("webhooks.capture"):
            frame = frame.f_back
        if frame is None:
            super().append(entry)


def hide_queries() -> None:
    from django.db import connections
    from django.db.backends.base.base import BaseDatabaseWrapper

    begin = BaseDatabaseWrapper.__init__

    def begin_hiding(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        self.queries_log = OthersQueries(maxlen=self.queries_limit)

    BaseDatabaseWrapper.__init__ = begin_hiding
    for connection in connections.all(initialized_only=True):
        connection.queries_log = OthersQueries(maxlen=connection.queries_limit)


# What became of the tests


def message_of(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return crash.message if crash else str(report.longrepr)[-2000:]


class Recorder:
    def __init__(self) -> None:
        self.tests: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome = str(report.outcome)
        if hasattr(report, "wasxfail"):
            outcome = "xfailed" if outcome == "skipped" else outcome
        elif outcome == "failed" and report.when != "call":
            outcome = "error"
        known = self.tests.setdefault(report.nodeid, {"outcome": "passed", "messages": []})
        if outcome in ("failed", "error"):
            known["messages"].append(message_of(report))
        if OUTCOMES.index(outcome) > OUTCOMES.index(known["outcome"]):
            known["outcome"] = outcome

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.tests[report.nodeid] = {"outcome": "error", "messages": [report.longreprtext[-2000:]]}

    def pytest_sessionfinish(self) -> None:
        (RESULTS / "tests.json").write_text(json.dumps(self.tests, indent=1))


def pytest_configure(config: pytest.Config) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(), "everywhere-recorder")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    if IS_ENABLED:
        (RESULTS / f"events-{os.getpid()}.json").write_text(json.dumps(MEASURED, indent=1))


django.setup = set_up_everywhere(django.setup)
