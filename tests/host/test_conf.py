"""Settings: typed, live and validated. And the start of the app."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from django.test import override_settings

from tests.support.inbox import ROOT
from webhooks.conf import conf

DEFAULTS = {
    "enabled": False, "queue": "webhooks", "timeout": 10, "lease": 15, "lane_wait": 3600, "redis_timeout": 0.1,
    "response_bytes": 8192, "retry_schedule": (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400),
    "retention_days": {"succeeded": 30, "failed": 90, "discarded": 30}, "disable_after": 5 * 86400,
}  # fmt: skip


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("value", [{}, None])
def test_every_setting_has_a_default(name: str, value: Any) -> None:
    with override_settings(WEBHOOKS=value):
        assert getattr(conf, name) == DEFAULTS[name]


def test_settings_are_read_live() -> None:
    with override_settings(WEBHOOKS={"TIMEOUT": 3}):
        assert conf.timeout == 3
        with override_settings(WEBHOOKS={"TIMEOUT": 4}):
            assert conf.timeout == 4
        assert conf.timeout == 3


def test_retention_may_be_given_for_some_states_only() -> None:
    with override_settings(WEBHOOKS={"RETENTION_DAYS": {"failed": 365}}):
        assert conf.retention_days == {"succeeded": 30, "failed": 365, "discarded": 30}


def test_the_error_of_a_setting_that_is_not_a_dictionary_hides_its_value() -> None:
    with override_settings(WEBHOOKS=({"ENCRYPTION_KEYS": ["planted"]},)):  # a comma after the brace
        assert conf.invalid_values() == [("", "must be a dictionary, not a tuple")]


def test_misspelt_keys_are_found() -> None:
    with override_settings(WEBHOOKS={"ENABLED": True, "RETRY_SHEDULE": [], "TIME_OUT": 3}):
        assert conf.unknown_keys == ["RETRY_SHEDULE", "TIME_OUT"]


def test_unknown_keys_that_are_not_text_are_found_too() -> None:
    with override_settings(WEBHOOKS={"TIME_OUT": 3, 5: 6}):
        assert conf.unknown_keys == ["5", "TIME_OUT"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ENABLED", "yes"), ("MODELS", "dcim.*"), ("MODELS", ["dcim"]), ("RETRY_SCHEDULE", 5),
        ("RETRY_SCHEDULE", ["5"]), ("RETRY_SCHEDULE", [-1]), ("RETRY_JITTER", 2), ("TIMEOUT", 0), ("TIMEOUT", 121),
        ("TIMEOUT", True), ("SENDERS", 0), ("SENDERS", 1.5), ("LEASE", -1), ("RETENTION_DAYS", {"waiting": 1}),
        ("RETENTION_DAYS", {"failed": 0}), ("QUEUE", None),
    ],
)  # fmt: skip
def test_an_invalid_value_is_reported_with_its_key(key: str, value: Any) -> None:
    with override_settings(WEBHOOKS={key: value}):
        [(reported, problem)] = conf.invalid_values()
    assert reported == key
    assert repr(value) in problem


def test_models_may_be_an_asterisk() -> None:
    with override_settings(WEBHOOKS={"MODELS": ["*"]}):
        assert conf.invalid_values() == []


@pytest.mark.parametrize("key", ["RETRY_SCHEDULE", "MODELS"])
def test_empty_lists_are_valid(key: str) -> None:
    with override_settings(WEBHOOKS={key: []}):
        assert conf.invalid_values() == []


def run_python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'example'}", "DJANGO_SETTINGS_MODULE": "tests.settings", **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


COUNT = """
import django
from django.db.backends.utils import CursorWrapper
def refuse(*args, **kwargs): raise AssertionError('a query in ready()')
CursorWrapper.execute = refuse
django.setup()
from django.db.models import signals
from dcim.models import Site
def receivers(signal): return sum(len(part) for part in signal._live_receivers(Site)[:2])
print([receivers(signal) for signal in (signals.post_save, signals.pre_delete)])
"""


def test_the_app_starts_without_a_query_and_connects_no_receiver_while_webhooks_are_off() -> None:
    assert run_python(COUNT, WEBHOOKS_ENABLED="0") == "[0, 0]"
    assert run_python(COUNT, WEBHOOKS_ENABLED="1") == "[1, 1]"


def test_the_package_can_be_imported_before_the_apps_are_ready() -> None:
    code = "import webhooks; print(sorted(webhooks.__all__)); import django.apps; print(django.apps.apps.ready)"
    assert run_python(code).splitlines()[-1] == "False"


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    import webhooks

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        webhooks.nothing  # noqa: B018
