"""The action "Deliver durably" of NetBox's event rules."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import requests
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from extras.models import EventRule
from extras.models import Webhook as Original
from extras.webhooks import send_webhook
from netbox.registry import registry

from core.models import DataSource, Job, ObjectType
from dcim.models import Site
from tests.support.html_forms import fields_of
from tests.support.inbox import Inbox
from tests.support.netbox import api_client
from tests.support.netbox_rules import make_original, make_rule
from tests.support.netbox_users import browser, make_user
from users.models import ObjectPermission, User
from webhooks import why
from webhooks.contrib.netbox import event_rules
from webhooks.contrib.netbox.event_rules import EVENT, DeliverDurably, find_copy, follow
from webhooks.ground import payloads
from webhooks.insight.silence import read_unregistered
from webhooks.models import Event, Skip, Webhook
from webhooks.models.permissions import visible_events
from webhooks.operations.replays import replay
from webhooks.pages.event import EventPage
from webhooks.testing import deliver
from webhooks.workers import jobs

pytestmark = pytest.mark.django_db

DURABLY = {"action_type": DeliverDurably.slug}
SITE = {"name": "AMS1", "slug": "ams1", "status": "active"}


@pytest.fixture
def original() -> Original:
    return make_original(secret="s3cret", additional_headers="X-Env: lab\nAuthorization: Token abc")


@pytest.fixture
def site() -> Site:
    return Site.objects.create(**SITE)


def patch_site(client: Client, site: Site, **fields: Any) -> Any:
    return client.patch(f"/api/dcim/sites/{site.pk}/", fields, content_type="application/json")


def bodies() -> list[dict[str, Any]]:
    return [json.loads(payloads.json_body(event)) for event in Event.objects.order_by("pk")]


def copy_of(original: Original) -> Webhook:
    copy = find_copy(original)
    assert copy is not None
    return copy


# Choosing the action


def test_a_site_changes_nothing_but_the_action(admin_client: Client, original: Original, site: Site) -> None:
    rule = make_rule(original)
    answer = admin_client.patch(f"/api/extras/event-rules/{rule.pk}/", DURABLY, content_type="application/json")
    assert answer.status_code == 200, answer.text
    assert answer.json()["action_object"]["name"] == original.name
    answer = patch_site(admin_client, site, status="retired")
    assert answer.status_code == 200
    [event] = Event.objects.all()
    assert event.webhook_ids == [copy_of(original).pk]
    assert (event.action, event.object_type, event.object_id) == ("updated", "dcim.site", str(site.pk))
    assert (event.username, event.request_id, event.object_repr) == ("admin", answer["X-Request-ID"], "AMS1")
    assert json.loads(event.changed) == ["status"]
    assert (event.error, event.depth) == ("", 1)


def test_a_rule_is_defined_on_netbox_own_page(admin_client: Client, original: Original) -> None:
    page = admin_client.get("/extras/event-rules/add/", {"action_type": DeliverDurably.slug})
    assert "Deliver durably" in page.text
    sites = ObjectType.objects.get_by_natural_key("dcim", "site").pk
    rule = {"name": "Sites", "object_types": [sites], "event_types": ["object_created"], "enabled": "on"}
    answer = admin_client.post("/extras/event-rules/add/", rule | DURABLY | {"action_choice": original.pk})
    assert answer.status_code == 302, answer.text
    assert copy_of(original).custom_events == [EVENT]
    assert admin_client.post("/dcim/sites/add/", SITE).status_code == 302
    assert [(event.action, event.object_repr) for event in Event.objects.all()] == [("created", "AMS1")]


def test_rules_are_imported_with_the_name_of_the_webhook(admin_client: Client, original: Original) -> None:
    rows = "name,object_types,event_types,action_type,action_object\n"
    rows += f"Sites,dcim.site,object_created,{DeliverDurably.slug},CMDB\n"
    answer = admin_client.post("/extras/event-rules/import/", {"data": rows, "format": "csv", "csv_delimiter": ","})
    assert answer.status_code == 302, answer.text
    assert EventRule.objects.get().action_object == original


def test_a_webhook_that_this_app_would_not_send_is_refused_with_the_reason(admin_client: Client) -> None:
    metadata = make_original(payload_url="http://169.254.169.254/latest")
    rule = make_rule(metadata)
    answer = admin_client.patch(f"/api/extras/event-rules/{rule.pk}/", DURABLY, content_type="application/json")
    assert answer.status_code == 400
    assert "cannot be delivered durably. payload_url:" in answer.text
    assert not Webhook.objects.exists()


def test_a_rule_needs_a_webhook() -> None:
    with pytest.raises(ValidationError, match="requires a target object"):
        make_rule(None, **DURABLY)


def test_a_user_chooses_among_the_webhooks_that_they_may_view(client: Client, original: Original) -> None:
    other = make_original("Other")
    user = User.objects.create_user("ben")
    permission = ObjectPermission.objects.create(name="rules", actions=["view", "add", "change"])
    permission.object_types.add(ObjectType.objects.get_for_model(EventRule))
    permission.users.add(user)
    mine = ObjectPermission.objects.create(name="one webhook", actions=["view"], constraints={"name": "CMDB"})
    mine.object_types.add(ObjectType.objects.get_for_model(Original))
    mine.users.add(user)
    client.force_login(user)
    sites = ObjectType.objects.get_by_natural_key("dcim", "site").pk
    rule = {"name": "Sites", "object_types": [sites], "event_types": ["object_created"], "enabled": "on"} | DURABLY
    refused = client.post("/extras/event-rules/add/", rule | {"action_choice": other.pk})
    assert refused.status_code == 200
    assert not EventRule.objects.exists()
    assert client.post("/extras/event-rules/add/", rule | {"action_choice": original.pk}).status_code == 302


# What is sent


def test_the_payload_has_all_that_netbox_own_action_sends(admin_client: Client, original: Original, site: Site) -> None:
    make_rule(original, name="Durable", action_data={"team": "noc", "name": "not this"}, **DURABLY)
    make_rule(original, name="NetBox's own", action_data={"team": "noc", "name": "not this"})
    with patch("extras.event_rules.get_queue") as get_queue:
        answer = patch_site(admin_client, site, status="retired", description="Closed")
        assert admin_client.delete(f"/api/dcim/sites/{site.pk}/").status_code == 204
    assert answer.status_code == 200
    queued = [call.kwargs for call in get_queue.return_value.enqueue.call_args_list]
    ours = bodies()
    assert len(queued) == len(ours) == 2
    for job, mine in zip(queued, ours, strict=True):
        with patch.object(requests.Session, "send") as send:
            send.return_value.status_code = 200
            send_webhook(**{name: value for name, value in job.items() if name != "retry"})
        theirs = json.loads(send.call_args.args[0].body)
        assert theirs.pop("timestamp")
        assert {name: mine[name] for name in theirs} == theirs
        assert (mine["data"]["team"], mine["data"]["name"]) == ("noc", "AMS1")
    more = {"model", "username", "request_id", "sequence", "changed"}
    assert mine.keys() - theirs.keys() == more | {"timestamp"}


def test_each_event_is_one_request(admin_client: Client, inbox: Inbox, site: Site, settings: Any) -> None:
    settings.WEBHOOKS = {**settings.WEBHOOKS, "ALLOW_NETWORKS": ["127.0.0.0/8"]}
    original = make_original(payload_url=inbox.url(), secret="s3cret", additional_headers="X-Env: lab\nX-Api-Key: k1")
    make_rule(original, **DURABLY)
    patch_site(admin_client, site, status="retired")
    assert [attempt.status for attempt in deliver()] == [200]
    [request] = inbox.received()
    assert (request.json["event"], request.json["data"]["status"]["value"]) == ("updated", "retired")
    assert (request.headers["x-env"], request.headers["x-api-key"]) == ("lab", "k1")
    assert request.headers["x-hook-signature"]


def test_conditions_of_the_rule_decide(admin_client: Client, original: Original) -> None:
    conditions = {"and": [{"attr": "status.value", "value": "active"}]}
    make_rule(original, conditions=conditions, **DURABLY)
    for number, status in enumerate(["planned", "active", "retired"]):
        site = {"name": f"S{number}", "slug": f"s{number}", "status": status}
        assert admin_client.post("/api/dcim/sites/", site, content_type="application/json").status_code == 201
    assert [(event.action, event.object_repr) for event in Event.objects.all()] == [("created", "S1")]


def test_several_rules_of_one_webhook_send_an_event_each(admin_client: Client, original: Original, site: Site) -> None:
    make_rule(original, name="One", action_data={"rule": 1}, **DURABLY)
    make_rule(original, name="Two", action_data={"rule": 2}, **DURABLY)
    patch_site(admin_client, site, status="retired")
    assert [body["data"]["rule"] for body in bodies()] == [1, 2]
    assert Webhook.objects.count() == 1


def test_events_of_jobs_are_sent(original: Original) -> None:
    types = ["job_started", "job_completed"]
    make_rule(original, "core.datasource", event_types=types, action_data={"team": "noc"}, **DURABLY)
    source = DataSource.objects.create(name="Repo", type="local", source_url="/tmp")
    about = {"object_type": ObjectType.objects.get_for_model(DataSource), "object_id": source.pk}
    user = User.objects.create_user("ben")
    job = Job.objects.create(name="Sync", user=user, job_id=uuid.uuid4(), data=None, **about)
    job.start()
    job.data = {"synced": 3}
    job.terminate()
    found = [(body["event"], body["object_type"], body["username"], body["data"]) for body in bodies()]
    assert found == [
        ("job_started", "core.datasource", "ben", {"team": "noc"}),
        ("job_ended", "core.datasource", "ben", {"team": "noc", "synced": 3}),
    ]


def test_pages_show_the_event_of_a_job(original: Original) -> None:
    make_rule(original, "core.datasource", event_types=["job_started"], **DURABLY)
    about = {"object_type": ObjectType.objects.get_for_model(DataSource), "object_id": 1}
    Job.objects.create(name="Sync", user=None, job_id=uuid.uuid4(), **about).start()
    admin, ben = User.objects.create_superuser("ada"), User.objects.create_user("ben")
    event = Event.objects.get()
    assert EventPage(event, admin).event == event
    assert visible_events(admin).get() == event
    assert not visible_events(ben).exists()
    [verdict] = why(event=event, user=admin)
    assert (verdict.webhook, verdict.text != "") == (copy_of(original), True)
    [replayed] = replay([event])
    assert replayed.event is not None
    assert (replayed.event.action, replayed.event.data) == ("job_started", event.data)


def test_a_replay_reads_the_object_again(admin_client: Client, original: Original, site: Site) -> None:
    make_rule(original, action_data={"team": "noc"}, **DURABLY)
    patch_site(admin_client, site, status="retired")
    Site.objects.update(description="Closed")
    [replayed] = replay(list(Event.objects.all()))
    assert replayed.event is not None
    data = json.loads(replayed.event.data)
    found = replayed.event.webhook_ids, data["description"], "team" in data
    assert found == ([copy_of(original).pk], "Closed", False)


def test_a_webhook_that_wants_the_model_itself_gets_its_own_event_once(
    admin_client: Client, original: Original, site: Site
) -> None:
    make_rule(original, **DURABLY)
    own = Webhook.objects.create(name="Own", payload_url="http://10.0.0.6/", on_updated=True)
    own.object_types.add(ContentType.objects.get_for_model(Site))
    patch_site(admin_client, site, status="retired")
    assert sorted(event.webhook_ids for event in Event.objects.all()) == sorted([[own.pk], [copy_of(original).pk]])


# Without Redis


@pytest.fixture
def no_redis(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """RQ's Redis is away. NetBox's cache is another one."""
    for queue in settings.RQ_QUEUES.values():
        monkeypatch.setitem(queue, "PORT", 1)  # nothing listens there
    jobs._queue.cache_clear()
    yield
    jobs._queue.cache_clear()


@pytest.mark.usefixtures("no_redis")
def test_without_redis_the_event_waits_in_the_database(
    admin_client: Client, original: Original, site: Site, django_capture_on_commit_callbacks: Any
) -> None:
    make_rule(original, **DURABLY)
    with django_capture_on_commit_callbacks(execute=True):
        assert patch_site(admin_client, site, status="retired").status_code == 200
    assert [body["event"] for body in bodies()] == ["updated"]


@pytest.mark.usefixtures("no_redis")
def test_without_redis_netbox_own_action_loses_the_event_and_fails(
    admin_client: Client, original: Original, site: Site
) -> None:
    make_rule(original)
    admin_client.raise_request_exception = False
    assert patch_site(admin_client, site, status="retired").status_code == 500
    site.refresh_from_db()
    assert site.status == "retired"


# The copy


def test_the_copy_has_the_settings_of_its_original(original: Original) -> None:
    make_rule(original, **DURABLY)
    copy = copy_of(original)
    assert (copy.name, copy.payload_url, copy.enabled) == ("CMDB (event rules)", "http://10.0.0.5/hooks", True)
    assert (copy.additional_headers, copy.secret_headers.reveal()) == ("X-Env: lab", "Authorization: Token abc")
    assert copy.secret.reveal() == "s3cret"
    assert not copy.actions
    assert not copy.object_types.exists()


def test_the_copy_follows_edits_at_once_and_keeps_settings_of_its_own(admin_client: Client, original: Original) -> None:
    make_rule(original, **DURABLY)
    Webhook.objects.update(ordered=False, conditions={"attr": "name", "value": "AMS1"})
    change = {"payload_url": "http://10.0.0.7/moved", "name": "CMDB 2", "secret": "other"}
    answer = admin_client.patch(f"/api/extras/webhooks/{original.pk}/", change, content_type="application/json")
    assert answer.status_code == 200
    copy = copy_of(original)
    assert (copy.name, copy.payload_url, copy.secret.reveal()) == (
        "CMDB 2 (event rules)",
        "http://10.0.0.7/moved",
        "other",
    )
    assert (copy.ordered, copy.conditions) == (False, {"attr": "name", "value": "AMS1"})


def test_filters_of_the_copy_count_too(admin_client: Client, original: Original, site: Site) -> None:
    make_rule(original, **DURABLY)
    copy = copy_of(original)
    copy.conditions = {"attr": "status.value", "value": "retired"}
    copy.save()
    patch_site(admin_client, site, description="Closed soon")
    patch_site(admin_client, site, status="retired")
    assert [body["data"]["status"]["value"] for body in bodies()] == ["retired"]
    assert [skip.rule for skip in Skip.objects.all()] == ["condition"]


def test_a_disabled_copy_skips_and_says_why(admin_client: Client, original: Original, site: Site) -> None:
    make_rule(original, **DURABLY)
    Webhook.objects.update(enabled=False)
    patch_site(admin_client, site, status="retired")
    assert not Event.objects.exists()
    assert [(skip.rule, skip.action, skip.object_id) for skip in Skip.objects.all()] == [
        ("disabled", "updated", str(site.pk))
    ]


def test_an_edit_that_this_app_refuses_is_no_loss(admin_client: Client, original: Original, site: Site) -> None:
    make_rule(original, **DURABLY)
    original.payload_url = "http://169.254.169.254/latest"
    original.save()
    patch_site(admin_client, site, status="retired")
    assert len(bodies()) == 1
    [attempt] = deliver()
    assert not attempt.succeeded
    assert "169.254.169.254" in attempt.reason


def test_deleting_the_original_disables_the_copy(admin_client: Client, original: Original) -> None:
    make_rule(original, **DURABLY)
    pk = copy_of(original).pk
    assert admin_client.delete(f"/api/extras/webhooks/{original.pk}/").status_code == 204
    assert not Webhook.objects.get(pk=pk).enabled


def test_a_webhook_with_the_name_of_a_deleted_one_is_delivered(
    admin_client: Client, original: Original, site: Site
) -> None:
    make_rule(original, **DURABLY)
    assert admin_client.delete(f"/api/extras/webhooks/{original.pk}/").status_code == 204
    new = make_original(original.name)
    make_rule(new, **DURABLY)
    patch_site(admin_client, site, status="retired")
    assert [event.webhook_ids for event in Event.objects.all()] == [[copy_of(new).pk]]
    assert copy_of(new).name == f"CMDB (event rules {new.pk})"


def test_no_name_of_another_webhook_stops_the_copy(admin_client: Client, original: Original, site: Site) -> None:
    make_rule(original, **DURABLY)
    taken = ["ERP (event rules)", f"ERP (event rules {original.pk})"]
    for name in taken:
        Webhook.objects.create(name=name, payload_url="http://10.0.0.6/", on_updated=True)
    names = set()
    for number in (1, 2):
        Original.objects.filter(pk=original.pk).update(name="ERP", payload_url=f"http://10.0.0.{number}/")
        patch_site(admin_client, site, description=str(number))
        copy = copy_of(original)
        assert copy.payload_url == f"http://10.0.0.{number}/"
        names.add(copy.name)
    assert len(names.difference(taken)) == len(names) == 1
    assert [event.webhook_ids for event in Event.objects.all()] == [[copy.pk], [copy.pk]]


def test_a_copy_that_another_process_creates_meanwhile_is_used(
    admin_client: Client, original: Original, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_rule(original, **DURABLY)
    copy, looks = copy_of(original), iter([None])
    monkeypatch.setattr(event_rules, "find_copy", lambda original: next(looks, copy))
    patch_site(admin_client, site, status="retired")
    assert [event.webhook_ids for event in Event.objects.all()] == [[copy.pk]]


def test_a_user_cannot_define_the_copy_of_a_webhook(original: Original) -> None:
    user = make_user("view_webhook", "add_webhook", "change_webhook")
    own = Webhook.objects.create(name="Mine", payload_url="http://10.0.0.6/", on_updated=True)
    webhook = {"name": "Copy", "payload_url": "http://10.0.0.6/", "custom_events": [EVENT]}
    identifier = {"identifier": f"netbox-webhook-{original.pk}"}
    api = api_client(user)
    for refused in (
        api.post("/api/plugins/webhooks/webhooks/", webhook | identifier, format="json"),
        api.put(f"/api/plugins/webhooks/webhooks/{identifier['identifier']}/", webhook, format="json"),
        api.patch(f"/api/plugins/webhooks/webhooks/{own.pk}/", identifier, format="json"),
    ):
        assert (refused.status_code, refused.json().keys()) == (400, {"identifier"})
    page = browser(user).post("/plugins/webhooks/webhooks/add/", webhook | identifier)
    assert "are reserved for copies of NetBox&#x27;s webhooks." in page.text
    make_rule(original, **DURABLY)
    assert copy_of(original).payload_url == original.payload_url


def test_only_a_copy_can_have_the_event_of_copies(admin_client: Client, original: Original) -> None:
    form = admin_client.get("/plugins/webhooks/webhooks/add/").text
    assert EVENT not in form
    webhook = {"name": "Mine", "payload_url": "http://10.0.0.6/", "custom_events": [EVENT]}
    refused = admin_client.post("/api/plugins/webhooks/webhooks/", webhook, content_type="application/json")
    assert (refused.status_code, refused.json().keys()) == (400, {"custom_events"})
    make_rule(original, **DURABLY)
    copy = copy_of(original)
    path = f"/plugins/webhooks/webhooks/{copy.pk}/edit/"
    assert f'value="{EVENT}"' in admin_client.get(path).text
    assert read_unregistered([copy]) == {}
    shown = admin_client.get(f"/api/plugins/webhooks/webhooks/{copy.pk}/").json()
    assert (shown["custom_events"], shown["unregistered"]) == ([EVENT], [])


def test_other_settings_of_a_copy_can_be_edited(admin_client: Client, original: Original) -> None:
    make_rule(original, **DURABLY)
    path = f"/api/plugins/webhooks/webhooks/{copy_of(original).pk}/"
    answer = admin_client.patch(path, {"ordered": False}, content_type="application/json")
    assert answer.status_code == 200, answer.text
    assert not copy_of(original).ordered


def test_the_form_shows_what_netbox_determines_and_saves_the_rest(admin_client: Client, original: Original) -> None:
    Original.objects.update(body_template="{\n  {{ data.name }}\n}")
    make_rule(Original.objects.get(), **DURABLY)
    copy = copy_of(original)
    address = f"/plugins/webhooks/webhooks/{copy.pk}/edit/"
    posted = fields_of(admin_client.get(address).content.decode(), 'enctype="multipart/form-data"')
    assert posted.keys().isdisjoint({"secret", "secret_headers", "clear_secret"})
    other = {"payload_url": "http://10.0.0.66/", "body_template": "{{ data }}", "secret": "other"}
    answer = admin_client.post(address, posted | other | {"description": "Ask the NOC."})
    assert answer.status_code == 302, answer.text
    saved = copy_of(original)
    assert (saved.description, saved.secret.reveal()) == ("Ask the NOC.", "s3cret")
    assert (saved.payload_url, saved.body_template) == (copy.payload_url, copy.body_template)


def test_what_waits_for_the_receiver_of_a_copy_cannot_be_sent_elsewhere(original: Original, site: Site) -> None:
    """Nobody must view all sites to change a webhook without models."""
    make_rule(original, **DURABLY)
    copy = copy_of(original)
    elsewhere = {"payload_url": "http://10.0.0.66/", "secret_headers": "", "secret": "", "name": "Mine"}
    api = api_client(make_user("view_webhook", "change_webhook"))
    refused = api.patch(f"/api/plugins/webhooks/webhooks/{copy.pk}/", elsewhere, format="json")
    assert refused.status_code == 400
    remedy = ["Change this at NetBox's webhook. The copy follows it."]
    assert refused.json() == dict.fromkeys(elsewhere, remedy)
    page = browser(make_user("view_webhook", "change_webhook")).get(f"/plugins/webhooks/webhooks/{copy.pk}/edit/")
    assert page.status_code == 200
    original.payload_url = "http://10.0.0.8/"
    original.save()
    assert copy_of(original).payload_url == "http://10.0.0.8/"


def test_a_constraint_hides_copies(original: Original) -> None:
    make_rule(original, **DURABLY)
    own = Webhook.objects.create(name="Mine", payload_url="http://10.0.0.6/", on_updated=True)
    api = api_client(make_user("view_webhook", "change_webhook", constraints={"custom_events": []}))
    assert [one["id"] for one in api.get("/api/plugins/webhooks/webhooks/").json()["results"]] == [own.pk]
    path = f"/api/plugins/webhooks/webhooks/{copy_of(original).pk}/"
    assert api.patch(path, {"ordered": False}, format="json").status_code == 404


def test_a_file_neither_has_nor_removes_a_copy(original: Original, tmp_path: Path) -> None:
    make_rule(original, **DURABLY)
    file, output = tmp_path / "webhooks.json", io.StringIO()
    call_command("webhooks_export", "--json", stdout=output)
    file.write_text(output.getvalue())
    assert json.loads(output.getvalue()) == {"webhooks": []}
    call_command("webhooks_apply", "--noinput", "--prune", str(file), stdout=output)
    assert copy_of(original).enabled


@pytest.mark.parametrize("name", ["CMDB\u202e", "x" * 150])
def test_no_name_of_netbox_is_invalid_for_a_copy(original: Original, name: str) -> None:
    Original.objects.update(name=name)
    original.refresh_from_db()
    make_rule(original, **DURABLY)
    copy_of(original).full_clean()


def test_long_names_that_begin_alike_are_no_conflict(admin_client: Client, site: Site) -> None:
    originals = [make_original("x" * 140 + end) for end in "12"]
    for one in originals:
        make_rule(one, name=f"Sites {one.pk}", **DURABLY)
    patch_site(admin_client, site, status="retired")
    assert sorted(event.webhook_ids[0] for event in Event.objects.all()) == [copy_of(one).pk for one in originals]


def test_a_copy_that_is_being_deleted_is_created_again(admin_client: Client, original: Original, site: Site) -> None:
    make_rule(original, **DURABLY)
    Webhook.objects.filter(pk=copy_of(original).pk).delete()  # a sweep deletes the row, and many deliveries before it
    patch_site(admin_client, site, status="retired")
    assert [event.webhook_ids for event in Event.objects.all()] == [[copy_of(original).pk]]


def test_an_event_reads_only_the_copy_beside_its_rule(original: Original) -> None:
    make_rule(original, **DURABLY)
    found = Original.objects.get()
    with CaptureQueriesContext(connection) as queries:
        follow(found)
    assert [query["sql"].count('FROM "rq_webhooks_webhook"') for query in queries] == [1]


def test_netbox_saves_its_webhooks_and_rules_without_the_tables_of_the_plugin(
    original: Original, caplog: pytest.LogCaptureFixture
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE rq_webhooks_webhook RENAME TO gone")
    original.description = "Edited"
    original.save()
    EventRule.objects.create(name="Sites", action_object=original, event_types=["object_created"], **DURABLY)
    assert Original.objects.get().description == "Edited"
    original.delete()
    assert not Original.objects.exists()
    logged = [one.getMessage() for one in caplog.records if one.name == event_rules.__name__ or "copy" in one.msg]
    assert logged == ["The copy of NetBox's webhook CMDB cannot be changed"] * 3


def test_a_webhook_without_a_durable_rule_has_no_copy(original: Original) -> None:
    make_rule(original)
    original.save()
    assert not Webhook.objects.exists()


def test_the_action_is_registered_once() -> None:
    assert isinstance(registry["event_rule_actions"][DeliverDurably.slug], DeliverDurably)
