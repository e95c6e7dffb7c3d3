"""Settings: typed, live and validated. And the start of the app."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from django.test import override_settings

from tests.support.inbox import ROOT
from webhooks.ground.conf import conf

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


NETWORKS = 'must be a list of networks such as "10.0.0.0/8" (no bits set after the prefix) and addresses, not {}'
HOSTS = 'must be a list of hosts such as "hooks.example.com" or "*.example.com", others than ASCII as xn--, not {}'
PORTS = 'must be a list of ports such as 443 or "8000-8999", not {}'
PROXY = 'must be the URL of an HTTP proxy such as "http://proxy:3128", or ""'
AGENT = "must be a text of visible ASCII characters, not {}"
RETRIES = "must be a list of numbers of seconds, up to 100 years, [] for no retries, not {}"
SECONDS = "must be a number of seconds from 1 to 120, not {}"
POSITIVE = "must be a number of seconds above 0, up to 100 years, not {}"
PROBES = "must be a list of numbers of seconds above 0, up to 100 years, at least one, not {}"
DAYS = "must be a number of days, up to 100 years, 0 for none, not {}"
COUNT = "must be a whole number above 0, not {}"
LABELS = 'must be a list of labels such as "dcim.site" or "dcim.*", or "*" for all apps, not {}'
RETENTION = "must map succeeded, failed or discarded to a number of days above 0, up to 100 years, not {}"


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("ENABLED", "yes", "must be True or False, not 'yes'"),
        ("QUEUE", None, "must be a text, not None"),
        ("USER_AGENT", "a\r\nHost: b", AGENT), ("USER_AGENT", "Склад", AGENT),
        ("MODELS", "dcim.*", LABELS), ("MODELS", ["dcim"], LABELS),
        ("RETRY_SCHEDULE", 5, RETRIES), ("RETRY_SCHEDULE", ["5"], RETRIES), ("RETRY_SCHEDULE", [5, -1], RETRIES),
        ("RETRY_JITTER", 2, "must be a number from 0 to 1, not 2"),
        ("TIMEOUT", 0, SECONDS), ("TIMEOUT", 121, SECONDS), ("TIMEOUT", True, SECONDS),
        ("SENDERS", 0, COUNT), ("SENDERS", 1.5, COUNT),
        ("LEASE", 0, POSITIVE), ("LEASE", -1, POSITIVE), ("LEASE", float("inf"), POSITIVE),
        ("LANE_WAIT", 1e10, POSITIVE),
        ("RETRY_SCHEDULE", [5, float("inf")], RETRIES), ("PROBE_SCHEDULE", [60, float("inf")], PROBES),
        ("PROBE_SCHEDULE", [], PROBES), ("SKIP_DAYS", 1_000_000, DAYS), ("SKIP_DAYS", float("nan"), DAYS),
        ("RETENTION_DAYS", {"waiting": 1}, RETENTION), ("RETENTION_DAYS", {"failed": 0}, RETENTION),
        ("RETENTION_DAYS", [], RETENTION), ("RETENTION_DAYS", {"failed": float("inf")}, RETENTION),
        ("DENY_NETWORKS", ["10.0.0.0/33"], NETWORKS), ("DENY_NETWORKS", ["10.0.0.1/8"], NETWORKS),
        ("ALLOW_NETWORKS", "127.0.0.0/8", NETWORKS), ("ALLOW_NETWORKS", [2130706433], NETWORKS),
        ("ALLOW_NETWORKS", ["localhost"], NETWORKS),
        ("ALLOW_HOSTS", ["bücher.example"], HOSTS), ("DENY_HOSTS", "*", HOSTS), ("DENY_HOSTS", [1], HOSTS),
        ("ALLOW_PORTS", [0], PORTS), ("ALLOW_PORTS", ["9000-8000"], PORTS), ("DENY_PORTS", [65536], PORTS),
        ("DENY_PORTS", ["22"], PORTS), ("DENY_PORTS", [None], PORTS),
        ("ALLOW_SCHEMES", ["https", "ftp"], 'must be a list of "https" and "http", not {}'),
        ("PROXY", "https://me:secret@proxy:3128", PROXY), ("PROXY", "http://proxy:3128/path", PROXY),
        ("PROXY", "http://proxy:0", PROXY), ("PROXY", "http://proxy:port", PROXY), ("PROXY", "proxy:3128", PROXY),
        ("PROXY", None, PROXY),
    ],
)  # fmt: skip
def test_an_invalid_value_is_reported_with_its_key_and_the_default_is_used(key: str, value: Any, problem: str) -> None:
    with override_settings(WEBHOOKS={key: value}):
        assert conf.invalid_values() == [(key, problem.format(repr(value)))]
        used = getattr(conf, key.lower())
    with override_settings(WEBHOOKS={}):
        assert used == getattr(conf, key.lower())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODELS", ["*"]), ("MODELS", []), ("RETRY_SCHEDULE", []),
        ("SKIP_DAYS", 36_500), ("DISABLE_AFTER", 36_500 * 86_400), ("SKIPS_PER_WEBHOOK", 10**12),
        ("ALLOW_NETWORKS", ["127.0.0.1", "10.0.0.0/8", "::1", "fd00::/8"]),
        ("ALLOW_HOSTS", ["*.example.com", "hooks", "10.0.0.1", "::1"]), ("DENY_PORTS", [22, "1-1023", "65535-65535"]),
        ("ALLOW_SCHEMES", ["https"]), ("PROXY", "http://me:secret@proxy.example:3128/"), ("PROXY", "http://[::1]:3128"),
        ("PROXY", ""),
    ],
)  # fmt: skip
def test_a_valid_value_is_used(key: str, value: Any) -> None:
    with override_settings(WEBHOOKS={key: value}):
        assert conf.invalid_values() == []
        assert getattr(conf, key.lower()) == value


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
def print_receivers(): print([receivers(signal) for signal in (signals.post_save, signals.pre_delete)])
print_receivers()
from django.apps import apps
from django.conf import settings
settings.WEBHOOKS["ENABLED"] = True
apps.get_app_config("rq_webhooks").ready()
print_receivers()
"""


def test_the_app_starts_without_a_query_and_connects_no_receiver_while_webhooks_are_off() -> None:
    assert run_python(COUNT, WEBHOOKS_ENABLED="0").splitlines() == ["[0, 0]", "[2, 1]"]


def test_the_package_can_be_imported_before_the_apps_are_ready() -> None:
    code = "import webhooks; print(sorted(webhooks.__all__)); import django.apps; print(django.apps.apps.ready)"
    assert run_python(code).splitlines()[-1] == "False"


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    import webhooks

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        webhooks.nothing  # noqa: B018
