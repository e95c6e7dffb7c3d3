"""Webhooks in a file of the project: ``webhooks_apply``, ``webhooks_export`` and the admin's export."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from django.contrib.admin.models import LogEntry
from django.core.management import CommandError, call_command

from tests.support.makers import make_webhook
from users.models import User
from webhooks.models import Webhook
from webhooks.models.webhook import SETTINGS
from webhooks.operations import manifest
from webhooks.operations.files import dump, parse
from webhooks.permissions import Operator

pytestmark = pytest.mark.django_db

CMDB: dict[str, Any] = {
    "identifier": "cmdb-sync",
    "name": "CMDB sync",
    "payload_url": "https://cmdb.example.com/hooks",
    "object_types": ["dcim.site"],
    "on_updated": True,
    "timeout": 5,
    "body_template": "{\n  {{ data.name }}\n}",
}
DNS = CMDB | {"identifier": "dns", "name": "DNS", "object_types": ["dcim.site", "dcim.rack"]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "webhooks.yaml"


def write(file: Path, *webhooks: dict[str, Any]) -> str:
    file.write_text(dump({"webhooks": list(webhooks)}))
    return str(file)


def run(command: str, *arguments: str) -> str:
    out = io.StringIO()
    call_command(command, *arguments, stdout=out)
    return out.getvalue()


def test_a_file_creates_webhooks_and_a_second_run_changes_nothing(file: Path) -> None:
    path = write(file, CMDB, DNS)
    assert run("webhooks_apply", "--noinput", path) == "create cmdb-sync\ncreate dns\nChanged 2 webhooks.\n"
    webhook = Webhook.objects.get(identifier="cmdb-sync")
    assert (webhook.name, webhook.timeout, webhook.on_updated, webhook.on_created) == ("CMDB sync", 5, True, False)
    assert webhook.body_template == CMDB["body_template"]
    updated = webhook.last_updated
    assert run("webhooks_apply", "--noinput", path) == "There is nothing to change.\n"
    webhook.refresh_from_db()
    assert webhook.last_updated == updated


def test_a_change_names_the_settings_and_resets_what_the_file_leaves_out(file: Path) -> None:
    run("webhooks_apply", "--noinput", write(file, CMDB))
    changed = {name: value for name, value in CMDB.items() if name != "timeout"} | {"object_types": ["dcim.rack"]}
    said = run("webhooks_apply", "--noinput", write(file, changed))
    assert said.startswith("change cmdb-sync: object_types, timeout\n")
    webhook = Webhook.objects.get()
    assert (webhook.timeout, [one.model for one in webhook.object_types.all()]) == (None, ["rack"])


def test_a_check_changes_nothing_and_fails_if_something_would_change(file: Path) -> None:
    path = write(file, CMDB)
    with pytest.raises(CommandError, match="1 webhook would change"):
        run("webhooks_apply", "--check", path)
    assert not Webhook.objects.exists()
    run("webhooks_apply", "--noinput", path)
    assert run("webhooks_apply", "--check", path) == "There is nothing to change.\n"


def test_pruning_removes_webhooks_with_other_identifiers_and_no_others(file: Path) -> None:
    run("webhooks_apply", "--noinput", write(file, CMDB, DNS))
    make_webhook(name="by hand")
    assert "remove dns" in run("webhooks_apply", "--noinput", "--prune", write(file, CMDB))
    assert set(Webhook.objects.values_list("name", flat=True)) == {"CMDB sync", "by hand"}


def test_without_pruning_other_webhooks_stay(file: Path) -> None:
    run("webhooks_apply", "--noinput", write(file, CMDB, DNS))
    assert run("webhooks_apply", "--noinput", write(file, CMDB)) == "There is nothing to change.\n"
    assert Webhook.objects.count() == 2


def test_a_webhook_with_the_same_name_and_no_identifier_gets_it(file: Path) -> None:
    webhook = make_webhook(name="CMDB sync")
    run("webhooks_apply", "--noinput", write(file, CMDB))
    assert Webhook.objects.get().pk == webhook.pk
    assert Webhook.objects.get().identifier == "cmdb-sync"


def test_secrets_come_from_the_environment_and_stay_if_left_out(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signed = CMDB | {"secret": {"env": "CMDB_SECRET"}}
    monkeypatch.setenv("CMDB_SECRET", "first")
    run("webhooks_apply", "--noinput", write(file, signed))
    assert Webhook.objects.get().secret.reveal() == "first"
    assert run("webhooks_apply", "--noinput", write(file, signed)) == "There is nothing to change.\n"
    assert run("webhooks_apply", "--noinput", write(file, CMDB)) == "There is nothing to change.\n"
    monkeypatch.setenv("CMDB_SECRET", "second")
    said = run("webhooks_apply", "--noinput", write(file, signed))
    assert "change cmdb-sync: secret\n" in said
    assert "second" not in said
    assert Webhook.objects.get().secret.reveal() == "second"
    run("webhooks_apply", "--noinput", write(file, CMDB | {"secret": ""}))
    assert not Webhook.objects.get().secret


def test_enabled_stays_as_it_is_unless_the_file_names_it(file: Path) -> None:
    run("webhooks_apply", "--noinput", write(file, CMDB))
    Webhook.objects.update(enabled=False)
    assert run("webhooks_apply", "--noinput", write(file, CMDB)) == "There is nothing to change.\n"
    run("webhooks_apply", "--noinput", write(file, CMDB | {"enabled": True}))
    assert Webhook.objects.get().enabled


def test_all_mistakes_are_reported_at_once_and_nothing_is_saved(file: Path) -> None:
    wrong = DNS | {"timeout": "5", "object_types": "dcim.site", "paylod_url": "x", "secret": {"env": "NOT_SET_HERE"}}
    with pytest.raises(CommandError) as refused:
        run("webhooks_apply", "--noinput", write(file, CMDB, wrong, {"name": "x"}, CMDB))
    said = str(refused.value)
    for problem in (
        "dns: timeout: it must be a whole number.",
        "dns: object_types: it must be a list of texts.",
        "dns: paylod_url: there is no such setting. Did you mean payload_url.",
        "dns: secret: the environment variable NOT_SET_HERE is not set.",
        "Webhook 3 of the file needs an identifier",
        "cmdb-sync: two webhooks have this identifier.",
    ):
        assert problem in said
    assert not Webhook.objects.exists()


def test_values_are_checked_as_in_the_admin(file: Path) -> None:
    wrong = DNS | {"payload_url": "ftp://example.com", "object_types": ["dcim.nothing"]}
    unnamed = CMDB | {"identifier": "CMDB!", "conditions": {"and": 3}}
    with pytest.raises(CommandError) as refused:
        run("webhooks_apply", "--noinput", write(file, unnamed, wrong))
    said = str(refused.value)
    assert "dns: object_types: Not registered: dcim.nothing." in said
    assert "CMDB!: identifier: Begin with a small letter" in said
    assert "CMDB!: conditions: " in said
    assert not Webhook.objects.exists()


@pytest.mark.parametrize("text", ["webhooks: [", "[]", "webhooks: {}", "a: 1", "webhooks: []\nothers: []", ""])
def test_a_file_that_is_none_is_refused(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(CommandError, match="cannot be applied"):
        run("webhooks_apply", "--noinput", str(file))


def test_nothing_changes_if_another_user_has_changed_a_webhook_since_the_plan(file: Path) -> None:
    run("webhooks_apply", "--noinput", write(file, CMDB, DNS))
    operator = Operator("test")
    declared = manifest.read({"webhooks": [CMDB | {"timeout": 9}]})
    changes = manifest.plan(declared, operator, prunes=True)
    Webhook.objects.filter(identifier="dns").update(timeout=77)
    with pytest.raises(manifest.StaleSettings):
        manifest.apply(changes, operator)
    assert set(Webhook.objects.values_list("identifier", "timeout")) == {("cmdb-sync", 5), ("dns", 77)}


def test_the_history_has_the_given_name(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    run("webhooks_apply", "--noinput", "--user", "release 4.2", write(file, CMDB))
    assert "History: release 4.2 added webhook “CMDB sync”" in caplog.text
    assert not LogEntry.objects.exists()


def test_an_exported_file_changes_nothing_where_it_comes_from(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMDB_SYNC_SECRET", "hidden")
    full = CMDB | {
        "description": "two\nlines", "conditions": {"and": [{"attr": "name", "value": "x"}]}, "ordered": False,
        "excluded_usernames": ["bot"], "secret": {"env": "CMDB_SYNC_SECRET"},
    }  # fmt: skip
    run("webhooks_apply", "--noinput", write(file, full, DNS))
    for options in ((), ("--json",)):
        text = run("webhooks_export", *options)
        assert "hidden" not in text
        file.write_text(text)
        assert run("webhooks_apply", "--check", "--prune", str(file)) == "There is nothing to change.\n"


def test_a_webhook_without_an_identifier_is_exported_with_one_from_its_name() -> None:
    make_webhook(name="Ledger of Sites")
    [item] = parse(run("webhooks_export"))["webhooks"]
    assert item["identifier"] == "webhook-ledger-of-sites"


def test_every_setting_is_in_the_schema_and_it_accepts_what_is_exported() -> None:
    schema = json.loads(run("webhooks_export", "--schema"))
    item = schema["properties"]["webhooks"]["items"]
    assert list(item["properties"]) == list(SETTINGS)
    jsonschema.validate({"webhooks": [CMDB, DNS | {"secret": {"env": "A"}}]}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"webhooks": [CMDB | {"timeout": "5"}]}, schema)


def test_the_admin_exports_the_chosen_webhooks(admin_client: Any) -> None:
    chosen = make_webhook(name="chosen", secret="hidden")
    make_webhook(name="other")
    answer = admin_client.post(
        "/admin/rq_webhooks/webhook/", {"action": "export", "_selected_action": [chosen.pk]}
    )
    assert answer["Content-Type"] == "application/yaml"
    [item] = yaml.safe_load(answer.content)["webhooks"]
    assert (item["name"], item["secret"]) == ("chosen", {"env": "WEBHOOK_CHOSEN_SECRET"})


def test_the_admin_exports_no_webhook_that_the_user_may_not_change(client: Any) -> None:
    webhook = make_webhook(name="chosen", additional_headers="X-Token: hidden")
    viewer = User.objects.create_user("viewer", is_staff=True)
    client.force_login(viewer)
    answer = client.post("/admin/rq_webhooks/webhook/", {"action": "export", "_selected_action": [webhook.pk]})
    assert b"hidden" not in answer.content
