"""The form of a webhook that was opened before another user changed the webhook."""

from __future__ import annotations

import html
from typing import Any

import pytest
from django.contrib.contenttypes.models import ContentType
from django.test import Client

from dcim.audits import RACK_AUDITED
from dcim.models import Device, Site
from tests.support.admin_pages import change_of, page, staff
from tests.support.html_forms import fields_of
from tests.support.makers import make_webhook
from webhooks.ground.registry import registered_object_types
from webhooks.ground.security.encryption import Secret
from webhooks.models import Webhook
from webhooks.operations.edits import READABLE_SETTINGS
from webhooks.pages.forms import WebhookForm

pytestmark = pytest.mark.one_database

FORM = 'id="webhook_form"'
SAVED = 302


def opened(client: Client, webhook: Webhook) -> dict[str, list[str]]:
    return fields_of(page(client, change_of(webhook)), FORM)


def errors_of(response: Any) -> dict[str, str]:
    assert response.status_code == 200
    return {name: " ".join(map(str, texts)) for name, texts in response.context["adminform"].form.errors.items()}


def models_of(webhook: Webhook) -> set[str]:
    return {one.model for one in webhook.object_types.all()}


@pytest.fixture
def webhook(db: None, redis: Any) -> Webhook:
    texts = {"additional_headers": "X-A: 1\nX-B: 2", "body_template": "{{ data }}\n"}
    return make_webhook(Site, name="CMDB", url="https://example.com/1", secret="one of the secrets", **texts)


# For each setting: what another user stores, what the errors show of it, and what the user of the form enters.
RACK = "dcim.rack"
CASES: dict[str, tuple[Any, str, list[str]]] = {
    "name": ("theirs", "theirs", ["mine"]),
    "payload_url": ("https://example.com/2", "https://example.com/2", ["https://example.com/3"]),
    "on_deleted": (False, "off", ["on"]),
    "ordered": (False, "off", ["on"]),
    "timeout": (7, "7", ["9"]),
    "conditions": ({"attr": "slug", "value": "x"}, '{"attr": "slug", "value": "x"}', ['{"attr": "slug", "value": 2}']),
    "changed_fields": (["slug"], "slug", ["name"]),
    "excluded_usernames": (["ann", "bob"], "ann, bob", ["cid"]),
    "additional_headers": ("X-A: 1\nX-C: 3", "X-A: 1\nX-C: 3", ["X-A: 4"]),
    "body_template": ("{{ event }}", "{{ event }}", ["{{ username }}"]),
    "http_method": ("PUT", "PUT", ["PATCH"]),
    "content_type": ("text/plain", "text/plain", ["text/html"]),
    "only_changes": (True, "on", ["on"]),
    "prechange": (True, "on", ["on"]),
    "identifier": ("theirs", "theirs", ["mine"]),
    "description": ("theirs", "theirs", ["mine"]),
    "static_data": ({"team": "theirs"}, '{"team": "theirs"}', ['{"team": "mine"}']),
    "send_trace": (True, "on", ["on"]),
    "ssl_verification": (False, "off", ["on"]),
    "ca_file_path": ("/theirs.pem", "/theirs.pem", ["/mine.pem"]),
    "object_types": ([RACK], RACK, []),
    "custom_events": ([RACK_AUDITED], RACK_AUDITED, []),
    "serializer": ("brief", "brief", []),
}


def store(webhook: Webhook, name: str, value: Any) -> None:
    """As another user."""
    if name == "object_types":
        webhook.object_types.set(registered_object_types().filter(model="rack"))
    else:
        Webhook.objects.filter(pk=webhook.pk).update(**{name: value})


def alone_and_together(names: list[str]) -> list[list[str]]:
    """All settings at once, because each has its own error. Three of them do not fit the others."""
    alone = ["name", "object_types", "ssl_verification"]
    return [*([name] for name in alone if name in names), [name for name in names if name not in alone]]


@pytest.mark.parametrize("names", alone_and_together([*CASES]), ids=lambda names: names[0])
def test_a_save_of_another_field_shows_the_change_first_and_then_keeps_it(
    admin_client: Client, webhook: Webhook, names: list[str]
) -> None:
    form = opened(admin_client, webhook)
    other = "timeout" if "name" in names else "name"
    form[other] = ["8"] if "name" in names else ["renamed"]
    for name in names:
        store(webhook, name, CASES[name][0])
    response = admin_client.post(change_of(webhook), form)
    errors = errors_of(response)
    assert errors.keys() == {*names}
    for name, error in errors.items():
        assert "Save again to keep it." in error, name
        assert CASES[name][1] in error
    again = fields_of(response.content.decode(), FORM)
    assert again[other] == form[other]
    assert admin_client.post(change_of(webhook), again).status_code == SAVED
    saved = Webhook.objects.get()
    assert str(getattr(saved, other)) == form[other][0]
    for name in names:
        if name == "object_types":
            assert models_of(saved) == {"rack"}
        else:
            assert getattr(saved, name) == CASES[name][0], name
    assert saved.secret == "one of the secrets"


ENTERED = [name for name, (*_, entered) in CASES.items() if entered not in (["on"], [])]


@pytest.mark.parametrize("names", alone_and_together(ENTERED), ids=lambda names: names[0])
def test_a_conflict_shows_both_values_and_a_second_save_is_on_purpose(
    admin_client: Client, webhook: Webhook, names: list[str]
) -> None:
    entered = {name: CASES[name][2] for name in names}
    form = opened(admin_client, webhook) | entered
    for name in names:
        store(webhook, name, CASES[name][0])
    response = admin_client.post(change_of(webhook), form)
    errors, content = errors_of(response), response.content.decode()
    assert errors.keys() == {*names}
    stored = Webhook.objects.get()
    again = fields_of(content, FORM)
    for name in names:
        value, shown, _ = CASES[name]
        assert "Save again to replace it with yours." in errors[name], name
        assert shown in errors[name]
        assert html.escape(shown) in content
        assert getattr(stored, name) == value
        assert again[name] == entered[name]
    assert admin_client.post(change_of(webhook), again).status_code == SAVED
    saved = opened(admin_client, webhook)
    for name in names:
        assert "".join("".join(saved[name]).split()) == "".join("".join(entered[name]).split())


def test_models_that_both_have_changed_are_a_conflict(admin_client: Client, webhook: Webhook) -> None:
    both = [str(ContentType.objects.get_for_model(model).pk) for model in (Device, Site)]
    form = opened(admin_client, webhook) | {"object_types": both}
    store(webhook, "object_types", [RACK])
    response = admin_client.post(change_of(webhook), form)
    assert "The stored value is “dcim.rack”." in errors_of(response)["object_types"]
    assert models_of(Webhook.objects.get()) == {"rack"}
    assert admin_client.post(change_of(webhook), fields_of(response.content.decode(), FORM)).status_code == SAVED
    assert models_of(Webhook.objects.get()) == {"device", "site"}


def test_the_cases_have_every_setting_of_the_form(webhook: Webhook) -> None:
    in_form = {name for name in READABLE_SETTINGS if name in WebhookForm(instance=webhook, user=None).fields}
    assert in_form - CASES.keys() == {"enabled", "on_created", "on_updated"}


def test_a_box_that_both_have_changed_is_no_conflict(admin_client: Client, webhook: Webhook) -> None:
    form = opened(admin_client, webhook)
    del form["ordered"]
    store(webhook, "ordered", False)
    assert admin_client.post(change_of(webhook), form).status_code == SAVED
    assert Webhook.objects.get().ordered is False


def test_a_form_that_is_not_old_saves_at_once(admin_client: Client, webhook: Webhook) -> None:
    before = Webhook.objects.values().get()
    form = opened(admin_client, webhook) | {"name": ["renamed"]}
    assert admin_client.post(change_of(webhook), form).status_code == SAVED
    after = Webhook.objects.values().get()
    # The line breaks of the texts, too, are as they were.
    assert {name for name in after if after[name] != before[name]} == {"name", "last_updated"}


def test_a_secret_is_entered_again_after_a_conflict(admin_client: Client, webhook: Webhook) -> None:
    form = opened(admin_client, webhook) | {"secret": ["another of the secrets"]}
    store(webhook, "payload_url", "https://example.com/2")
    response = admin_client.post(change_of(webhook), form)
    assert errors_of(response).keys() == {"payload_url", "secret"}
    assert "another of the secrets" not in response.content.decode()
    assert Webhook.objects.get().secret == "one of the secrets"


THEIRS, OURS = "a secret that was stored meanwhile", "a secret that is entered late"


def store_secret(webhook: Webhook) -> None:
    """As another user."""
    other = Webhook.objects.get(pk=webhook.pk)
    other.secret = Secret(THEIRS)
    other.save_settings(["secret"])


@pytest.mark.parametrize(
    ("entered", "refused", "kept"),
    [({"clear_secret": ["on"]}, "clear_secret", ""), ({"secret": [OURS]}, "secret", OURS)],
)
def test_a_secret_that_was_stored_meanwhile_is_replaced_only_on_purpose(
    admin_client: Client, webhook: Webhook, entered: dict[str, list[str]], refused: str, kept: str
) -> None:
    form = opened(admin_client, webhook) | entered
    store_secret(webhook)
    response = admin_client.post(change_of(webhook), form)
    shown = response.content.decode()
    assert errors_of(response).keys() == {refused}
    assert "Another value was stored while the form was open." in errors_of(response)[refused]
    assert not any(one in shown for one in (THEIRS, OURS))
    assert Webhook.objects.get().secret == THEIRS
    assert admin_client.post(change_of(webhook), fields_of(shown, FORM) | entered).status_code == SAVED
    assert Webhook.objects.get().secret == kept


def test_a_secret_that_was_stored_meanwhile_stays_if_the_form_changes_another_field(
    admin_client: Client, webhook: Webhook
) -> None:
    form = opened(admin_client, webhook) | {"name": ["renamed"]}
    store_secret(webhook)
    assert admin_client.post(change_of(webhook), form).status_code == SAVED
    saved = Webhook.objects.get()
    assert (saved.name, saved.secret == THEIRS) == ("renamed", True)


def test_a_secret_that_is_stored_between_the_check_and_the_save_is_not_cleared(
    admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = opened(admin_client, webhook) | {"clear_secret": ["on"]}
    clean = Webhook.full_clean

    def meanwhile(row: Webhook, *args: Any, **kwargs: Any) -> None:
        clean(row, *args, **kwargs)
        store_secret(webhook)

    monkeypatch.setattr(Webhook, "full_clean", meanwhile)
    response = admin_client.post(change_of(webhook), form, follow=True)
    assert "Nothing was saved." in response.content.decode()
    assert Webhook.objects.get().secret == "one of the secrets"  # what the other user stored is rolled back, too


def test_a_change_between_the_check_and_the_save_is_not_reverted(
    admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = opened(admin_client, webhook) | {"name": ["renamed"]}
    clean = Webhook.full_clean

    def meanwhile(row: Webhook, *args: Any, **kwargs: Any) -> None:
        clean(row, *args, **kwargs)
        store(webhook, "payload_url", "https://example.com/2")

    monkeypatch.setattr(Webhook, "full_clean", meanwhile)
    response = admin_client.post(change_of(webhook), form, follow=True)
    assert "Nothing was saved." in response.content.decode()
    assert Webhook.objects.get().name == "CMDB"


def test_a_viewer_gets_none_of_the_values(webhook: Webhook) -> None:
    shown = page(staff("view_webhook"), change_of(webhook))
    assert 'name="opened"' not in shown
    assert "X-A: 1" not in shown


@pytest.mark.parametrize("value", ["", "nonsense", "[1]", "[" * 100_000, '{"name": [1]}', '{"payload_url": null}'])
def test_an_invented_value_of_the_hidden_field_is_no_server_error(
    admin_client: Client, webhook: Webhook, value: str
) -> None:
    form = opened(admin_client, webhook) | {"opened": [value], "name": ["renamed"]}
    assert admin_client.post(change_of(webhook), form).status_code in (200, SAVED)
