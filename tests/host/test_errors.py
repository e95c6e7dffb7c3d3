"""No name, URL or error can forge a line of the log."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.support.inbox import ROOT
from webhooks.ground import errors
from webhooks.ground.errors import about, get_logger
from webhooks.ground.text import one_line

HOSTILE = [
    "a\nERROR root: an error", "a\r\nb", "\x1b[2J\x1b[31mred", "\x9b31m", "a\x85b", "a\u2028b\u2029c", "a\x0bb\x0cc",
    "\u202egnp.exe", "\u2066a\u2069", "\ufeffa", "\0", "\x08\x08", "a\x1cb\x1db\x1ec", "\ud800", "%s %(x)s {0}",
]  # fmt: skip


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    yield handler.stream
    root.removeHandler(handler)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_record_is_one_visible_line(text: str, stream: io.StringIO) -> None:
    get_logger("webhooks.test").error("The payload of %s (%d) could not be made: %s", text, 5, ValueError(text))
    [line] = stream.getvalue().splitlines()
    assert line.startswith("ERROR webhooks.test: The payload of ")
    assert line.isprintable()
    assert line.isascii()


@pytest.mark.parametrize("text", HOSTILE)
def test_no_line_of_a_traceback_looks_like_a_record(text: str, stream: io.StringIO) -> None:
    try:
        raise ValueError(text)
    except ValueError:
        get_logger("webhooks.test").exception("It failed")
    first, *trace = stream.getvalue().splitlines()
    assert first == "ERROR webhooks.test: It failed"
    assert trace[-1].startswith("  | ")
    assert all(line.startswith("  | ") and line.isprintable() for line in trace)
    assert any("ValueError" in line for line in trace)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_record_says_what_it_is_about_on_one_line(text: str, caplog: pytest.LogCaptureFixture) -> None:
    logger = get_logger("webhooks.test")
    logger.error("It failed", extra=about(webhook=text, delivery=uuid.UUID(int=1), event=7, kind="timeout"))
    logger.error("Another thing failed")
    first, second = map(vars, caplog.records)
    assert first["webhook"].isprintable()
    assert (first["delivery"], first["event"], first["kind"]) == (str(uuid.UUID(int=1)), 7, "timeout")
    assert [second[name] for name in ("webhook", "delivery", "event", "kind")] == ["", "", None, ""]


def test_a_project_may_give_all_records_the_same_attributes(caplog: pytest.LogCaptureFixture) -> None:
    original = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = original(*args, **kwargs)
        record.event, record.webhook = "request", "the project's"
        return record

    logging.setLogRecordFactory(factory)
    try:
        get_logger("webhooks.test").error("It failed", extra=about(webhook="CMDB", event=7))
        get_logger("webhooks.test").error("Another thing failed")
    finally:
        logging.setLogRecordFactory(original)
    assert [(one["webhook"], one["event"]) for one in map(vars, caplog.records)] == [
        ("CMDB", 7), ("the project's", "request"),
    ]  # fmt: skip


def test_visible_text_stays_as_it_is() -> None:
    assert one_line("Rüm “日本” 😀 a\\nb") == "Rüm “日本” 😀 a\\nb"


def test_every_logger_of_the_app_keeps_records_on_one_line() -> None:
    package = Path(errors.__file__).parents[1]
    makers = [path for path in package.rglob("*.py") if "getLogger" in path.read_text()]
    assert makers == [package / "ground" / "errors.py"]
    users = [path for path in package.rglob("*.py") if "get_logger(__name__)" in path.read_text()]
    users = [path for path in users if "netbox" not in path.parts]  # which is not installed here
    assert len(users) >= 7
    for path in users:
        name = ".".join(path.relative_to(package.parent).with_suffix("").parts)
        import_module(name)
        assert any(isinstance(one, errors.OneLine) for one in logging.getLogger(name).filters)


PROGRAM = """
import logging, sys, django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "webhooks"], RQ_QUEUES={}, LOGGING=%s
)
django.setup()
logging.getLogger("webhooks.delivery").info("too quiet")
logging.getLogger("webhooks.delivery").warning("to whom it may concern")
if "late" in sys.argv:
    logging.basicConfig(format="ROOT %%(message)s")
    logging.getLogger("webhooks.delivery").warning("with the host's handler")
"""
HANDLER = {"version": 1, "handlers": {"one": {"class": "logging.StreamHandler"}}}


def log_of(settings: dict[str, Any], *arguments: str) -> list[str]:
    program = [sys.executable, "-c", PROGRAM % settings, *arguments]
    return subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stderr.splitlines()


def test_lines_have_a_time_in_a_project_without_logging() -> None:
    first, *others = log_of({}, "late")
    assert re.fullmatch(r"20\d\d-\d\d-\d\d [\d:,]+ WARNING webhooks\.delivery: to whom it may concern", first)
    assert others == ["ROOT with the host's handler"], "once, as soon as the project has a handler"


@pytest.mark.parametrize("name", ["root", "webhooks"])
def test_a_project_with_logging_formats_the_lines_itself(name: str) -> None:
    handlers = {"handlers": ["one"]}
    settings = HANDLER | ({"root": handlers} if name == "root" else {"loggers": {name: handlers}})
    assert log_of(settings) == ["to whom it may concern"]
