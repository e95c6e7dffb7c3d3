"""The form of a webhook on pages without Django's admin, and ``save_webhook`` in the code of a host."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ValidationError
from django.urls import reverse

from dcim.models import Rack, Site
from tests.support.html_forms import fields_of
from tests.support.makers import make_webhook
from tests.support.own_pages import DUTIES, errors_of, fence, own_pages, page_of, stored
from tests.support.users import browser, make_user
from webhooks.ground import registry
from webhooks.models import Webhook
from webhooks.models.permissions import Operator
from webhooks.operations import edits
from webhooks.operations.webhooks import OutsidePermission, StaleSettings, save_webhook
from webhooks.pages.forms import WebhookForm

pytestmark = [pytest.mark.one_database, pytest.mark.usefixtures("database", "redis")]


@pytest.mark.parametrize("duty", DUTIES)
def test_pages_without_the_admin(duty: str) -> None:
    with own_pages(make_user(is_superuser=True), Site) as pages:
        DUTIES[duty](pages)


def test_a_user_may_not_define_a_webhook_for_models_that_they_may_not_view() -> None:
    with own_pages(make_user("add_webhook", sees_objects=False), Site) as pages:
        response = pages.ask("/webhooks/add/", pages.filled())
    assert "you may not view all of them" in errors_of(response)["object_types"]
    assert not Webhook.objects.exists()


def test_the_form_has_the_same_fields_as_the_page_of_the_admin() -> None:
    admin = make_user(is_superuser=True)
    with own_pages(admin, Site) as pages:
        own = pages.opened(page_of(webhook := stored(pages, secret_headers="X-A: 1")))
    address = reverse("admin:rq_webhooks_webhook_change", args=[webhook.pk])
    in_admin = fields_of(browser(admin).get(address).content.decode(), 'id="webhook_form"')
    for name in (*(name for name in in_admin if name.startswith("try_")), "csrfmiddlewaretoken"):
        in_admin.pop(name)
    own.pop("csrfmiddlewaretoken", None)
    assert in_admin == own


@pytest.mark.usefixtures("own_registrations")
def test_a_form_shows_the_settings_that_only_code_changes_and_saves_the_others() -> None:
    fixed = ["payload_url", "additional_headers", "secret"]
    registry.reserve_identifiers(registry.Reserved("plugin-", "copies of a plugin", fixed, "See the plugin."))
    webhook = make_webhook(Site, identifier="plugin-1", additional_headers="X-A: 1\nX-B: 2", secret="s3cret")
    client = browser(make_user(is_superuser=True))
    address = reverse("admin:rq_webhooks_webhook_change", args=[webhook.pk])
    page = client.get(address).content.decode()
    assert page.count("See the plugin.") == 3
    posted = fields_of(page, 'id="webhook_form"')
    assert posted.keys().isdisjoint({"secret", "clear_secret"})
    other = {"payload_url": "https://other.example/", "identifier": "other", "secret": "other", "clear_secret": "on"}
    assert client.post(address, posted | other | {"timeout": "7"}).status_code == 302
    saved = Webhook.objects.get()
    assert (saved.timeout, saved.identifier, saved.secret.reveal()) == (7, "plugin-1", "s3cret")
    assert (saved.payload_url, saved.additional_headers) == (webhook.payload_url, webhook.additional_headers)


def test_a_plain_dictionary_of_values_shows_the_models_that_another_user_chose() -> None:
    webhook = make_webhook(Site)
    values = {
        "name": "renamed",
        "payload_url": webhook.payload_url,
        "on_created": "on",
        "opened": '{"object_types": []}',
    }
    form = WebhookForm(values, instance=webhook, user=make_user(is_superuser=True))
    assert "object_types" in form.errors
    assert form["object_types"].value() == [str(ContentType.objects.get_for_model(Site).pk)]


def test_a_form_needs_a_user() -> None:
    with pytest.raises(TypeError, match="user"):
        WebhookForm()  # type: ignore[call-arg]


# In code

OPERATOR = Operator("a test")
WANTED = {"name": "CMDB", "payload_url": "http://127.0.0.1/", "on_created": True}


def save(webhook: Webhook, values: dict[str, Any], *models: Any, user: Any = OPERATOR, **options: Any) -> Webhook:
    types = ContentType.objects.get_for_models(*models).values() if models else None
    return save_webhook(webhook, values, types, user, **options)


def test_the_code_of_the_page_defines_and_changes_a_webhook() -> None:
    names: dict[str, Any] = {"Site": Site, "user": make_user(is_superuser=True)}
    exec(compile(fence("code"), "own-pages.md", "exec"), names)
    webhook = Webhook.objects.get()
    assert (webhook.name, webhook.timeout, webhook.on_created) == ("CMDB", 5, True)
    assert [one.model for one in webhook.object_types.all()] == ["site"]


@pytest.mark.parametrize(
    ("values", "models", "refused"),
    [
        ({"name": "CMDB"}, [], {"object_types", "payload_url", "__all__"}),
        ({"name": "CMDB", "payload_url": "ftp://x", "on_created": True}, [Site], {"payload_url"}),
        (
            {"name": "CMDB", "payload_url": "http://127.0.0.1/", "on_created": True, "conditions": 7},
            [Site],
            {"conditions"},
        ),
        ({"name": "CMDB", "payload_url": "http://127.0.0.1/", "on_created": True}, [], {"object_types"}),
    ],
)
def test_invalid_values_are_refused_by_field(values: dict[str, Any], models: list[Any], refused: set[str]) -> None:
    with pytest.raises(ValidationError) as found:
        save(Webhook(), values, *models)
    assert found.value.message_dict.keys() == refused
    assert not Webhook.objects.exists()


def test_a_stored_value_that_became_invalid_is_no_error_of_other_values() -> None:
    webhook = make_webhook(Site, serializer="gone")
    save(webhook, {"name": "renamed"})
    assert Webhook.objects.get().name == "renamed"
    with pytest.raises(ValidationError, match="gone"):
        save(webhook, {"serializer": "gone"})


def test_a_user_without_permission_saves_nothing() -> None:
    webhook, user = make_webhook(Site, name="CMDB"), make_user("view_webhook")
    with pytest.raises(OutsidePermission):
        save(webhook, {"name": "renamed"}, user=user)
    with pytest.raises(OutsidePermission):
        save(Webhook(), WANTED | {"name": "new"}, Site, user=user)
    assert list(Webhook.objects.values_list("name", flat=True)) == ["CMDB"]


def test_an_instance_that_was_changed_in_code_evades_no_check() -> None:
    webhook, user = make_webhook(Site, secret_headers="X-Token: t"), make_user("change_webhook")
    webhook.payload_url = "http://127.0.0.1:2/"
    with pytest.raises(ValidationError, match="They would go to the new destination"):
        save(webhook, {"payload_url": "http://127.0.0.1:2/"}, user=user)
    webhook.timeout = 9
    save(webhook, {"name": "renamed"}, user=user)
    stored = Webhook.objects.get()
    assert (stored.name, stored.payload_url, stored.timeout) == ("renamed", "http://127.0.0.1:1/", None)


def test_settings_that_the_user_has_not_read_are_not_replaced() -> None:
    webhook = make_webhook(Site, name="CMDB")
    tags = [edits.settings_tag(webhook)]
    save(Webhook.objects.get(), {"timeout": 5}, tags=tags)
    with pytest.raises(StaleSettings):
        save(Webhook.objects.get(), {"timeout": 6}, tags=tags)
    assert Webhook.objects.get().timeout == 5


@pytest.mark.parametrize(
    "name", ["nonsense", "deleted_at", "failures_in_a_row", "pk", "previous_secret", "object_types"]
)
def test_a_value_that_is_no_setting_is_refused(name: str) -> None:
    webhook = make_webhook(Site, name="CMDB")
    with pytest.raises(TypeError, match=name):
        save(webhook, {"name": "renamed", name: 1})
    assert Webhook.objects.get().name == "CMDB"


def test_models_stay_if_none_are_given() -> None:
    webhook = make_webhook(Site)
    save(webhook, {"timeout": 5})
    assert [one.model for one in webhook.object_types.all()] == ["site"]
    save(webhook, {}, Rack)
    assert [one.model for one in webhook.object_types.all()] == ["rack"]
