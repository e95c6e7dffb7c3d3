"""The main job with real worker processes: a save reaches the URL, and a retry sends a failed delivery again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.test import Client
from rest_framework.authtoken.models import Token
from rest_framework.utils.encoders import JSONEncoder

from core.models import Tag
from dcim.api.serializers import SiteSerializer
from dcim.models import Site
from tests.support.draining import STATE
from tests.support.figures import Figures
from tests.support.inbox import Inbox, Received
from tests.support.makers import make_event, make_webhook
from tests.support.waiting import until
from tests.support.workers import SHIPPED, STOCK, Worker, Workers
from tests.testapp.models import Label
from users.models import User
from webhooks.models import Delivery, Event, QueuedDelivery, State
from webhooks.operations import kinds

pytestmark = pytest.mark.usefixtures("database")

both_workers = pytest.mark.parametrize("worker_class", [SHIPPED, STOCK], ids=["shipped", "stock"])
one_database = pytest.mark.one_database

SITE_FORM = {
    "name": "Berlin", "slug": "berlin", "status": "active", "tenant": "", "facility": "", "time_zone": "",
    "physical_address": "", "shipping_address": "", "latitude": "", "longitude": "", "description": "",
    "comments": "", "custom_field_data": "{}",
}  # fmt: skip


@pytest.fixture
def admin() -> User:
    return User.objects.create_superuser("alice", "secret")


@pytest.fixture
def many(is_long: bool) -> int:
    """How many changes are a lot."""
    return 1000 if is_long else 300


def serialized(site: Site) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(SiteSerializer(Site.objects.get(pk=site.pk)).data, cls=JSONEncoder))
    return data


def wait_until_all_succeeded(count: int, seconds: float = 20) -> None:
    def report() -> str:
        states = list(Delivery.objects.values_list(STATE, "reason"))
        return f"{count} deliveries to succeed; {Event.objects.count()} events, deliveries: {states[:5]}"

    until(lambda: Delivery.objects.in_states(State.SUCCEEDED).count() >= count, seconds, report)


def test_every_way_to_save_reaches_the_url_exactly_once(workers: Workers, inbox: Inbox, admin: User) -> None:
    make_webhook(Site, url=inbox.url())
    workers.is_forking = False
    worker = workers.start(SHIPPED)
    worker.wait_until_listening()
    workers.is_forking = True

    browser = Client()
    browser.force_login(admin)
    answer = browser.post("/admin/dcim/site/add/", SITE_FORM)
    assert answer.status_code == 302, answer.content.decode()
    site = Site.objects.get(slug="berlin")
    by_form = serialized(site)

    token = Token.objects.create(user=admin).key
    answer = Client().patch(
        f"/api/dcim/sites/{site.pk}/",
        json.dumps({"facility": "Hall 3"}),
        content_type="application/json",
        headers={"Authorization": f"Token {token}"},
    )
    assert answer.status_code == 200, answer.content.decode()
    by_api = serialized(site)

    workers.manage(
        "shell",
        "-c",
        "from dcim.models import Site; s = Site.objects.get(slug='berlin'); s.comments = 'by shell'; s.save()",
    )
    by_shell = serialized(site)

    workers.manage("rename_site", "berlin", "Berlin Mitte")
    by_command = serialized(site)

    answer = browser.post(f"/admin/dcim/site/{site.pk}/delete/", {"post": "yes"})
    assert answer.status_code == 302, answer.content.decode()

    wait_until_all_succeeded(5)
    assert worker.stop() == 0
    bodies = [one.json for one in inbox.received()]
    assert [body["event"] for body in bodies] == ["created", "updated", "updated", "updated", "deleted"]
    assert [body["data"] for body in bodies] == [by_form, by_api, by_shell, by_command, by_command]
    assert [body["username"] for body in bodies] == ["alice", "alice", "", "", "alice"]
    assert all(body["object_type"] == "dcim.site" for body in bodies)
    sequences = [body["sequence"] for body in bodies]
    assert sequences == sorted(set(sequences))
    assert bodies[1]["request"]["method"] == "PATCH"
    assert bodies[1]["request"]["path"] == f"/api/dcim/sites/{site.pk}/"
    ids = [one.headers["webhook-id"] for one in inbox.received()]
    assert ids == [str(pk) for pk in Delivery.objects.order_by("event_id").values_list("pk", flat=True)]


@one_database
@both_workers
def test_a_transaction_is_one_post_and_a_rollback_is_none(
    workers: Workers, inbox: Inbox, admin: User, worker_class: str
) -> None:
    make_webhook(Site, url=inbox.url())
    workers.start(worker_class).wait_until_listening()
    tag = Tag.objects.create(name="Red", slug="red")
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        Site.objects.create(name="Never", slug="never")
        1 / 0  # noqa: B018
    with transaction.atomic():
        Site.objects.create(name="By code", slug="code").tags.add(tag)
    browser = Client()
    browser.force_login(admin)
    browser.post("/admin/dcim/site/add/", {**SITE_FORM, "name": "By form", "tags": [tag.pk]})
    wait_until_all_succeeded(2)
    bodies = [one.json for one in inbox.received()]
    # Two objects are two lanes: their requests run side by side.
    assert sorted((body["event"], body["data"]["name"]) for body in bodies) == [
        ("created", "By code"),
        ("created", "By form"),
    ]
    assert [[tag["slug"] for tag in body["data"]["tags"]] for body in bodies] == [["red"], ["red"]]


@one_database
@both_workers
def test_a_failing_url_leaves_a_failed_delivery_that_an_admin_can_retry(
    workers: Workers, inbox: Inbox, worker_class: str
) -> None:
    make_webhook(Site, url=inbox.url("fail-first/2"))
    make_webhook(Label, url=inbox.url())
    workers.start(worker_class, RETRY_SCHEDULE=[0.1], RETRY_JITTER=0).wait_until_listening()
    site = Site.objects.create(name="Berlin", slug="berlin")
    if worker_class == STOCK:
        # A due retry does not wake the stock worker; the next change or webhooks_sweep does. On a busy machine, its
        # first job may last until the retry is due, and take it.
        is_due = Q(failures=1, due_at__lte=Now()) | Q(failed_at__isnull=False)
        until(lambda: QueuedDelivery.objects.filter(is_due), 20, "the retry to be due")
        Label.objects.create(name="red")
    until(lambda: Delivery.objects.failed().count() == 1, 20, "the delivery to fail")
    delivery = Delivery.objects.get(event__object_type="dcim.site")
    assert delivery.reason == "HTTP 503 Status"
    assert [attempt.status for attempt in delivery.attempts.all()] == [503, 503]
    site.name = "changed since"
    Site.objects.filter(pk=site.pk).update(name="changed since")
    assert kinds.RETRY.perform(Delivery.objects.filter(pk=delivery.pk)) == 1
    until(lambda: Delivery.objects.get(pk=delivery.pk).state == State.SUCCEEDED, 20, "the retry to succeed")
    mine = [one for one in inbox.received() if one.headers["webhook-id"] == str(delivery.pk)]
    assert len(mine) == 3
    assert len({one.body for one in mine}) == 1, "a retry sends the same data"
    assert [attempt.number for attempt in delivery.attempts.all()] == [1, 2, 3]


@one_database
@both_workers
def test_changes_from_before_the_worker_started_are_sent(workers: Workers, inbox: Inbox, worker_class: str) -> None:
    make_webhook(Site, url=inbox.url())
    Site.objects.create(name="Berlin", slug="berlin")
    workers.start(worker_class)
    inbox.wait_for(1)


@one_database
def test_the_shipped_worker_needs_no_wake_up(workers: Workers, inbox: Inbox, redis: Any) -> None:
    make_webhook(Site, url=inbox.url())
    workers.start().wait_until_listening()
    Site.objects.create(name="Berlin", slug="berlin")
    redis.flushdb()
    inbox.wait_for(1, seconds=10)
    make_event(make_webhook(Site, url=inbox.url()), object_id="7")  # no code that wakes a worker
    inbox.wait_for(2, seconds=10)


@one_database
@both_workers
def test_changes_of_many_objects_arrive(
    workers: Workers, inbox: Inbox, worker_class: str, figures: Figures, many: int
) -> None:
    make_webhook(Label, url=inbox.url())
    with transaction.atomic():
        for number in range(many):
            Label.objects.create(name=f"label {number}")
    assert Event.objects.count() == many
    worker = workers.start(worker_class)
    received = inbox.wait_for(many, seconds=30)
    note_durations(received, worker, figures)
    assert len({one.json["data"]["id"] for one in received}) == len(received) == many


@one_database
def test_many_changes_of_one_object_arrive_in_order(
    workers: Workers, inbox: Inbox, figures: Figures, many: int
) -> None:
    make_webhook(Label, url=inbox.url(), on="u")
    label = Label.objects.create(name="label")
    for number in range(many):
        label.name = str(number)
        label.save()
    assert Event.objects.count() == many
    worker = workers.start()
    received = inbox.wait_for(many, seconds=60)
    note_durations(received, worker, figures)
    assert [one.json["data"]["name"] for one in received] == [str(number) for number in range(many)]


def note_durations(received: list[Received], worker: Worker, figures: Figures) -> None:
    last = max(one.at for one in received)
    took, cold = last - worker.listening_at(), last - worker.started_at
    figures(f"{len(received)} received {took:.2f} s after the worker listened, {cold:.2f} s after its process began")
