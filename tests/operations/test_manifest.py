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

from dcim.models import Site
from tests.support.makers import make_webhook
from users.models import User
from webhooks.ground import registry
from webhooks.models import Webhook
from webhooks.models.permissions import Operator
from webhooks.models.webhook import SETTINGS
from webhooks.operations import manifest, webhooks
from webhooks.operations.files import dump, parse

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


def plan(webhook: dict[str, Any], prunes: bool = False, **environment: str) -> list[manifest.Change]:
    return manifest.plan({"webhooks": [webhook]}, Operator("test"), prunes, environment)


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
    out = io.StringIO()
    with pytest.raises(SystemExit) as found:
        call_command("webhooks_apply", "--check", path, stdout=out)
    assert found.value.code == 1
    assert "1 webhook would change" in out.getvalue()
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


@pytest.mark.parametrize("text", ["", " \n", "\udcff"])
def test_a_variable_without_a_secret_is_refused_by_its_name(file: Path, text: str) -> None:
    for name in ("secret", "secret_headers"):
        with pytest.raises(manifest.InvalidFile, match=f"cmdb-sync: {name}: the environment variable CMDB is not"):
            plan(CMDB | {name: {"env": "CMDB"}}, CMDB=text)


@pytest.mark.parametrize("given", [None, "plain", {"env": 3}, {"env": "A", "b": 1}, ["A"]])
def test_a_secret_that_is_no_variable_is_refused_and_not_shown(given: Any) -> None:
    with pytest.raises(manifest.InvalidFile) as refused:
        plan(CMDB | {"secret": given}, A="hidden")
    assert "cmdb-sync: secret: write {env: NAME}" in str(refused.value)
    assert "plain" not in str(refused.value)


def test_blanks_around_a_secret_do_not_count(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMDB_SECRET", "first\n")
    monkeypatch.setenv("CMDB_HEADERS", "\nX-Token: one\r\nX-Other: two\r\n")
    path = write(file, CMDB | {"secret": {"env": "CMDB_SECRET"}, "secret_headers": {"env": "CMDB_HEADERS"}})
    run("webhooks_apply", "--noinput", path)
    assert Webhook.objects.get().secret.reveal() == "first"
    monkeypatch.setenv("CMDB_HEADERS", "X-Token: one\nX-Other: two")
    assert run("webhooks_apply", "--noinput", path) == "There is nothing to change.\n"


def test_a_wrong_secret_is_refused_and_not_shown(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("secret", "whsec_hidden!"), ("secret", "fernet:hidden"), ("secret_headers", "hidden")):
        monkeypatch.setenv("CMDB_SECRET", text)
        with pytest.raises(CommandError, match=f"cmdb-sync: {name}: ") as refused:
            run("webhooks_apply", "--noinput", write(file, CMDB | {name: {"env": "CMDB_SECRET"}}))
        assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [
        {"conditions": {}}, {"static_data": {}}, {"changed_fields": [" status", "status"]},
        {"excluded_usernames": ["bot ", "bot"]}, {"object_types": ["DCIM.Site", "dcim.site"]},
        {"name": " CMDB sync ", "description": "a\r\nb", "body_template": "{\r\n}\n\n"},
    ],
)  # fmt: skip
def test_a_second_run_changes_nothing_however_a_value_is_written(file: Path, given: dict[str, Any]) -> None:
    path = write(file, CMDB | given)
    run("webhooks_apply", "--noinput", path)
    assert run("webhooks_apply", "--noinput", path) == "There is nothing to change.\n"


def test_true_is_another_value_than_one(file: Path) -> None:
    run("webhooks_apply", "--noinput", write(file, CMDB | {"static_data": {"a": 1}}))
    assert "static_data" in run("webhooks_apply", "--noinput", write(file, CMDB | {"static_data": {"a": True}}))
    assert Webhook.objects.get().static_data == {"a": True}


def test_what_the_plan_has_checked_is_not_checked_while_rows_are_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    for one in (CMDB, CMDB | {"timeout": 9}):
        changes = plan(one)
        with monkeypatch.context() as patched:
            patched.setattr(webhooks, "check_webhook", None)
            manifest.apply(changes, Operator("test"))
    assert Webhook.objects.get().timeout == 9


def test_a_new_identifier_with_pruning_replaces_the_webhook(file: Path) -> None:
    run("webhooks_apply", "--noinput", write(file, CMDB))
    said = run("webhooks_apply", "--noinput", "--prune", write(file, CMDB | {"identifier": "cmdb"}))
    assert said.startswith("remove cmdb-sync\ncreate cmdb\n")
    assert Webhook.objects.get().identifier == "cmdb"


def test_a_name_of_a_webhook_that_stays_is_refused(file: Path) -> None:
    run("webhooks_apply", "--noinput", write(file, CMDB, DNS))
    taken = CMDB | {"name": "DNS"}
    with pytest.raises(CommandError, match="cmdb-sync: name: Webhook with this Name already exists"):
        run("webhooks_apply", "--noinput", write(file, taken))
    assert set(Webhook.objects.values_list("identifier", "name")) == {("cmdb-sync", "CMDB sync"), ("dns", "DNS")}


@pytest.mark.parametrize(
    "names", [("DNS", "IPAM", "Third"), ("DNS", "CMDB sync", "Third"), ("DNS", "Third", "CMDB sync")]
)
def test_names_can_be_handed_on_and_swapped(file: Path, names: tuple[str, ...]) -> None:
    given = [CMDB, DNS, DNS | {"identifier": "third", "name": "Third"}]
    run("webhooks_apply", "--noinput", write(file, *given))
    renamed = [one | {"name": name} for one, name in zip(given, names, strict=True)]
    run("webhooks_apply", "--noinput", write(file, *renamed))
    stored = dict(Webhook.objects.values_list("identifier", "name"))
    assert stored == {one["identifier"]: one["name"] for one in renamed}
    assert run("webhooks_apply", "--noinput", str(file)) == "There is nothing to change.\n"


def test_identifiers_that_differ_in_a_hyphen_export_different_variables() -> None:
    for identifier in ("a-b", "a_b"):
        make_webhook(Site, identifier=identifier, secret="s3cret of its own")
    exported = manifest.document(Webhook.objects.order_by("pk"))["webhooks"]
    variables = [one["secret"]["env"] for one in exported]
    assert variables == ["A_B_SECRET", f"A_B_SECRET_{Webhook.objects.latest('pk').pk}"]


@pytest.mark.parametrize("text", ["a\x85b", "a\n\x85b\n", "\u2028a\u2029\n"])
def test_every_line_break_of_unicode_survives_a_file(text: str) -> None:
    assert parse(dump({"text": text})) == {"text": text}


def test_a_removed_webhook_can_be_created_again_at_once(file: Path) -> None:
    path = write(file, CMDB)
    run("webhooks_apply", "--noinput", path)
    Webhook.objects.get().delete()
    assert run("webhooks_apply", "--noinput", path).startswith("create cmdb-sync\n")


def test_a_model_that_is_not_registered_any_more_changes_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(file, DNS)
    run("webhooks_apply", "--noinput", path)
    models = {label: one for label, one in registry.registered_models().items() if label != "dcim.rack"}
    monkeypatch.setattr(registry, "registered_models", lambda: models)
    monkeypatch.setattr(registry, "unregistered", lambda labels: sorted({*labels} - models.keys()))
    assert run("webhooks_apply", "--noinput", path) == "There is nothing to change.\n"
    run("webhooks_apply", "--noinput", write(file, DNS | {"timeout": 9}))
    assert {one.model for one in Webhook.objects.get().object_types.all()} == {"site", "rack"}


def test_enabled_stays_as_it_is_unless_the_file_names_it(file: Path) -> None:
    run("webhooks_apply", "--noinput", write(file, CMDB))
    Webhook.objects.update(enabled=False)
    assert run("webhooks_apply", "--noinput", write(file, CMDB)) == "There is nothing to change.\n"
    run("webhooks_apply", "--noinput", write(file, CMDB | {"enabled": True}))
    assert Webhook.objects.get().enabled


def test_all_mistakes_are_reported_at_once_and_nothing_is_saved(file: Path) -> None:
    wrong = DNS | {"timeout": "5", "object_types": "dcim.site", "paylod_url": "x", "secret": {"env": "NOT_SET_HERE"}}
    other = {"identifier": "other", "name": "Other", "object_types": ["dcim.nothing", "dcim.site"], "on_created": "yes"}
    more = other | {"payload_url": "ftp://example.com", "conditions": {"and": 3}, "timeout": 9999}
    with pytest.raises(CommandError) as refused:
        run("webhooks_apply", "--noinput", write(file, CMDB, wrong, {"name": "x"}, CMDB, more))
    said = str(refused.value)
    for problem in (
        "other: object_types: Not registered: dcim.nothing.\n",
        "other: on_created: it must be true or false.",
        "other: payload_url: Enter an http:// or https:// URL.",
        "other: conditions: ",
        "other: timeout: ",
        "dns: timeout: it must be a whole number.",
        "dns: object_types: it must be a list of texts.",
        "dns: paylod_url: there is no such setting. Did you mean payload_url?",
        "dns: secret: the environment variable NOT_SET_HERE is not set, or empty.",
        "Webhook 3 of the file needs an identifier",
        "cmdb-sync: two webhooks have this identifier.",
        "CMDB sync: two webhooks have this name.",
    ):
        assert problem in f"{said}\n"
    assert len(said.splitlines()) == 13, "one line for each mistake, and one before them"
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


@pytest.mark.one_database
@pytest.mark.parametrize("text", ["webhooks: [", "[]", "webhooks: {}", "a: 1", "webhooks: []\nothers: []", ""])
def test_a_file_that_is_none_is_refused(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(CommandError, match="cannot be applied") as refused:
        run("webhooks_apply", "--check", str(file))
    assert refused.value.returncode == 2


def test_a_file_that_cannot_be_read_is_no_difference(file: Path) -> None:
    file.write_bytes(b"\xff")
    for path in (file, file.with_name("missing.yaml")):
        with pytest.raises(CommandError) as refused:
            run("webhooks_apply", "--check", str(path))
        assert refused.value.returncode == 2


def test_nothing_changes_if_another_user_has_changed_a_webhook_since_the_plan(file: Path) -> None:
    run("webhooks_apply", "--noinput", write(file, CMDB, DNS))
    changes = plan(CMDB | {"timeout": 9}, prunes=True)
    Webhook.objects.filter(identifier="dns").update(timeout=77)
    with pytest.raises(manifest.StaleSettings):
        manifest.apply(changes, Operator("test"))
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


def full_of_settings(number: int) -> dict[str, Any]:
    """A webhook with a value in each setting."""
    odd = f"Øß 🚀 {number}: #no\t“”"
    return {
        "identifier": f"full-{number}", "name": f"Øß 🚀 {number}: #no “”", "description": f"{odd}\n  y: yes \n\n- ~",
        "payload_url": f"https://example.com/{number}?a={{{{ data.id }}}}", "object_types": ["dcim.rack", "dcim.site"],
        "on_created": True, "on_updated": True, "on_deleted": True, "custom_events": ["dcim.rack_audited"],
        "enabled": False, "secret": {"env": f"FULL_{number}_SECRET"},
        "secret_headers": {"env": f"FULL_{number}_SECRET_HEADERS"},
        "ssl_verification": True, "ca_file_path": "/etc/ssl/no.pem", "conditions": {"and": [
            {"attr": "name", "value": "2026-01-01"}, {"attr": "name", "op": "regex", "value": "^no$", "negate": True},
        ]},
        "changed_fields": ["name", "status"], "only_changes": True, "excluded_usernames": ["yes", "010"],
        "http_method": "PUT", "content_type": "text/plain; charset=utf-8", "body_template": "{{ data.name }}\n\n  x \n",
        "static_data": {"on": True, "y": [1, 1.5, None, "1e3", {"~": "🚀"}]}, "additional_headers": "X-A: 1\nX-B: 2\n",
        "prechange": True, "send_trace": True, "ordered": False, "timeout": 7,
    }  # fmt: skip


def test_what_is_exported_and_applied_on_an_empty_site_is_exported_again_as_the_same_text(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        monkeypatch.setenv(f"FULL_{number}_SECRET", "s3cret")
        monkeypatch.setenv(f"FULL_{number}_SECRET_HEADERS", "X-Token: s3cret")
    run("webhooks_apply", "--noinput", write(file, full_of_settings(1), full_of_settings(2)))
    assert {*SETTINGS} - full_of_settings(1).keys() == {"serializer"}  # the example has the default ones only
    make_webhook(Site, name="by hand: A!")
    make_webhook(Site, name="by hand: A?", body_template="{\r\n}")  # a form writes such line breaks
    for options in ((), ("--json",)):
        text = run("webhooks_export", *options)
        assert "s3cret" not in text
        assert "\\r" not in text
        Webhook.with_deleted.all().delete_rows()
        file.write_text(text)
        run("webhooks_apply", "--noinput", str(file))
        assert run("webhooks_export", *options) == text
        assert run("webhooks_apply", "--check", "--prune", str(file)) == "There is nothing to change.\n"
    assert Webhook.objects.count() == 4


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


@pytest.fixture
def copy(own_registrations: None) -> Webhook:
    """A webhook with a reserved identifier, as a plugin creates it."""
    registry.reserve_identifiers(registry.Reserved("plugin-", "copies of a plugin", ["payload_url"], "See the plugin."))
    return make_webhook(name="Copy", identifier="plugin-1")


def test_pruning_never_removes_a_webhook_with_a_reserved_identifier(file: Path, copy: Webhook) -> None:
    make_webhook(name="Other", identifier="other")
    assert run("webhooks_apply", "--noinput", "--prune", write(file)) == "remove other\nChanged 1 webhook.\n"
    assert Webhook.objects.get() == copy


def test_a_webhook_with_a_reserved_identifier_is_not_exported(file: Path, copy: Webhook, admin_client: Any) -> None:
    make_webhook(name="Other", identifier="other")
    chosen = {"action": "export", "_selected_action": [*Webhook.objects.values_list("pk", flat=True)]}
    page = admin_client.post("/admin/rq_webhooks/webhook/", chosen)
    for text in (run("webhooks_export"), page.content.decode()):
        assert [one["identifier"] for one in parse(text)["webhooks"]] == ["other"]
    for name in (copy.name, "plugin-1"):
        with pytest.raises(CommandError, match="No file can have the webhook “Copy”"):
            run("webhooks_export", name)


@pytest.mark.parametrize("identifier", ["plugin-1", "plugin-2"])
def test_a_file_with_a_reserved_identifier_is_refused(file: Path, copy: Webhook, identifier: str) -> None:
    path = write(file, CMDB | {"identifier": identifier})
    problem = f"{identifier}: Identifiers that begin with “plugin-” are reserved for copies of a plugin."
    with pytest.raises(CommandError, match=problem):
        run("webhooks_apply", "--noinput", path)
    assert Webhook.objects.get().name == "Copy"


def test_the_admin_exports_the_chosen_webhooks(admin_client: Any) -> None:
    chosen = make_webhook(name="chosen", secret="hidden")
    make_webhook(name="other")
    answer = admin_client.post("/admin/rq_webhooks/webhook/", {"action": "export", "_selected_action": [chosen.pk]})
    assert answer["Content-Type"] == "application/yaml"
    [item] = yaml.safe_load(answer.content)["webhooks"]
    assert (item["name"], item["secret"]) == ("chosen", {"env": "WEBHOOK_CHOSEN_SECRET"})


def test_the_admin_exports_no_webhook_that_the_user_may_not_change(client: Any) -> None:
    webhook = make_webhook(name="chosen", additional_headers="X-Token: hidden")
    viewer = User.objects.create_user("viewer", is_staff=True)
    client.force_login(viewer)
    answer = client.post("/admin/rq_webhooks/webhook/", {"action": "export", "_selected_action": [webhook.pk]})
    assert b"hidden" not in answer.content
