"""``manage.py webhooks_import``, with captured responses of NetBox and Nautobot."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.admin.models import LogEntry
from django.core.management import CommandError, call_command
from django.db import connection, router, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.makers import make_webhook
from tests.testapp.models import Thing
from users.models import User
from webhooks.management import imports
from webhooks.management.imports import (
    ESCAPING,
    Plan,
    Responses,
    Skipped,
    UnreadableSource,
    preview,
    read,
    translate,
)
from webhooks.models import Webhook

CAPTURED = Path(__file__).parents[1] / "captured"
NETBOX = [str(CAPTURED / "netbox_webhooks.json"), str(CAPTURED / "netbox_event_rules.json")]
NAUTOBOT = str(CAPTURED / "nautobot_webhooks.json")
TOKEN = "t0p-s3cret-token"

# The models of NetBox that the example project has.
HERE = {
    *("circuits.circuit", "circuits.provider", "dcim.device", "dcim.interface", "dcim.rack", "dcim.site"),
    *("ipam.aggregate", "ipam.ipaddress", "ipam.prefix", "ipam.service", "ipam.vlan", "ipam.vlangroup", "ipam.vrf"),
    *("tenancy.tenant", "tenancy.tenantgroup", "virtualization.cluster", "virtualization.virtualmachine"),
}


def captured(name: str) -> Any:
    return json.loads((CAPTURED / name).read_text())


def responses(*items: Any) -> Responses:
    found = Responses()
    for item in items:
        found.add(item, "test")
    return found


def planned(found: Responses) -> tuple[dict[str, Plan], dict[str, str]]:
    """Plans by name, and the reasons of skipped ones by origin."""
    made = list(translate(found, HERE))
    return (
        {one.name: one for one in made if isinstance(one, Plan)},
        {one.origin: one.reason for one in made if isinstance(one, Skipped)},
    )


def run(*arguments: str, **options: Any) -> str:
    out = io.StringIO()
    call_command("webhooks_import", *arguments, stdout=out, **options)
    return out.getvalue()


# Translation


def test_each_event_rule_of_netbox_becomes_one_webhook() -> None:
    made, _ = planned(read(NETBOX))
    assert len(made) == 13
    cmdb = made["CMDB: devices and racks"]
    assert cmdb.origin == 'event rule "CMDB: devices and racks" with webhook "CMDB sync (PUT, templated URL)"'
    assert cmdb.object_types == ("dcim.device", "dcim.interface", "dcim.rack")
    assert cmdb.fields == {
        "name": "CMDB: devices and racks",
        "enabled": True,
        "on_created": True,
        "on_updated": True,
        "on_deleted": True,
        "conditions": {"attr": "status.value", "value": "active"},
        "payload_url": "https://cmdb.example/api/{{ object_type | replace('.', '/') }}/{{ data.id }}",
        "http_method": "PUT",
        "content_type": "application/json",
        "additional_headers": "X-Object: {{ data.name | header_safe }}\nX-Event: {{ event }}",
        "secret_headers": "Authorization: Token cmdb-test-value",
        "body_template": '{"id": {{ data.id }}, "name": {{ data.name | tojson }}, "event": "{{ event }}"}',
        "secret": "cmdb-s3cret",
        "ssl_verification": True,
        "ca_file_path": "",
        "timeout": 15,
        "prechange": True,
        "description": "Mirror",
        "static_data": None,
    }
    assert cmdb.differences == (
        "headers that become secret ones, which are not shown again: Authorization",
        "left out: owner, tags, custom fields",
    )
    assert {name for name, plan in made.items() if plan.fields["payload_url"] == "https://receiver.example/netbox"} == {
        "Every common object type", "Everything about sites",
    }  # fmt: skip
    assert not made["Legacy ESB (disabled)"].fields["enabled"]


def test_settings_without_an_equivalent_are_reported() -> None:
    made, skipped = planned(read(NETBOX))
    assert skipped == {
        'event rule "Empty object conditions"': "none of its models is registered here: dcim.region, dcim.sitegroup",
        'event rule "Jobs: all job events"': "none of its models is registered here: core.datasource, extras.script",
        'event rule "Notify NOC on circuit loss"': "its action is a notification: "
        "only webhooks have an equivalent here",
        'event rule "Run a script on new sites"': "its action is a script: only webhooks have an equivalent here",
        'event rule "Script with action data (disabled)"': "its action is a script: "
        "only webhooks have an equivalent here",
        'event rule "Webhook with action data"': "none of its models is registered here: dcim.devicetype, "
        "dcim.manufacturer",
        'webhook "Unused webhook ☂"': "no event rule uses it",
    }
    assert made["Jobs: object and job events mixed"].differences == (
        "not registered here: core.datasource",
        "event types: job_completed",
    )
    assert made["Plain text"].differences == ("not registered here: ipam.asn, vpn.tunnel, wireless.wirelesslan",)


def test_a_webhook_of_nautobot_has_its_own_models_and_actions() -> None:
    made, skipped = planned(read([NAUTOBOT]))
    assert list(made) == ["03 several types, PUT, CA path", "16 many types, update only"]
    assert skipped['webhook "17 no content types"'] == "it names no models"
    assert skipped['webhook "06 GET, delete only"'] == "none of its models is registered here: dcim.manufacturer"
    assert len(skipped) == 15
    put = made["03 several types, PUT, CA path"]
    assert put.object_types == ("dcim.device", "dcim.interface", "ipam.ipaddress", "ipam.prefix")
    assert put.differences == (
        "not registered here: dcim.manufacturer, extras.role",
        "headers that become secret ones, which are not shown again: Authorization",
        ESCAPING,
    )
    fields = put.fields
    assert (fields["on_created"], fields["on_updated"], fields["on_deleted"]) == (True, True, False)
    assert (fields["http_method"], fields["content_type"]) == ("PUT", "application/xml")
    assert (fields["ca_file_path"], fields["secret"]) == ("/opt/nautobot/tls/ca.crt", "another-secret")


def test_all_webhooks_of_nautobot_are_translated_if_their_models_are_registered() -> None:
    everywhere = {label for item in captured("nautobot_webhooks.json")["results"] for label in item["content_types"]}
    made = [one for one in translate(read([NAUTOBOT]), everywhere) if isinstance(one, Plan)]
    assert len(made) == 16
    auth = next(one for one in made if one.name.startswith("10 "))
    assert auth.fields["payload_url"] == "http://receiver.example:9099/h10/auth"
    assert auth.fields["additional_headers"] == ""
    assert auth.fields["secret_headers"] == "Authorization: Basic aG9vazpwYTU1"
    user = "the user and password in its URL: they become a secret header, Authorization"
    assert auth.differences == (user, ESCAPING)
    plain = next(one for one in made if one.name.startswith("01 "))
    assert plain.differences == ("snapshots.differences: only templates have it, and this one sends the plain payload",)
    template = next(one for one in made if one.name.startswith("02 "))
    assert (template.fields["body_template"].count("differences"), template.differences) == (2, (ESCAPING,))
    form = next(one for one in made if one.name.startswith("07 "))
    assert form.fields["additional_headers"] == "X-Two: {{ data.name | upper }}"
    assert form.fields["secret_headers"] == "X-Token: t0ken"
    of_headers = next(one for one in made if one.name.startswith("11 "))
    assert (of_headers.fields["body_template"], of_headers.differences[-1]) == ("", ESCAPING)
    without_template = next(one for one in made if one.name.startswith("16 "))
    assert ESCAPING not in without_template.differences


def test_templates_of_netbox_need_no_note_about_escaping() -> None:
    made, _ = planned(read(NETBOX))
    assert any("{{" in one.fields["body_template"] for one in made.values())
    assert not any(ESCAPING in one.differences for one in made.values())


WEBHOOK = {"id": 1, "name": "hook", "payload_url": "https://h.example/", "secret": ""}
RULE = {
    "id": 1,
    "name": "rule",
    "object_types": ["dcim.site"],
    "event_types": ["object_created"],
    "action_type": {"value": "webhook", "label": "Webhook"},
    "action_object_id": 1,
}


@pytest.mark.parametrize(
    ("rule", "webhook", "reason"),
    [
        ({"action_object_id": 9}, {}, "its webhook 9 is missing in the responses"),
        ({"action_object_id": [1]}, {}, "its webhook [1] is missing in the responses"),
        ({"action_type": None}, {}, "its action is not given"),
        ({"event_types": ["job_started"]}, {}, "none of its event types has an equivalent here: job_started"),
        ({"event_types": []}, {}, "none of its event types has an equivalent here: there are none"),
        ({"object_types": []}, {}, "it names no models"),
    ],
)
def test_a_skipped_rule_has_a_reason(rule: Any, webhook: Any, reason: str) -> None:
    made, skipped = planned(responses(WEBHOOK | webhook, RULE | rule))
    assert not made
    assert reason in next(reason for origin, reason in skipped.items() if origin.startswith("event rule"))


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("conditions", "reason"),
    [
        ({"nope": 1}, "nope: a condition has no 'nope'"),
        ({"attr": "name", "op": "regex", "value": "("}, "value: "),
        (
            {"attr": "snapshots.prechange.status", "op": "changed"},
            "attr: 'changed' looks into both snapshots by itself; write 'status'",
        ),
    ],
)
def test_a_rule_with_conditions_that_are_refused_is_skipped(conditions: Any, reason: str) -> None:
    [skipped] = preview(responses(WEBHOOK, RULE | {"conditions": conditions})).skipped
    assert skipped.reason.startswith(f"refused: conditions: {reason}")


@pytest.mark.parametrize(
    ("lines", "additional", "secret"),
    [
        ("", "", ""),
        ("X-A: 1\r\nauthorization: Bearer abc\r\nX-B: 2", "X-A: 1\nX-B: 2", "authorization: Bearer abc"),
        ("X-Api-Key: a\nCookie: b=c\nX-Auth: d", "", "X-Api-Key: a\nCookie: b=c\nX-Auth: d"),
        ("PRIVATE-TOKEN: a\nX-Vault-Token: b", "", "PRIVATE-TOKEN: a\nX-Vault-Token: b"),
        ("X-Token: first\nx-token: second", "", "x-token: second"),
        ("Authorization: Token {{ data.id }}", "Authorization: Token {{ data.id }}", ""),
        ("X-Token: {{ unended", "X-Token: {{ unended", ""),
        ("X-Token: ", "X-Token:", ""),
        ("X-Token: ä", "X-Token: ä", ""),
        ("Authorization : a", "", "Authorization : a"),
        ("X-Monkey: a\nX-Author: b\nX-Keyboard: c", "X-Monkey: a\nX-Author: b\nX-Keyboard: c", ""),
        (
            "X-Token: a\n{% if data.b %}\nX-Key: b\n\nno colon\n{% else %}\nCookie: c\n{% endif %}\nX-Api-Key: d",
            "{% if data.b %}\nX-Key: b\n\nno colon\n{% else %}\nCookie: c\n{% endif %}",
            "X-Token: a\nX-Api-Key: d",
        ),
        ("{# X-Token: a\nX-Token: b\n#}X-Key: c", "{# X-Token: a\nX-Token: b\n#}X-Key: c", ""),
    ],
)  # fmt: skip
def test_headers_with_credentials_become_secret_headers(lines: str, additional: str, secret: str) -> None:
    made, _ = planned(responses(WEBHOOK | {"additional_headers": lines}, RULE))
    plan = made["rule"]
    assert (plan.fields["additional_headers"], plan.fields["secret_headers"]) == (additional, secret)
    told = "headers that become secret ones, which are not shown again: "
    names = [line.partition(":")[0].strip() for line in secret.split("\n")]
    assert plan.differences == ((told + ", ".join(names),) if secret else ())


def test_the_user_in_a_url_replaces_an_authorization_header() -> None:
    webhook = {"payload_url": "https://u:p@h.example/", "additional_headers": "AUTHORIZATION: Bearer a"}
    made, _ = planned(responses(WEBHOOK | webhook, RULE))
    assert made["rule"].fields["secret_headers"] == "Authorization: Basic dTpw"
    assert made["rule"].fields["additional_headers"] == ""


def test_a_header_line_without_a_colon_is_left_out_and_reported_by_number() -> None:
    lines = "X-A: 1\nt0ken\n\n  X-B {{ data.id }}: 2\n\tother\nX-C: 3"
    made, _ = planned(responses(WEBHOOK | {"additional_headers": lines}, RULE))
    assert made["rule"].fields["additional_headers"] == "X-A: 1\n\n  X-B {{ data.id }}: 2\nX-C: 3"
    assert made["rule"].differences == tuple(
        f"line {number} of its headers has no colon: left out, as it was not sent there" for number in (2, 5)
    )


@pytest.mark.parametrize(
    ("content_type", "body_template", "differs"),
    [
        ("application/x-www-form-urlencoded", "", True),
        ("Application/X-WWW-Form-Urlencoded; charset=utf-8", " ", True),
        ("application/x-www-form-urlencoded", "name={{ data.name | urlencode }}", False),
        ("text/plain", "", False),
    ],
)
def test_a_json_payload_with_the_content_type_of_a_form_is_reported(
    content_type: str, body_template: str, differs: bool
) -> None:
    made, _ = planned(responses(WEBHOOK | {"http_content_type": content_type, "body_template": body_template}, RULE))
    told = "its payload is JSON there, whatever the content type says, and a form here: choose another content type, or write a body template"  # fmt: skip  # noqa: E501
    assert made["rule"].differences == ((told,) if differs else ())


def test_rules_of_older_versions_are_read_too() -> None:
    rule = {key: value for key, value in RULE.items() if key not in ("object_types", "event_types")}
    older = {"content_types": ["dcim.site"], "type_create": False, "type_update": True, "type_job_end": True}
    webhook = WEBHOOK | {"http_method": {"value": "PUT", "label": "PUT"}, "timeout": 300, "secret": None}
    made, _ = planned(responses(webhook, rule | older))
    plan = made["rule"]
    assert (plan.fields["on_created"], plan.fields["on_updated"], plan.fields["http_method"]) == (False, True, "PUT")
    assert plan.fields["timeout"] == 120
    assert plan.differences == (
        "event types: type_job_end",
        "its secret is not in the response: set it by hand if it has one",
        "its timeout of 300 s: the maximum here is 120 s",
    )


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def mutated(draw: st.DrawFn, items: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    """One of the items, with other values for some of its keys."""
    item = draw(items)
    return item | draw(st.dictionaries(st.sampled_from(sorted(item)), ANYTHING, max_size=4))


# The command


@pytest.fixture
def one_rule(tmp_path: Path) -> str:
    file = tmp_path / "rule.json"
    file.write_text(json.dumps([WEBHOOK, RULE]))
    return str(file)


@pytest.mark.one_database
@pytest.mark.usefixtures("db")
class TestCommand:
    def test_it_shows_creates_and_logs_webhooks(self, app_log: pytest.LogCaptureFixture) -> None:
        User.objects.create_superuser("root")
        shown = run(*NETBOX, interactive=False)
        assert "  CMDB: devices and racks\n" in shown
        assert '    from event rule "CMDB: devices and racks" with webhook "CMDB sync (PUT, templated URL)"' in shown
        assert "    created, updated, deleted: dcim.device, dcim.interface, dcim.rack\n" in shown
        assert "    PUT https://cmdb.example/…\n" in shown
        assert (
            "    application/json, body template, additional headers, secret headers, include previous state, secret, "
            "conditions, timeout: 15\n"
        ) in shown
        assert "    ! headers that become secret ones, which are not shown again: Authorization\n" in shown
        assert "  event rule \"Slack: IP addresses\" with webhook \"Slack blocks\": refused: additional_headers: The template is not valid. Line 1: No filter named 'env'." in shown  # fmt: skip  # noqa: E501
        assert "11 webhooks new, 0 existing, 9 skipped." in shown
        assert shown.endswith("Created 11 webhooks.\n")
        webhook = Webhook.objects.get(name="Everything about sites")
        assert (webhook.enabled, webhook.http_method, webhook.actions) == (
            True,
            "POST",
            ["created", "updated", "deleted"],
        )
        assert [one.model for one in webhook.object_types.all()] == ["site"]
        cmdb = Webhook.objects.get(name="CMDB: devices and racks")
        assert (cmdb.enabled, cmdb.conditions, cmdb.prechange) == (
            True,
            {"attr": "status.value", "value": "active"},
            True,
        )
        # The log names each webhook and its origin.
        assert app_log.text.count(" was imported from ") == Webhook.objects.count() == 11
        assert (
            "Webhook CMDB: devices and racks was imported from "
            'event rule "CMDB: devices and racks" with webhook "CMDB sync (PUT, templated URL)"' in app_log.text
        )
        assert "s3cret" not in app_log.text
        assert not LogEntry.objects.exists()

    def test_secrets_are_encrypted(self, tmp_path: Path) -> None:
        file = tmp_path / "secret.json"
        file.write_text(json.dumps([WEBHOOK | {"additional_headers": "Authorization: Token cmdb-test-value"}, RULE]))
        run(str(file), interactive=False)
        assert Webhook.objects.get().secret_headers == "Authorization: Token cmdb-test-value"
        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM rq_webhooks_webhook")
            assert "cmdb-test-value" not in str(cursor.fetchall())

    def test_a_rule_with_a_line_without_a_colon_is_created(self, tmp_path: Path) -> None:
        file = tmp_path / "colon.json"
        file.write_text(json.dumps([WEBHOOK | {"additional_headers": "X-A: 1\nno colon"}, RULE]))
        assert "    ! line 2 of its headers has no colon" in run(str(file), interactive=False)
        assert Webhook.objects.get().additional_headers == "X-A: 1"

    def test_no_secret_is_shown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shown = run(*NETBOX, NAUTOBOT, dry_run=True)
        for secret in ("cmdb-s3cret", "cmdb-test-value", "another-secret", "pa55", "abc.def-123", "s3cr3t"):
            assert secret not in shown

    def test_a_second_run_creates_nothing(self) -> None:
        run(*NETBOX, NAUTOBOT, interactive=False)
        before = list(Webhook.objects.values())
        shown = run(*NETBOX, NAUTOBOT, interactive=False)
        assert "Existing, unchanged:\n" in shown
        assert "differs" not in shown
        assert shown.endswith("There is nothing to create.\n")
        assert list(Webhook.objects.values()) == before

    def test_an_existing_webhook_stays_and_its_differences_are_shown(self) -> None:
        make_webhook(Thing, name="Everything about sites", url="https://mine.example/", secret="mine")
        shown = run(*NETBOX, interactive=False)
        assert "  Everything about sites: differs in payload_url, secret, prechange, object_types\n" in shown
        assert Webhook.objects.get(name="Everything about sites").payload_url == "https://mine.example/"

    def test_settings_that_no_rule_has_are_compared_too(self, one_rule: str) -> None:
        wanted = {"conditions": {"attr": "name", "value": "a"}, "only_changes": True, "ordered": False}
        run(one_rule, interactive=False)
        Webhook.objects.update(**wanted, excluded_usernames=["root"])
        shown = run(one_rule, interactive=False)
        assert "  rule: differs in conditions, only_changes, excluded_usernames, ordered\n" in shown

    def test_tls_and_timeout_are_shown(self, tmp_path: Path) -> None:
        file = tmp_path / "tls.json"
        hook = WEBHOOK | {"ssl_verification": False, "timeout": 3}
        other = WEBHOOK | {"id": 2, "name": "other", "ca_file_path": "/etc/ca.pem"}
        file.write_text(json.dumps([hook, other, RULE, RULE | {"id": 2, "name": "second", "action_object_id": 2}]))
        shown = run(str(file), dry_run=True)
        assert "    application/json, include previous state, no TLS verification, timeout: 3\n" in shown
        assert "    application/json, include previous state, CA file: /etc/ca.pem\n" in shown

    def test_nothing_is_created_if_another_user_takes_a_name_meanwhile(
        self, one_rule: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def answer(prompt: str) -> str:
            make_webhook(Thing, name="rule")
            return "y"

        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", answer)
        with pytest.raises(CommandError, match=r"another user has just used one of the names. Run it again"):
            run(one_rule)
        assert [webhook.name for webhook in Webhook.objects.all()] == ["rule"]

    def test_all_are_created_in_one_transaction_of_the_right_database(self, monkeypatch: pytest.MonkeyPatch) -> None:
        used: list[Any] = []
        atomic = transaction.atomic
        monkeypatch.setattr(router, "db_for_write", lambda model, **hints: used.append(model) or "default")
        monkeypatch.setattr(imports.transaction, "atomic", lambda using: used.append(using) or atomic(using))
        imports.create([])
        assert used == [Webhook, "default"]

    def test_a_dry_run_creates_nothing(self, one_rule: str) -> None:
        assert run(one_rule, dry_run=True).endswith("Nothing was created: this was a dry run.\n")
        assert not Webhook.objects.exists()

    @pytest.mark.parametrize(("answer", "made"), [("YES", True), ("", False), ("n", False)])
    def test_it_asks_at_a_terminal(
        self, one_rule: str, monkeypatch: pytest.MonkeyPatch, answer: str, made: bool
    ) -> None:
        asked: list[str] = []
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda prompt: asked.append(prompt) or answer)
        run(one_rule)
        assert len(asked) == 1
        assert Webhook.objects.exists() == made

    @pytest.mark.parametrize("error", [KeyboardInterrupt, EOFError])
    def test_an_interrupted_question_creates_nothing(
        self, one_rule: str, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
    ) -> None:
        def ask(prompt: str) -> str:
            raise error

        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", ask)
        assert "Nothing was created." in run(one_rule)
        assert not Webhook.objects.exists()

    def test_without_a_terminal_it_needs_noinput(self, one_rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
        with pytest.raises(CommandError, match=r"no terminal to ask for confirmation\. Add --noinput or --dry-run"):
            run(one_rule)
        assert not Webhook.objects.exists()
        run(one_rule, "--no-input")
        assert "There is nothing to create." in run(one_rule)

    def test_all_can_be_created_disabled(self, one_rule: str) -> None:
        run(one_rule, interactive=False, disabled=True)
        assert Webhook.objects.exists()
        assert not Webhook.objects.filter(enabled=True).exists()
        assert "differs" not in run(one_rule, interactive=False, disabled=True)

    def test_of_two_with_one_name_the_first_is_created(self, tmp_path: Path) -> None:
        file = tmp_path / "both.json"
        file.write_text(json.dumps([WEBHOOK, RULE, RULE | {"id": 2}]))
        shown = run(str(file), interactive=False)
        assert 'event rule "rule" with webhook "hook": event rule "rule" with webhook "hook" has the same name' in shown
        assert Webhook.objects.count() == 1

    def test_a_forbidden_destination_is_not_created(self, tmp_path: Path) -> None:
        file = tmp_path / "metadata.json"
        file.write_text(json.dumps([WEBHOOK | {"payload_url": "http://169.254.169.254/"}, RULE]))
        assert "refused: payload_url: 169.254.169.254 is a cloud metadata address" in run(str(file), interactive=False)
        assert not Webhook.objects.exists()

    def test_an_expression_over_several_lines_of_headers_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "lines.json"
        file.write_text(json.dumps([WEBHOOK | {"additional_headers": "X-C: {{ data.a\n ~ data.b\n}}"}, RULE]))
        assert "refused: additional_headers: " in run(str(file), interactive=False)
        assert not Webhook.objects.exists()

    def test_control_characters_in_names_do_not_reach_the_terminal(self, tmp_path: Path) -> None:
        file = tmp_path / "escape.json"
        file.write_text(json.dumps([WEBHOOK, RULE | {"name": "\x1b[2Jgone\u202e"}]))
        shown = run(str(file), dry_run=True)
        assert "\x1b" not in shown
        assert "\u202e" not in shown

    def test_missing_pages_are_reported(self) -> None:
        shown = run(str(CAPTURED / "netbox_webhooks_page1.json"), str(CAPTURED / "netbox_event_rules_page2.json"), dry_run=True)  # fmt: skip  # noqa: E501
        assert "  only 5 of 12 webhooks were given: give the files of the other pages too\n" in shown
        assert "  only 5 of 19 event rules were given" in shown
        assert "is missing in the responses" in shown

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("{", "is no JSON"),
            ("[" * 100_000, "is no JSON"),
            ("[" * 400 + "]" * 400, "neither a webhook nor an event rule"),
            ("null", "neither a webhook nor an event rule"),
            ('{"detail": "Invalid token."}', "neither a webhook nor an event rule"),
            ('[{"id": {}, "payload_url": ""}]', "neither a webhook nor an event rule"),
            (
                '[{"id": 1, "payload_url": "", "name": "a"}, {"id": 1, "payload_url": "", "name": "b"}]',
                "one server at a",
            ),
            ('{"results": [1]}', "neither a webhook nor an event rule"),
        ],
    )
    def test_a_file_with_other_content_is_refused(self, tmp_path: Path, text: str, problem: str) -> None:
        file = tmp_path / "file.json"
        file.write_text(text)
        with pytest.raises(CommandError, match=problem):
            run(str(file))

    def test_a_missing_file_is_refused(self) -> None:
        with pytest.raises(CommandError, match="cannot be read: No such file"):
            run("nowhere.json")

    def test_a_missing_token_file_is_refused(self) -> None:
        with pytest.raises(CommandError, match="from nowhere: No such file"):
            run("https://netbox.example/", token_file="nowhere")

    @pytest.mark.parametrize("token", ["two words", "two\nlines", "ключ"])
    def test_an_invalid_token_is_refused_and_not_shown(self, tmp_path: Path, token: str) -> None:
        file = tmp_path / "token"
        file.write_text(token)
        with pytest.raises(CommandError, match="no token has") as caught:
            run("https://netbox.example/", token_file=str(file))
        assert token not in str(caught.value)


@pytest.mark.one_database
@pytest.mark.usefixtures("db")
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_response_causes_a_traceback(tmp_path: Path, data: st.DataObject) -> None:
    hooks = st.sampled_from(captured("netbox_webhooks.json")["results"])
    rules = st.sampled_from(captured("netbox_event_rules.json")["results"])
    others = st.sampled_from(captured("nautobot_webhooks.json")["results"])
    rule, hook, other = (data.draw(mutated(items)) for items in (rules, hooks, others))
    rule.setdefault("action_object_id", hook.get("id"))
    file = tmp_path / "mutated.json"
    file.write_text(json.dumps([hook, rule, other]))
    with contextlib.suppress(CommandError):
        run(str(file), interactive=False)


# From a server


class Server:
    """Serves captured responses of NetBox or Nautobot page by page, in a thread."""

    def __init__(self, lists: dict[str, list[Any]]) -> None:
        self.lists, self.size = lists, 5
        self.asked: list[tuple[str, str]] = []
        self.answer: tuple[int, dict[str, str], bytes] | None = None
        self.next_url = ""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, self.headers.get("Authorization", "")))
                status, headers, body = outer.answer or outer.page(self.path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def page(self, path: str) -> tuple[int, dict[str, str], bytes]:
        url = urlsplit(path)
        if url.path not in self.lists:
            return 404, {}, b"{}"
        items = self.lists[url.path]
        offset = int(parse_qs(url.query).get("offset", ["0"])[0])
        after = offset + self.size
        following = self.next_url or f"{self.url}{url.path}?limit={self.size}&offset={after}"
        page = {
            "count": len(items),
            "next": following if after < len(items) else None,
            "results": items[offset:after],
        }
        return 200, {}, json.dumps(page).encode()


@pytest.fixture
def netbox() -> Iterator[Server]:
    lists = {
        "/api/extras/webhooks/": captured("netbox_webhooks.json")["results"],
        "/api/extras/event-rules/": captured("netbox_event_rules.json")["results"],
    }
    server = Server(lists)
    yield server
    server.server.shutdown()
    server.server.server_close()


def test_all_pages_of_both_lists_are_read(netbox: Server) -> None:
    found = read([netbox.url + "/"], TOKEN)
    assert (len(found.webhooks), len(found.rules), found.missing) == (12, 19, [])
    assert planned(found) == planned(read(NETBOX))
    assert len(netbox.asked) == 3 + 4
    assert {authorization for _, authorization in netbox.asked} == {f"Token {TOKEN}"}


@pytest.mark.parametrize("end", ["/", "/api", "/api/", "/api/extras/webhooks/", "/api/extras/webhooks/?limit=5"])
def test_a_url_may_name_the_server_or_a_list(netbox: Server, end: str) -> None:
    found = read([netbox.url + end])
    assert len(found.webhooks) == 12
    assert len(found.rules) == (0 if "extras" in end else 19)
    assert {authorization for _, authorization in netbox.asked} == {""}


def test_nautobot_has_no_event_rules(netbox: Server) -> None:
    netbox.lists = {"/api/extras/webhooks/": captured("nautobot_webhooks.json")["results"]}
    assert planned(read([netbox.url])) == planned(read([NAUTOBOT]))


def test_captured_pages_of_nautobot_equal_one_response(tmp_path: Path) -> None:
    pages = [page["answer"] for page in captured("nautobot_webhooks_pages.json")["pages"]]
    files = []
    for number, page in enumerate(pages):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(page))
    found = read(map(str, files))
    assert (len(found.webhooks), found.missing) == (17, [])
    assert planned(found) == planned(read([NAUTOBOT]))


def test_a_token_of_the_second_version_is_a_bearer(netbox: Server) -> None:
    read([netbox.url], "nbt_abc.def")
    assert netbox.asked[0][1] == "Bearer nbt_abc.def"


@pytest.mark.parametrize("following", ["http://127.0.0.1:1/", "https://127.0.0.1/", "//evil.example/", "http://["])
def test_a_next_page_of_another_server_is_asked_of_this_one(netbox: Server, following: str) -> None:
    netbox.next_url = following
    assert (len(read([netbox.url], TOKEN).webhooks), len(netbox.asked)) == (12, 3 + 4)


def test_a_server_that_repeats_its_first_page_is_asked_until_the_count_is_reached(netbox: Server) -> None:
    page = netbox.page("/api/extras/webhooks/")
    netbox.answer = page
    assert read([f"{netbox.url}/api/extras/webhooks/"]).missing == [
        "only 5 of 12 webhooks were given: give the files of the other pages too"
    ]
    assert len(netbox.asked) == 3


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (
            (302, {"Location": "http://evil.example/"}, b""),
            "HTTP 302, a redirect to http://evil.example/, which is not",
        ),
        (
            (403, {}, b'{"detail": "Invalid v2 token"}'),
            "HTTP 403: the token needs permission to view webhooks and event rules. Its reason: Invalid v2 token",
        ),
        ((403, {}, b'["no"]'), "HTTP 403: the token needs permission to view webhooks and event rules$"),
        ((401, {}, f'{{"detail": "No token {TOKEN}"}}'.encode()), "HTTP 401: the token .* event rules$"),
        ((500, {}, b""), "answered HTTP 500"),
        ((404, {}, b""), "answered HTTP 404"),
        ((200, {}, b"<html>"), "did not answer with JSON"),
    ],
)
def test_an_error_response_is_reported_without_the_token(netbox: Server, answer: Any, problem: str) -> None:
    netbox.answer = answer
    with pytest.raises(UnreadableSource, match=problem) as caught:
        read([netbox.url], TOKEN)
    assert TOKEN not in str(caught.value)
    assert len(netbox.asked) == 1


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://127.0.0.1:1/", "cannot be read: connection refused"),
        ("ftp://user:pw@netbox.example/", "Only http:// and https://"),
        ("https://user:pw@netbox.example/", "a user name or a password"),
        ("https://net box.example/", "a space"),
    ],
)
def test_a_url_that_cannot_be_read_is_reported(url: str, problem: str) -> None:
    with pytest.raises(UnreadableSource, match=problem) as caught:
        read([url], TOKEN)
    assert TOKEN not in str(caught.value)
    assert "pw" not in str(caught.value)


@pytest.mark.one_database
@pytest.mark.django_db
def test_the_token_comes_from_a_file_or_the_environment_and_is_never_shown(
    netbox: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    netbox.lists = {"/api/extras/webhooks/": [WEBHOOK], "/api/extras/event-rules/": [RULE]}
    shown = run(netbox.url, token_file=str(file), dry_run=True)
    monkeypatch.setenv("WEBHOOKS_IMPORT_TOKEN", TOKEN)
    shown += run(netbox.url, dry_run=True)
    assert {authorization for _, authorization in netbox.asked} == {f"Token {TOKEN}"}
    assert TOKEN not in shown + caplog.text
