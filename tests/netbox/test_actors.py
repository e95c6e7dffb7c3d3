"""Events name the user and the request behind a change: in pages, the REST API, jobs and scripts."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from django.test import RequestFactory
from django.urls import reverse
from extras.jobs import ScriptJob
from extras.models import Script, ScriptModule, Tag
from extras.scripts import Script as BaseScript
from netbox import jobs
from netbox.context_managers import event_tracking
from netbox.jobs import JobRunner
from packaging.version import Version
from utilities.exceptions import AbortScript
from utilities.request import NetBoxFakeRequest
from utilities.serialization import deserialize_object

from dcim.models import Site
from tests.support.netbox import IS_OLDER, NETBOX, admin, api_client, watch
from webhooks.models import Event
from webhooks.testing import capture_webhooks

pytestmark = pytest.mark.django_db


def request_of(event: Any) -> dict[str, Any]:
    stored = Event.objects.get(request_id=event.request_id, object_id=event.object_id, action=event.action)
    found: dict[str, Any] = json.loads(stored.request)
    return found


def a_request(user: Any, **meta: str) -> NetBoxFakeRequest:
    """The copy of a request that NetBox gives to a job."""
    values = {"META": meta, "COOKIES": {}, "POST": {}, "GET": {}, "FILES": {}, "user": user, "method": "POST"}
    return NetBoxFakeRequest(
        {**values, "path": "/extras/scripts/1/", "path_info": "/extras/scripts/1/", "id": uuid.uuid4()}
    )


def test_a_page_names_the_user_of_the_session(client) -> None:
    watch("dcim.site")
    client.force_login(admin("paul"))
    with capture_webhooks(subscribe=[]) as events:
        answer = client.post(reverse("dcim:site_add"), {"name": "Ulm", "slug": "ulm", "status": "active"})
        assert answer.status_code == 302, answer.content[:2000]
    [event] = events
    assert (event.username, event.request_id) == ("paul", str(answer["X-Request-ID"]))
    request = request_of(event)
    assert (request["method"], request["path"], request["user"]) == ("POST", "/dcim/sites/add/", "paul")


def test_the_rest_api_names_the_user_of_the_token() -> None:
    watch("dcim.site")
    with capture_webhooks(subscribe=[]) as events:
        answer = api_client(admin("robot")).post("/api/dcim/sites/", {"name": "Ulm", "slug": "ulm"}, format="json")
        assert answer.status_code == 201
    [event] = events
    assert (event.username, event.request_id) == ("robot", str(answer["X-Request-ID"]))
    assert request_of(event)["path"] == "/api/dcim/sites/"


class CreateSite(JobRunner):
    """A job of a plugin, without a request."""

    def run(self, **kwargs: Any) -> None:
        Site.objects.create(name="Ulm", slug="ulm")
        if kwargs.get("fails"):
            raise ValueError("no")


@pytest.mark.parametrize("fails", [False, True])
def test_a_job_names_the_user_who_started_it(fails) -> None:
    watch("dcim.site")
    with capture_webhooks(subscribe=[]) as events:
        job = CreateSite.enqueue(user=admin("paul"), immediate=True, fails=fails)
        Site.objects.create(name="Bonn", slug="bonn")
    first, second = events
    assert (first.username, first.request_id) == ("paul", str(job.job_id))
    assert (second.username, second.request_id) == ("", "")


@pytest.mark.skipif(IS_OLDER, reason="NetBox 4.6 has no requests in the background")
def test_a_background_request_of_the_rest_api_names_its_user_and_request(monkeypatch) -> None:
    watch("dcim.site")
    user = admin("robot")
    request = a_request(user, SERVER_NAME="netbox.example", HTTP_X_WEBHOOK_DEPTH="1")
    with capture_webhooks(subscribe=[]) as events:
        jobs.AsyncAPIJob.enqueue(
            user=user,
            immediate=True,
            viewset_class="dcim.api.views.SiteViewSet",
            action="create",
            payload=[{"name": "Ulm", "slug": "ulm"}],
            user_pk=user.pk,
            request=request,
        )
    [event] = events
    assert (event.username, event.request_id) == ("robot", str(request.id))
    # Before 4.7.3, such a request had no headers.
    assert Event.objects.get().depth == (2 if Version("4.7.3") <= NETBOX else 1)


class CreateSites(BaseScript):
    """Creates some sites, and changes each."""

    def run(self, data: Any, commit: bool) -> str:
        for name in ("ulm", "bonn", "kiel"):
            site = Site.objects.create(name=name, slug=name)
            site.description = "x"
            site.save()
        if data.get("aborts"):
            raise AbortScript("no")
        return ""


@pytest.fixture
def script(monkeypatch) -> Script:
    [module] = ScriptModule.objects.bulk_create([ScriptModule(file_root="scripts", file_path="sites.py")])
    found = Script.objects.create(module=module, name="CreateSites")
    monkeypatch.setattr(Script, "python_class", CreateSites)
    return found


def test_a_script_names_its_user_and_request(script) -> None:
    watch("dcim.site")
    request = a_request(user := admin("paul"))
    with capture_webhooks(subscribe=[]) as events:
        ScriptJob.enqueue(instance=script, user=user, immediate=True, data={}, request=request, commit=True)
    assert [(one.action, one.data["description"]) for one in events] == [("created", "x")] * 3
    assert {(one.username, one.request_id) for one in events} == {("paul", str(request.id))}
    assert request_of(events[0])["path"] == "/extras/scripts/1/"


def test_the_changes_of_a_script_are_recorded_together(script, monkeypatch) -> None:
    watch("dcim.site")
    inserted, insert_all = list[int](), Event.insert_all
    monkeypatch.setattr(Event, "insert_all", lambda new, using: inserted.append(len(new)) or insert_all(new, using))
    request = a_request(user := admin("paul"))
    with capture_webhooks(subscribe=[]) as events:
        ScriptJob.enqueue(instance=script, user=user, immediate=True, data={}, request=request, commit=True)
    assert (len(events), inserted) == (3, [3])


@pytest.mark.parametrize(("data", "commit"), [({}, False), ({"aborts": True}, True)])
def test_a_script_that_is_rolled_back_sends_nothing(script, data, commit) -> None:
    watch("dcim.site")
    request = a_request(user := admin("paul"))
    with capture_webhooks(subscribe=[]) as events:
        ScriptJob.enqueue(instance=script, user=user, immediate=True, data=data, request=request, commit=commit)
    assert not Site.objects.exists()
    assert events == []


def test_a_script_without_a_request_runs_as_the_user_of_its_job(script) -> None:
    watch("dcim.site")
    with capture_webhooks(subscribe=[]) as events:
        job = ScriptJob.enqueue(instance=script, user=admin("paul"), immediate=True, data={}, commit=True)
    assert {(one.username, one.request_id) for one in events} == {("paul", str(job.job_id))}
    assert len(events) == 3


def merge_a_site(name: str) -> None:
    """Create a site as a merge of netbox-branching does, from the data of a change in the branch."""
    Tag.objects.get_or_create(name="red", slug="red")
    data = {"name": name, "slug": name.lower(), "status": "active", "tags": ["red"], "custom_fields": {}}
    deserialize_object(Site, data, pk=4711).save(using="default")


def test_a_change_that_a_merge_repeats_names_the_user_of_the_change() -> None:
    watch("dcim.site")
    request = RequestFactory().get("/")
    request.id, request.user = uuid.uuid4(), admin("mary")
    with capture_webhooks(subscribe=[]) as events:
        job = MergeJob.enqueue(user=admin("paul"), immediate=True, request=request)
        assert job.status == "completed", job.error
    [event] = events
    assert (event.action, event.username, event.request_id) == ("created", "mary", str(request.id))
    assert [tag["name"] for tag in event.data["tags"]] == ["red"]


class MergeJob(JobRunner):
    def run(self, request: Any, **kwargs: Any) -> None:
        with event_tracking(request):
            merge_a_site("Ulm")


def test_a_fixture_outside_of_a_request_is_not_recorded() -> None:
    watch("dcim.site")
    with capture_webhooks(subscribe=[]) as events:
        merge_a_site("Ulm")
    assert events == []
