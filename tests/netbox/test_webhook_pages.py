"""An admin of NetBox lists, adds, edits, copies and deletes webhooks on NetBox's own pages."""

import csv
import re
from io import StringIO

import pytest
import yaml
from django.contrib.auth import get_user_model
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.db.models import BooleanField
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from extras.models import Bookmark, ExportTemplate, JournalEntry
from jinja2.exceptions import SecurityError
from netbox.registry import registry

from core.models import ObjectChange, ObjectType
from dcim.models import Device, Site
from tests.support.html_forms import fields_of
from tests.support.netbox import IS_OLDER
from users.models import ObjectPermission
from webhooks.ground.registry import registrations
from webhooks.models import Event, Webhook
from webhooks.models.event import PING
from webhooks.models.webhook import SETTINGS
from webhooks.models.webhook_states import DisabledReason
from webhooks.operations.webhooks import save_webhook

pytestmark = pytest.mark.django_db

URL = "https://cmdb.example.com/hooks/token-4711"
FORM = 'class="object-edit'
SECRET = "a secret of the receiver"


def page(name: str, *args, **query) -> str:
    return reverse(f"plugins:rq_webhooks:webhook{name}", args=args, query=query or None)


def type_of(model) -> ContentType:
    return ContentType.objects.get_for_model(model)


def make(name="CMDB", models=(Site,), **values) -> Webhook:
    webhook = Webhook.objects.create(name=name, payload_url=URL, on_updated=True, **values)
    webhook.object_types.set(map(type_of, models))
    return webhook


def open_form(client: Client, address: str) -> dict:
    return fields_of(client.get(address).text, FORM)


def entered(fields: dict, **changes) -> dict:
    """The fields of the form as a browser posts them, after these changes."""
    return fields | {name: value if isinstance(value, list) else [value] for name, value in changes.items()}


def text_of(answer) -> str:
    return " ".join(answer.text.split())


@pytest.fixture
def jo(client):
    """A user without rights, logged in by ``client``."""
    user = get_user_model().objects.create_user("jo")
    client.force_login(user)
    return user


def permit(user, *actions, model=Webhook, constraints=None) -> None:
    permission = ObjectPermission.objects.create(
        name=f"{user} {actions} {model}", actions=actions, constraints=constraints
    )
    permission.object_types.add(ObjectType.objects.get_for_model(model))
    permission.users.add(user)


# The list


def test_the_list_shows_the_webhooks_with_their_states(admin_client) -> None:
    make()
    make("Paused", enabled=False)
    shown = text_of(admin_client.get(page("_list")))
    for text in ("CMDB", "dcim.site", "enabled", "disabled", "https://cmdb.example.com/", "updated"):
        assert text in shown, text
    assert "token-4711" not in shown


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"q": "dev"}, ["Devices"]),
        ({"q": "token-4711"}, ["CMDB", "Devices", "Off"]),  # superusers see whole URLs
        ({"enabled": "false"}, ["Off"]),
        ({"paused": "true"}, []),
        ({"failing": "false"}, ["CMDB", "Devices", "Off"]),
        ({"on_deleted": "true"}, ["Devices"]),
        ({"object_type_id": [Site, Device]}, ["CMDB", "Devices", "Off"]),
        ({"object_type_id": [Device]}, ["Devices"]),
        ({"name__ic": "de"}, ["Devices"]),
        ({"sort": "-name"}, ["Off", "Devices", "CMDB"]),
    ],
)
def test_the_list_filters_and_sorts(admin_client, query, found) -> None:
    make()
    make("Devices", [Device, Site], on_deleted=True)
    make("Off", enabled=False)
    if models := query.get("object_type_id"):
        query = {"object_type_id": [type_of(model).pk for model in models]}
    rows = list(csv.DictReader(StringIO(admin_client.get(page("_list", **query, export="table")).text)))
    assert [row["Name"] for row in rows] == found
    assert admin_client.get(page("_list", **query)).status_code == 200


def test_a_quick_search_replaces_the_rows_alone(admin_client) -> None:
    make()
    make("Devices")
    shown = admin_client.get(page("_list", q="dev"), headers={"HX-Request": "true"}).text
    assert "Devices" in shown
    assert "CMDB" not in shown
    assert "<html" not in shown


def test_a_search_does_not_guess_hidden_urls(client, jo) -> None:
    permit(jo, "view")
    make()
    assert "CMDB" in client.get(page("_list", q="cm")).text
    assert "CMDB" not in client.get(page("_list", q="4711")).text


def test_the_filters_are_a_form_of_the_list(admin_client) -> None:
    shown = admin_client.get(page("_list")).text
    for name in ("enabled", "paused", "failing", "object_type_id", "http_method"):
        assert f'name="{name}' in shown, name


def test_a_user_chooses_the_columns(admin_client) -> None:
    make()
    shown = text_of(admin_client.get(page("_list", include_columns="content_type", exclude_columns="payload_url")))
    assert "application/json" in shown
    assert "cmdb.example.com" not in shown


def test_the_list_exports_csv_and_yaml(admin_client) -> None:
    make(models=[Site, Device], secret=SECRET, conditions={"attr": "name", "value": "Ü"})
    [row] = csv.DictReader(StringIO(admin_client.get(page("_list", export="table")).text))
    assert row["Name"] == "CMDB"
    assert row["State"] == "enabled"
    assert row["Models"] == "dcim.device,dcim.site"
    exported = admin_client.get(page("_list") + "?export").text
    assert SECRET not in exported
    settings = yaml.safe_load(exported)
    assert settings["payload_url"] == URL
    assert settings["object_types"] == ["dcim.device", "dcim.site"]
    assert settings["conditions"] == {"attr": "name", "value": "Ü"}
    assert "secret" not in settings


def test_an_export_hides_what_the_user_may_not_see(client, jo) -> None:
    permit(jo, "view")
    make(additional_headers="X-Token: hush", body_template="{{ data.id }}")
    exported = client.get(page("_list") + "?export").text
    assert "CMDB" in exported
    for hidden in ("token-4711", "hush", "data.id"):
        assert hidden not in exported, hidden


def test_invisible_characters_are_shown_as_escapes(admin_client) -> None:
    webhook = make("abc\u202edef")
    for address in (page("_list"), page("", webhook.pk)):
        shown = admin_client.get(address).text
        assert "abc\\u202edef" in shown
        assert "\u202e" not in shown


# Add and edit


def test_a_user_adds_a_webhook_with_two_models_and_a_secret(admin_client) -> None:
    fields = open_form(admin_client, page("_add"))
    types = sorted(type_of(model).pk for model in (Site, Device))
    changes = {"name": "CMDB", "payload_url": URL, "object_types": list(map(str, types)), "secret": SECRET}
    answer = admin_client.post(page("_add"), entered(fields, **changes))
    webhook = Webhook.objects.get()
    assert answer.url == page("", webhook.pk)
    assert sorted(webhook.object_types.values_list("pk", flat=True)) == types
    assert webhook.secret.reveal() == SECRET
    assert webhook.enabled
    assert [webhook.on_created, webhook.on_updated, webhook.on_deleted] == [True, True, True]
    shown = admin_client.get(answer.url).text
    assert SECRET not in shown
    assert "dcim.device" in shown


def test_the_form_says_what_is_wrong_at_its_field(admin_client) -> None:
    fields = open_form(admin_client, page("_add"))
    answer = admin_client.post(page("_add"), entered(fields, name="CMDB", payload_url="ftp://cmdb", conditions="{"))
    assert not Webhook.objects.exists()
    shown = text_of(answer)
    assert "This is not JSON" in shown
    assert 'id="id_payload_url_errors"' in shown


def test_an_edit_keeps_the_secret_and_shows_it_nowhere(admin_client) -> None:
    webhook = make(secret=SECRET, secret_headers="Authorization: Bearer hush")
    address = page("_edit", webhook.pk)
    shown = admin_client.get(address).text
    assert "A value is stored. Leave this empty to keep it." in shown
    assert SECRET not in shown
    assert "hush" not in shown
    answer = admin_client.post(address, entered(open_form(admin_client, address), name="CMDB 2"))
    assert answer.url == page("", webhook.pk)
    stored = Webhook.objects.get()
    assert stored.name == "CMDB 2"
    assert stored.secret.reveal() == SECRET
    assert "hush" in stored.secret_headers.reveal()
    assert list(stored.object_types.all()) == [type_of(Site)]


def test_a_new_secret_signs_beside_the_previous_one_until_a_user_ends_that(admin_client) -> None:
    webhook = make(secret=SECRET)
    address = page("_edit", webhook.pk)
    admin_client.post(address, entered(open_form(admin_client, address), secret="another one"))
    webhook.refresh_from_db()
    assert webhook.secret.reveal() == "another one"
    assert webhook.previous_secret.reveal() == SECRET
    fields = open_form(admin_client, address)
    assert "forget_previous_secret" in fields
    admin_client.post(address, entered(fields, forget_previous_secret=["", "on"]))
    webhook.refresh_from_db()
    assert not webhook.previous_secret


def test_two_users_who_edit_one_webhook_see_their_conflict(admin_client, admin_user) -> None:
    webhook = make()
    address = page("_edit", webhook.pk)
    fields = open_form(admin_client, address)
    save_webhook(Webhook.objects.get(), {"timeout": 7}, None, admin_user)
    answer = admin_client.post(address, entered(fields, timeout="9"))
    assert "This was changed while the form was open. The stored value is “7”." in text_of(answer)
    assert Webhook.objects.get().timeout == 7
    again = fields_of(answer.text, FORM)
    assert again["timeout"] == ["9"]
    admin_client.post(address, again)
    assert Webhook.objects.get().timeout == 9


def test_a_save_does_not_enable_what_a_worker_has_disabled_meanwhile(admin_client) -> None:
    webhook = make()
    address = page("_edit", webhook.pk)
    fields = open_form(admin_client, address)
    Webhook.objects.update(enabled=False, disabled_reason=DisabledReason.GONE)
    answer = admin_client.post(address, entered(fields, name="CMDB 2"), follow=True)
    assert "was disabled while its form was open" in text_of(answer)
    stored = Webhook.objects.get()
    assert stored.name == "CMDB 2"
    assert not stored.enabled


def test_a_copy_has_the_settings_and_no_secret(admin_client) -> None:
    webhook = make(models=[Site, Device], secret=SECRET, timeout=7, conditions={"attr": "name", "value": "x"})
    address = page("_add", duplicate=webhook.pk)
    assert address.replace("&", "&amp;") in admin_client.get(page("", webhook.pk)).text
    assert "Copied from “CMDB”, without its secrets" in text_of(admin_client.get(address))
    admin_client.post(address, open_form(admin_client, address))
    copy = Webhook.objects.exclude(pk=webhook.pk).get()
    assert copy.name == "CMDB (copy)"
    assert copy.timeout == 7
    assert copy.conditions == {"attr": "name", "value": "x"}
    assert copy.object_types.count() == 2
    assert not copy.secret


def test_the_form_tries_unsaved_values_on_an_object(admin_client) -> None:
    site = Site.objects.create(name="Amsterdam", slug="ams")
    webhook = make()
    for address, form in ((page("_try_new"), page("_add")), (page("_try", webhook.pk), page("_edit", webhook.pk))):
        fields = open_form(admin_client, form)
        chosen = {"try_model": "dcim.site", "try_object": str(site.pk), "try_action": "updated", "try": "show"}
        types = [str(type_of(Site).pk)]
        tried = text_of(
            admin_client.post(address, entered(fields, name="New", payload_url=URL, object_types=types, **chosen))
        )
        assert "would be sent" in tried
        assert "Amsterdam" in tried
    assert Webhook.objects.get().name == "CMDB"


def test_a_search_for_an_object_finds_what_the_list_of_netbox_finds(admin_client) -> None:
    Site.objects.create(name="Amsterdam", slug="ams", facility="Hall 7")
    Site.objects.create(name="Berlin", slug="ber")
    fields = open_form(admin_client, page("_add"))
    tried = admin_client.post(page("_try_new"), entered(fields, try_model="dcim.site", try_find="hall 7")).text
    assert "Amsterdam" in tried
    assert "Berlin" not in tried


def test_conditions_are_tried_on_the_last_events(admin_client) -> None:
    fields = open_form(admin_client, page("_add"))
    answer = admin_client.post(page("_condition_preview"), entered(fields, object_types=[str(type_of(Site).pk)]))
    assert answer.json()["text"] == "There are no stored events of these models and actions to try it on."


# One webhook


def test_the_page_of_a_webhook_shows_its_state_and_settings(admin_client) -> None:
    webhook = make(secret=SECRET, additional_headers="X-Site: {{ data.id }}")
    shown = text_of(admin_client.get(page("", webhook.pk)))
    for text in ("Nothing was sent yet", URL, "dcim.site", "stored, and never shown", "X-Site: {{ data.id }}"):
        assert text in shown, text
    for name in ("_ping", "_pause", "_edit", "_delete", "_journal", "_changelog"):
        assert page(name, webhook.pk) in shown, name


def test_many_models_of_a_webhook_are_folded_by_app(admin_client) -> None:
    many = make("Everything", models=[one.model for one in registrations()])
    html = admin_client.get(page("", many.pk)).content.decode()
    folded = dict(re.findall(r"<details><summary>(\w+) \((\d+)\)</summary>", html))
    assert int(folded["dcim"]) == sum(one.label.startswith("dcim.") for one in registrations())
    few = admin_client.get(page("", make("Few").pk)).content.decode()
    assert "dcim.site" in few
    assert "<details>" not in few


def test_buttons_pause_resume_and_enable_a_webhook(admin_client) -> None:
    webhook = make()
    for name, text in (
        ("pause", "1 webhook paused."),
        ("resume", "1 webhook resumed."),
        ("disable", "1 webhook disabled."),
    ):
        answer = admin_client.post(page(f"_{name}", webhook.pk), follow=True)
        assert answer.redirect_chain[-1][0] == page("", webhook.pk)
        assert text in text_of(answer)
    assert not Webhook.objects.get().enabled
    admin_client.post(page("_enable", webhook.pk))
    assert Webhook.objects.get().enabled


def test_the_page_names_a_problem_and_the_way_out(admin_client) -> None:
    webhook = make()
    admin_client.post(page("_pause", webhook.pk))
    shown = text_of(admin_client.get(page("", webhook.pk)))
    assert "“CMDB” was paused by admin. Its changes are stored and not sent." in shown
    assert "Resume it, and what waits is sent." in shown


def test_a_button_sends_a_test(admin_client) -> None:
    webhook = make()
    assert "A test is on its way to “CMDB”" in text_of(admin_client.post(page("_ping", webhook.pk), follow=True))
    assert Event.objects.get().action == PING
    Webhook.objects.update(enabled=False)
    answer = admin_client.post(page("_ping", webhook.pk), follow=True)
    assert "Enable it before you send a test." in text_of(answer)
    assert Event.objects.count() == 1


def test_a_deletion_takes_the_webhook_and_its_journal(admin_client, admin_user) -> None:
    webhook = make()
    JournalEntry.objects.create(assigned_object=webhook, created_by=admin_user, comments="Contact the receiver first")
    address = page("_delete", webhook.pk)
    assert "1 journal entry" in text_of(admin_client.get(address))
    answer = admin_client.post(address, {"confirm": "true"})
    assert answer.url == page("_list")
    assert ObjectChange.objects.filter(action="delete", object_repr="CMDB", user_name="admin").exists()
    assert not Webhook.with_deleted.exists()
    assert not JournalEntry.objects.exists()


# Several webhooks


def test_a_bulk_edit_changes_the_chosen_webhooks(admin_client) -> None:
    one, two, other = make("One"), make("Two", [Device]), make("Other")
    chosen = {"pk": [one.pk, two.pk]}
    assert "Editing 2 Webhooks" in text_of(admin_client.post(page("_bulk_edit"), chosen))
    changes = {"timeout": "7", "on_deleted": "True", "add_object_types": [type_of(Device).pk]}
    answer = admin_client.post(page("_bulk_edit"), {**chosen, **changes, "_apply": ""}, follow=True)
    assert "Updated 2 webhooks" in text_of(answer)
    assert dict(Webhook.objects.values_list("name", "timeout")) == {"One": 7, "Two": 7, "Other": None}
    assert [one.object_types.count(), two.object_types.count(), other.object_types.count()] == [2, 1, 1]
    assert Webhook.objects.get(pk=two.pk).on_deleted
    admin_client.post(page("_bulk_edit"), {**chosen, "_nullify": "timeout", "_apply": ""})
    assert set(Webhook.objects.values_list("timeout", flat=True)) == {None}


def test_a_bulk_edit_has_each_setting_that_webhooks_may_share(admin_client) -> None:
    webhook = make()
    shown = admin_client.post(page("_bulk_edit"), {"pk": [webhook.pk]}).text
    switches = {one.name for one in Webhook._meta.fields if one.name in SETTINGS and isinstance(one, BooleanField)}
    shared = switches | {"http_method", "timeout", "ca_file_path"}
    assert {name for name in SETTINGS if f'name="{name}"' in shown} == shared
    admin_client.post(page("_bulk_edit"), {"pk": [webhook.pk], "send_trace": "True", "_apply": ""})
    webhook.refresh_from_db()
    assert webhook.send_trace


@pytest.mark.parametrize(("adds_a_model", "most"), [(False, 15), (True, 28)])
def test_a_bulk_edit_costs_few_queries_for_each_webhook(admin_client, adds_a_model: bool, most: int) -> None:
    def queries(count: int) -> int:
        pks = [make(f"{count}, {number}").pk for number in range(count)]
        changes = {"timeout": "7", "add_object_types": [type_of(Device).pk] if adds_a_model else []}
        with CaptureQueriesContext(connection) as captured:
            assert admin_client.post(page("_bulk_edit"), {"pk": pks, **changes, "_apply": ""}).status_code == 302
        return len(captured)

    queries(1)  # caches of NetBox
    assert (queries(12) - queries(2)) / 10 <= most + 2 * IS_OLDER  # NetBox 4.6 caches each for its search


def test_a_bulk_edit_changes_all_that_match_the_filters(admin_client) -> None:
    make("One")
    make("Other", enabled=False)
    address = page("_bulk_edit", enabled="false")
    pks = list(Webhook.objects.filter(enabled=False).values_list("pk", flat=True))
    admin_client.post(address, {"_all": "on", "pk": pks, "enabled": "True", "_apply": ""})
    assert set(Webhook.objects.values_list("enabled", flat=True)) == {True}


def test_a_bulk_edit_keeps_the_rules_of_the_form(client, jo) -> None:
    """This user may not view devices, so they may not have them sent."""
    permit(jo, "view", "change")
    permit(jo, "view", model=Site)
    webhook = make()
    answer = client.post(
        page("_bulk_edit"), {"pk": [webhook.pk], "add_object_types": [type_of(Device).pk], "_apply": ""}
    )
    assert "you may not view all of them" in text_of(answer)
    assert list(webhook.object_types.all()) == [type_of(Site)]


def test_a_bulk_edit_that_would_leave_no_action_changes_nothing(admin_client) -> None:
    one, two = make("One", on_created=True), make("Two")
    answer = admin_client.post(page("_bulk_edit"), {"pk": [one.pk, two.pk], "on_updated": "False", "_apply": ""})
    assert "Two: Choose at least one action" in text_of(answer)
    assert set(Webhook.objects.values_list("on_updated", flat=True)) == {True}


def test_selected_webhooks_are_paused_and_resumed(admin_client) -> None:
    chosen = {"pk": [make("One").pk, make("Two").pk]}
    make("Other")
    assert "2 webhooks paused." in text_of(admin_client.post(page("_bulk_pause"), chosen, follow=True))
    assert Webhook.objects.paused().count() == 2
    assert "2 webhooks resumed." in text_of(admin_client.post(page("_bulk_resume"), {"_all": "on"}, follow=True))
    assert not Webhook.objects.paused().exists()


@pytest.mark.parametrize("key", ["x", "\0", "9" * 5000])
def test_a_key_that_no_webhook_can_have_is_not_found(admin_client, key: str) -> None:
    hook = make("One")
    assert admin_client.post(page("_bulk_pause"), {"pk": [hook.pk, key]}).status_code == 404
    assert not Webhook.objects.get().is_paused


def test_a_bulk_deletion_deletes_the_chosen_webhooks(admin_client) -> None:
    one, two = make("One"), make("Two")
    make("Other")
    chosen = {"pk": [one.pk, two.pk]}
    assert "Delete 2 Webhooks?" in text_of(admin_client.post(page("_bulk_delete"), chosen))
    answer = admin_client.post(page("_bulk_delete"), {**chosen, "confirm": "true", "_confirm": ""}, follow=True)
    assert "2 webhooks deleted." in text_of(answer)
    assert [one.name for one in Webhook.objects.all()] == ["Other"]
    assert ObjectChange.objects.filter(action="delete", object_repr="Two", user_name="admin").exists()


def test_an_import_reads_what_the_list_exports(admin_client) -> None:
    make(models=[Site, Device], on_deleted=True, changed_fields=["name"], conditions={"attr": "name", "value": "Ü"})
    exported = admin_client.get(page("_list") + "?export").text.replace("CMDB", "Copy")
    form = {"import_method": "direct", "data": exported, "format": "yaml", "csv_delimiter": "auto"}
    answer = admin_client.post(page("_bulk_import"), form)
    assert answer.status_code == 302, answer.text[-2000:]
    copy = Webhook.objects.get(name="Copy")
    assert copy.object_types.count() == 2
    assert copy.conditions == {"attr": "name", "value": "Ü"}
    assert copy.changed_fields == ["name"]
    assert [copy.on_created, copy.on_updated, copy.on_deleted] == [False, True, True]


def test_an_import_of_csv_adds_webhooks(admin_client) -> None:
    data = f'name,payload_url,object_types,on_created,http_method\nCMDB,{URL},"dcim.site,dcim.device",true,\n'
    form = {"import_method": "direct", "data": data, "format": "csv", "csv_delimiter": "auto"}
    answer = admin_client.post(page("_bulk_import"), form)
    assert answer.status_code == 302, answer.text[-2000:]
    webhook = Webhook.objects.get()
    assert webhook.http_method == "POST"
    assert webhook.object_types.count() == 2
    assert [webhook.on_created, webhook.on_updated] == [True, False]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (
            "name,payload_url,object_types,on_created\nA,https://a.example,dcim.site,true\nB,https://b.example,dcim.site,false\n",
            "Choose at least one action",
        ),
        ("name,payload_url,object_types,on_created\nA,ftp://a.example,dcim.site,true\n", "payload_url"),
        ("name,payload_url,on_created,object_types\nA,https://a.example,true,dcim.nothing\n", "dcim.nothing"),
        ("name,payload_url,on_created,secret\nA,https://a.example,true,x\n", "Unrecognized header: secret"),
        ("id,name\n1,A\n", "An import adds webhooks."),
    ],
)
def test_an_import_with_an_error_adds_nothing(admin_client, data, problem) -> None:
    form = {"import_method": "direct", "data": data, "format": "csv", "csv_delimiter": "auto"}
    assert problem in text_of(admin_client.post(page("_bulk_import"), form))
    assert not Webhook.objects.exists()


# What NetBox offers for its own objects


def test_the_changelog_of_a_webhook_is_a_tab(admin_client, admin_user) -> None:
    webhook = make()
    change = ObjectChange(
        user=admin_user, request_id="8a7d4d1e-2c38-4f7f-9bbf-4f5d9f1b2f55", action="update", changed_object=webhook,
        message="Changed Name.",
    )  # fmt: skip
    change.full_clean(exclude=["user_name", "object_repr"])
    change.save()
    shown = admin_client.get(page("_changelog", webhook.pk)).text
    assert reverse("core:objectchange", args=[change.pk]) in shown
    assert page("", webhook.pk) in admin_client.get(reverse("core:objectchange", args=[change.pk])).text


def test_a_user_writes_into_the_journal_of_a_webhook(admin_client) -> None:
    webhook = make()
    shown = admin_client.get(page("_journal", webhook.pk)).text
    fields = fields_of(shown, f'action="{reverse("extras:journalentry_add")}"')
    answer = admin_client.post(
        reverse("extras:journalentry_add"), entered(fields, comments="Talked to the receiver.", kind="info")
    )
    entry = webhook.journal_entries.get()
    assert answer.url == page("_journal", webhook.pk)
    assert "Talked to the receiver." in admin_client.get(page("_journal", webhook.pk)).text
    assert page("", webhook.pk) in admin_client.get(entry.get_absolute_url()).text


def test_a_user_bookmarks_a_webhook(admin_client, admin_user) -> None:
    webhook = make()
    assert "Bookmark" in text_of(admin_client.get(page("", webhook.pk)))
    form = {"object_type": type_of(Webhook).pk, "object_id": webhook.pk}
    admin_client.post(reverse("extras:bookmark_add"), form)
    assert [one.object for one in Bookmark.objects.all()] == [webhook]
    assert "CMDB" in admin_client.get(reverse("account:bookmarks")).text


def test_netbox_stores_the_features_of_webhooks() -> None:
    features = ObjectType.objects.get_for_model(Webhook).features
    assert {"bookmarks", "change_logging", "journaling"} <= {*features}
    assert not {"custom_links", "export_templates"} & {*features}
    assert "journaling" not in ObjectType.objects.get_for_model(Event).features


def test_templates_of_netbox_reveal_no_secret() -> None:
    make(secret=SECRET)
    for code in ("secret.reveal()", "overlapping_secret(now)", "secret_headers.reveal()"):
        template = ExportTemplate(name="x", template_code=f"{{{{ rq_webhooks.Webhook.objects.first().{code} }}}}")
        with pytest.raises(SecurityError):
            template.render()


# Rights


def addresses(webhook: Webhook) -> list[tuple[str, str]]:
    """The name and the address of each page of webhooks."""
    found = []
    for view in registry["views"]["rq_webhooks"]["webhook"]:
        name = f"_{view['name']}" if view["name"] else ""
        found.append((name, page(name, *([webhook.pk] if view["detail"] else []))))
    return found


def test_a_user_without_rights_gets_no_page(client, jo) -> None:
    webhook = make()
    pages = addresses(webhook)
    assert len(pages) > 20
    for name, address in pages:
        expected = 404 if name in ("_journal", "_changelog") else 403
        assert client.get(address).status_code == expected, name
        assert client.post(address).status_code in (403, 405), name
    assert Webhook.objects.get().enabled


def test_a_user_who_is_not_logged_in_is_asked_to(client) -> None:
    for name, address in addresses(make()):
        assert client.get(address).url.startswith(reverse("login")), name


def test_a_viewer_sees_no_button_and_no_hidden_value(client, jo) -> None:
    permit(jo, "view")
    webhook = make(additional_headers="X-Token: hush")
    shown = client.get(page("", webhook.pk)).text
    assert "https://cmdb.example.com/" in shown
    for hidden in ("token-4711", "hush", *(page(name, webhook.pk) for name in ("_ping", "_pause", "_edit", "_delete"))):
        assert hidden not in shown, hidden
    listed = client.get(page("_list")).text
    assert "CMDB" in listed
    for hidden in (
        page("_add"),
        page("_bulk_edit"),
        page("_bulk_pause"),
        page("_bulk_delete"),
        page("_edit", webhook.pk),
    ):
        assert hidden not in listed, hidden


def test_a_user_with_rights_for_some_webhooks_sees_and_changes_these_alone(client, jo) -> None:
    permit(jo, "view", "change", "delete", constraints={"name__startswith": "Mine"})
    permit(jo, "view", model=Site)
    mine, other = make("Mine"), make("Other")
    listed = client.get(page("_list")).text
    assert "Mine" in listed
    assert "Other" not in listed
    for name in ("", "_edit", "_delete", "_journal", "_changelog"):
        assert client.get(page(name, mine.pk)).status_code == 200, name
        assert client.get(page(name, other.pk)).status_code == 404, name
    for name in ("_ping", "_pause", "_enable", "_try"):
        assert client.post(page(name, other.pk)).status_code == 404, name
    both = {"pk": [mine.pk, other.pk]}
    client.post(page("_bulk_pause"), both)
    client.post(page("_bulk_edit"), {**both, "timeout": "7", "_apply": ""})
    assert dict(Webhook.objects.values_list("name", "timeout")) == {"Mine": 7, "Other": None}
    assert [one.name for one in Webhook.objects.paused()] == ["Mine"]
    client.post(page("_bulk_delete"), {**both, "confirm": "true", "_confirm": ""})
    assert [one.name for one in Webhook.objects.all()] == ["Other"]


def test_a_user_cannot_rename_a_webhook_out_of_their_rights(client, jo) -> None:
    permit(jo, "view", "change", constraints={"name__startswith": "Mine"})
    permit(jo, "view", model=Site)
    webhook = make("Mine")
    address = page("_edit", webhook.pk)
    answer = client.post(address, entered(open_form(client, address), name="Theirs"))
    assert "none with these values" in text_of(answer)
    assert Webhook.objects.get().name == "Mine"


def test_a_viewer_of_other_webhooks_gets_no_button_for_this_one(client, jo) -> None:
    permit(jo, "view")
    permit(jo, "change", "delete", constraints={"name": "Mine"})
    webhook = make("Other")
    shown = client.get(page("", webhook.pk)).text
    for name in ("_edit", "_delete", "_pause"):
        assert page(name, webhook.pk) not in shown, name


def test_a_user_cannot_send_secret_headers_to_another_receiver(client, jo) -> None:
    """The destination rule of the core's form."""
    permit(jo, "view", "change")
    permit(jo, "view", model=Site)
    webhook = make(secret_headers="Authorization: Bearer hush")
    address = page("_edit", webhook.pk)
    answer = client.post(address, entered(open_form(client, address), payload_url="https://other.example.com/"))
    assert "They would go to the new destination: enter them again, or clear them." in text_of(answer)
    assert Webhook.objects.get().payload_url == URL
