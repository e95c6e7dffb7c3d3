"""The examples on the page of the hooks run, and there is one for each hook."""

from __future__ import annotations

import logging
import re
import sys
from inspect import isfunction
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.core.cache import cache

from dcim.models import Site
from tests.support.draining import drain, finished, states
from tests.support.inbox import Inbox
from tests.support.makers import make_event, make_site_delivery, make_webhook
from users.models import User
from webhooks import hooks
from webhooks.delivery.sweep import Sweeper
from webhooks.hooks import Hooks
from webhooks.models import Attempt, Delivery, State, Sweep, Webhook
from webhooks.operations import runs
from webhooks.operations.webhooks import pause, resume, set_enabled

pytestmark = pytest.mark.usefixtures("database")

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "hooks.md").read_text()
EXAMPLES = [code for code in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL) if "import" in code]


@pytest.fixture
def example(webhooks_settings: Any, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """All examples of the page in one module, and their classes of hooks in the setting."""
    module = ModuleType("hooks_of_the_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for code in EXAMPLES:
        exec(compile(code, "docs/hooks.md", "exec"), vars(module))
    listed = [name for name, one in vars(module).items() if isinstance(one, type) and issubclass(one, Hooks)]
    paths = [f"{module.__name__}.{name}" for name in listed if name != "Hooks"]
    webhooks_settings(HOOKS=paths, HISTORY=f"{module.__name__}.record", RETRY_SCHEDULE=[])
    hooks._loaded.clear()
    return module


def test_each_hook_has_an_example_and_a_row(example: ModuleType) -> None:
    names = {name for name, one in vars(Hooks).items() if isfunction(one)}
    assert {name for name in names if hooks.listed(name)} == names
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == names


def test_payloads_have_the_keys_and_requests_the_headers(example: ModuleType, inbox: Inbox) -> None:
    make_webhook(Site, url=inbox.url(), name="CMDB")
    Site.objects.create(name="Amsterdam", slug="eu-ams1")
    drain()
    [received] = inbox.received()
    assert received.json["context"] == {"region": "eu"}
    assert len(received.headers["x-trace-id"]) == 32
    assert hooks.flush(20)
    assert example.counts == {"events dcim.site created": 1, "attempts CMDB ok": 1}


def test_a_freeze_stops_requests(example: ModuleType, inbox: Inbox) -> None:
    cache.set("freeze", True)
    try:
        make_event(make_webhook(Site, url=inbox.url()))
        drain()
    finally:
        cache.clear()
    assert states() == [State.FAILED]
    assert Attempt.objects.get().reason.endswith("ChangeFreeze.request_prepared: the network is frozen until Monday")
    assert inbox.received() == []


def test_alerts_are_logged(example: ModuleType, inbox: Inbox, redis: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "project.alerts")
    webhook, chosen = make_webhook(Site, url=inbox.url("status/503"), name="CMDB"), Webhook.objects.all()
    make_event(webhook)
    drain()
    user = User.objects.create_superuser("jane")
    pause(chosen, user)
    resume(chosen, user)
    set_enabled(chosen, user, enabled=False)
    finished(runs.start("discard", {}, takes_all=True))
    Sweeper().sweep()
    assert hooks.flush(20)
    make_site_delivery(webhook, State.FAILED)
    Sweep.objects.update(looked_at=None)
    Delivery.objects.all().delete()
    Webhook.objects.all().delete()
    Sweeper().sweep()
    assert hooks.flush(20)
    said = [record.getMessage() for record in caplog.records if record.name == "project.alerts"]
    for expected in (
        r"CMDB did not get delivery \S+: http_503", "jane paused CMDB", "CMDB gets its deliveries again",
        "CMDB is disabled: HTTP 503 Service Unavailable", r"Run \d+ \(discard\) is done: 1 rows",
        "No worker is running, so nothing is delivered. Start one:",
    ):  # fmt: skip
        assert any(re.fullmatch(expected, line) for line in said), (expected, said)
    assert any(line.startswith("Over: ") for line in said), said


def test_the_history_goes_to_the_callable(example: ModuleType) -> None:
    make_webhook(Site, name="CMDB")
    pause(Webhook.objects.all(), User.objects.create_superuser("jane"))
    assert example.audit == ["jane changed CMDB: Paused."]
