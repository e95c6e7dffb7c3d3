"""Users save a webhook while workers write its health to the same row."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.contrib.contenttypes.models import ContentType
from django.db import IntegrityError, connection, transaction
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from django.views.generic import DeleteView
from rest_framework.test import APIClient

from dcim.models import Site
from tests.support.makers import make_attempt, make_delivery, make_webhook
from tests.support.replicated import Replicated
from tests.support.threads import Beside
from users.models import User
from webhooks.delivery import policy, sweep
from webhooks.delivery.claims import webhooks_by_id
from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.outcome import Outcome
from webhooks.models import Delivery, Event, State, Webhook
from webhooks.models.permissions import Operator
from webhooks.models.webhook import CONTENT_FIELDS, SETTINGS
from webhooks.operations.webhooks import delete_webhooks, rotate_keys, set_enabled

GONE = Outcome(datetime.now(UTC), 1, reason="HTTP 410 Gone", status=410, kind=ErrorKind.HTTP_410)
REFUSED = Outcome(datetime.now(UTC), 1, reason="HTTP 500", status=500, kind=ErrorKind.HTTP_5XX)

URL = "https://127.0.0.1/hook"

Save = Callable[[Webhook, bool], Any]


def test_each_setting_is_in_one_section_of_the_form() -> None:
    fields = [*Webhook._meta.concrete_fields, *Webhook._meta.many_to_many]
    editable = [field.name for field in fields if field.editable and not field.primary_key]
    assert sorted(SETTINGS) == sorted(editable)


def test_a_new_setting_counts_as_one_that_sends_more_data() -> None:
    assert sorted(CONTENT_FIELDS) == [
        "additional_headers", "body_template", "changed_fields", "conditions", "excluded_usernames", "on_created",
        "on_deleted", "on_updated", "only_changes", "prechange", "send_trace", "serializer", "static_data",
    ]  # fmt: skip


class Judging:
    """Makes validation take as long as the test needs, as with a slow name server."""

    def __init__(self) -> None:
        self.has_begun, self.may_end = threading.Event(), threading.Event()


@pytest.fixture
def judging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Judging]:
    slow, full_clean = Judging(), Webhook.full_clean

    def judge(self: Webhook, *args: Any, **kwargs: Any) -> None:
        slow.has_begun.set()
        slow.may_end.wait(60)
        full_clean(self, *args, **kwargs)

    monkeypatch.setattr(Webhook, "full_clean", judge)
    yield slow
    slow.may_end.set()


def by_admin(webhook: Webhook, enabled: bool) -> Any:
    client = Client()
    client.force_login(User.objects.get())
    sites = ContentType.objects.get_for_model(Site)
    form = {
        "name": "renamed", "object_types": [sites.pk], "on_created": "on", "payload_url": URL, "http_method": "POST",
        "content_type": "application/json", "ssl_verification": "on", "ordered": "on",
    }  # fmt: skip
    address = reverse("admin:rq_webhooks_webhook_change", args=[webhook.pk])
    return client.post(address, form | ({"enabled": "on"} if enabled else {})).status_code


def by_api(webhook: Webhook, enabled: bool) -> Any:
    client = APIClient()
    client.force_authenticate(User.objects.get())
    changes = {"name": "renamed", "payload_url": URL, "enabled": enabled}
    return client.patch(f"/api/webhooks/webhooks/{webhook.pk}/", changes, format="json").status_code


def note(webhook: Webhook, outcome: Outcome) -> None:
    """Record an outcome as a worker does in its main thread, which must not wait."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = '1s'")
        policy.update_all({webhook: [outcome]})


@pytest.fixture
def saved_beside(database: str, judging: Judging) -> Callable[[Save, bool, bool, Outcome], Webhook]:
    """Save a webhook, record an outcome during its validation, and return the row."""
    User.objects.create_superuser("admin")

    def do(save: Save, was_enabled: bool, enabled: bool, outcome: Outcome) -> Webhook:
        webhook = make_webhook(Site, name="CMDB", enabled=was_enabled)
        saving = Beside(lambda: save(webhook, enabled))
        assert judging.has_begun.wait(60)
        note(webhook, outcome)
        judging.may_end.set()
        assert saving.join() in (200, 302)
        webhook.refresh_from_db()
        assert webhook.name == "renamed"
        return webhook

    return do


@pytest.mark.postgresql
@pytest.mark.parametrize("save", [by_admin, by_api])
class TestASaveBesideAWorker:
    def test_a_webhook_that_was_disabled_meanwhile_stays_disabled(self, saved_beside: Any, save: Save) -> None:
        webhook = saved_beside(save, True, True, GONE)
        assert not webhook.enabled
        assert webhook.disabled_reason == "gone"

    def test_a_webhook_that_was_paused_meanwhile_stays_paused(
        self, saved_beside: Any, save: Save, webhooks_settings: Any
    ) -> None:
        webhooks_settings(PAUSE_AFTER=1)
        webhook = saved_beside(save, True, True, REFUSED)
        assert webhook.is_paused
        assert (webhook.failures_in_a_row, webhook.last_failure) == (1, "HTTP 500 Internal Server Error")

    def test_a_user_can_disable_it(self, saved_beside: Any, save: Save) -> None:
        webhook = saved_beside(save, True, False, REFUSED)
        assert (webhook.enabled, webhook.failures_in_a_row) == (False, 1)

    def test_a_user_can_enable_it(self, saved_beside: Any, save: Save) -> None:
        assert saved_beside(save, False, True, REFUSED).enabled


def test_disabling_from_the_list_keeps_what_a_worker_wrote(database: str) -> None:
    webhook = make_webhook(Site)
    stale = Webhook.objects.get()
    with transaction.atomic():
        policy.update_all({webhook: [REFUSED]})
    stale.enabled = False
    stale.save_settings(["enabled"])
    webhook.refresh_from_db()
    assert (webhook.enabled, webhook.failures_in_a_row) == (False, 1)


@pytest.mark.parametrize(("save", "status"), [(by_admin, 302), (by_api, 404)])
def test_saving_a_webhook_deleted_meanwhile_is_refused(
    database: str, monkeypatch: pytest.MonkeyPatch, save: Save, status: int
) -> None:
    User.objects.create_superuser("admin")
    webhook, full_clean = make_webhook(Site), Webhook.full_clean

    def judge(self: Webhook, *args: Any, **kwargs: Any) -> None:
        delete_webhooks(Webhook.objects.filter(pk=webhook.pk))
        full_clean(self, *args, **kwargs)

    monkeypatch.setattr(Webhook, "full_clean", judge)
    assert save(webhook, True) == status


@pytest.mark.parametrize(("save", "status"), [(by_admin, 302), (by_api, 409)])
def test_a_name_that_is_taken_meanwhile_is_refused(
    database: str, monkeypatch: pytest.MonkeyPatch, save: Save, status: int
) -> None:
    User.objects.create_superuser("admin")
    webhook, save_settings = make_webhook(Site, name="old"), Webhook.save_settings

    def save_second(self: Webhook, *args: Any) -> bool:
        make_webhook(Site, name="renamed")
        return save_settings(self, *args)

    monkeypatch.setattr(Webhook, "save_settings", save_second)
    assert save(webhook, True) == status
    assert Webhook.objects.get(pk=webhook.pk).name == "old"


def test_a_webhook_deleted_meanwhile_is_not_enabled_or_disabled(
    database: str, admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, deleted = (make_webhook(Site, name=name, enabled=False) for name in ("kept", "deleted"))
    save_settings = Webhook.save_settings

    def save(self: Webhook, *args: Any) -> bool:
        delete_webhooks(Webhook.objects.filter(pk=deleted.pk))
        return save_settings(self, *args)

    monkeypatch.setattr(Webhook, "save_settings", save)
    chosen = {"action": "enable", "_selected_action": [kept.pk, deleted.pk]}
    shown = admin_client.post(reverse("admin:rq_webhooks_webhook_changelist"), chosen, follow=True).content.decode()
    assert "1 webhook enabled." in shown


def test_settings_saved_by_another_user_meanwhile_stay(database: str) -> None:
    make_webhook(Site, secret="first", timeout=5, secret_headers="X-Token: a")
    mine, theirs = Webhook.objects.get(), Webhook.objects.get()
    theirs.payload_url, theirs.secret, theirs.secret_headers = "http://127.0.0.1:2/", "second", "X-Token: b"
    theirs.save_settings(["payload_url", "secret", "secret_headers"])
    mine.name, mine.timeout = "renamed", 7  # timeout is not in the list of changes
    mine.save_settings(["name"])
    stored = Webhook.objects.get()
    assert (stored.name, stored.payload_url, stored.timeout) == ("renamed", "http://127.0.0.1:2/", 5)
    assert (stored.secret, stored.previous_secret, stored.secret_headers) == ("second", "first", "X-Token: b")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"secret_headers": "X-Token: hush"}, {"payload_url": "http://127.0.0.1:2/"}),
        ({"payload_url": "http://127.0.0.1:2/"}, {"secret_headers": "X-Token: hush"}),
        ({"ssl_verification": False}, {"secret_headers": "X-Token: hush"}),
        ({"ca_file_path": "/ca.pem"}, {"secret_headers": "X-Token: hush", "payload_url": "http://127.0.0.1:2/"}),
    ],
)
def test_secret_headers_never_meet_a_receiver_that_another_user_enters_meanwhile(
    database: str, first: dict[str, Any], second: dict[str, Any]
) -> None:
    make_webhook(Site, url="http://127.0.0.1:1/")
    webhooks = [Webhook.objects.get(), Webhook.objects.get()]
    for webhook, changes in zip(webhooks, (first, second), strict=True):
        for name, value in changes.items():
            setattr(webhook, name, value)
    webhooks[0].save_settings(first.keys())
    with pytest.raises(IntegrityError, match="this webhook was changed"):
        webhooks[1].save_settings(second.keys())
    stored = Webhook.objects.get()
    assert {name: getattr(stored, name) for name in first} == first


def test_without_secret_headers_two_users_change_parts_of_the_receiver(database: str) -> None:
    make_webhook(Site, secret_headers="X-Token: hush")
    mine, theirs = Webhook.objects.get(), Webhook.objects.get()
    theirs.secret_headers, theirs.ssl_verification = "", False
    theirs.save_settings(["secret_headers", "ssl_verification"])
    mine.payload_url = "http://127.0.0.1:2/"
    mine.save_settings(["payload_url"])
    stored = Webhook.objects.get()
    assert (stored.payload_url, stored.ssl_verification) == ("http://127.0.0.1:2/", False)
    assert not stored.secret_headers


def test_the_later_of_two_new_secrets_replaces_the_earlier_one(database: str) -> None:
    make_webhook(Site, secret="first")
    mine, theirs = Webhook.objects.get(), Webhook.objects.get()
    for webhook, secret in ((theirs, "second"), (mine, "third")):
        webhook.secret = secret
        webhook.save_settings(["secret"])
    stored = Webhook.objects.get()
    assert (stored.secret, stored.previous_secret) == ("third", "second")


def test_a_key_rotation_during_a_save_loses_no_secret(database: str, webhooks_settings: Any) -> None:
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    webhooks_settings(ENCRYPTION_KEYS=[old])
    make_webhook(Site, secret="kept")
    mine = Webhook.objects.get()
    webhooks_settings(ENCRYPTION_KEYS=[new, old])
    assert rotate_keys().renewed == 1
    mine.save_settings(["name"])
    webhooks_settings(ENCRYPTION_KEYS=[new])
    assert Webhook.objects.get().secret == "kept"


@pytest.mark.parametrize(
    "load", [lambda pk: Webhook.objects.get(pk=pk), lambda pk: Webhook.objects.only("name").get(pk=pk)]
)
def test_a_save_that_does_not_enable_a_webhook_resumes_nothing(database: str, load: Callable[[int], Webhook]) -> None:
    stale = load(make_webhook(Site).pk)
    Webhook.objects.update(enabled=False, disabled_reason="gone")
    stale.name = "renamed"
    stale.save(update_fields=["name"] if "enabled" in stale.__dict__ else None)
    stored = Webhook.objects.get()
    assert (stored.name, stored.enabled, stored.resumed_at) == ("renamed", False, None)
    assert stored.disabled_reason == "gone"


# Any code may call save() and delete()


def test_a_stale_instance_writes_only_what_it_changed(database: str) -> None:
    make_webhook(Site, timeout=5, excluded_usernames=["ann"])
    stale = Webhook.objects.get()
    Webhook.objects.update(timeout=7, payload_url="http://127.0.0.1:2/", enabled=False, failures_in_a_row=3)
    stale.name = "renamed"
    stale.excluded_usernames.append("bob")
    stale.save()
    stored = Webhook.objects.get()
    assert (stored.name, stored.excluded_usernames) == ("renamed", ["ann", "bob"])
    assert (stored.timeout, stored.payload_url, stored.enabled) == (7, "http://127.0.0.1:2/", False)
    assert (stored.failures_in_a_row, stale.failures_in_a_row, stale.timeout) == (3, 3, 7)


def test_an_instance_that_was_saved_or_read_again_counts_as_unchanged(database: str) -> None:
    webhook = make_webhook(Site, timeout=5)
    webhook.timeout = 6
    webhook.save()
    Webhook.objects.update(timeout=7, enabled=False)
    webhook.save()
    assert Webhook.objects.get().timeout == 7
    webhook.refresh_from_db(fields=["timeout"])
    Webhook.objects.update(timeout=8)
    webhook.save()
    assert (Webhook.objects.get().timeout, Webhook.objects.get().enabled) == (8, False)


def test_a_stale_instance_keeps_lists_and_conditions_that_another_user_saved(database: str) -> None:
    make_webhook(Site, name="old")
    stale = Webhook.objects.get()
    Webhook.objects.update(conditions={"attr": "name", "value": 1}, changed_fields=["name"])
    stale.name = "renamed"
    stale.save()
    stored = Webhook.objects.get()
    assert (stored.name, stored.conditions, stored.changed_fields) == (
        "renamed", {"attr": "name", "value": 1}, ["name"],
    )  # fmt: skip
    stored.conditions["value"] = True
    stored.save()
    assert Webhook.objects.get().conditions["value"] is True, "1 and True are equal"


def test_a_save_that_was_rolled_back_writes_again(database: str) -> None:
    make_webhook(Site, name="old")
    webhook = Webhook.objects.get()
    webhook.name = "renamed"
    with pytest.raises(LookupError), transaction.atomic():
        webhook.save()
        raise LookupError
    webhook.save()
    assert (webhook.name, Webhook.objects.get().name) == ("renamed", "renamed")


def test_a_webhook_that_was_read_from_a_replica_is_written_to_the_other_database(database: str, settings: Any) -> None:
    make_webhook(Site, name="CMDB", enabled=False)
    settings.DATABASE_ROUTERS = [Replicated()]
    webhook = Webhook.objects.get()
    webhook._state.db = "replica"
    webhook.enabled = True
    webhook.save()
    assert Webhook.objects.get().resumed_at
    webhook._state.db = "replica"
    assert webhook.delete()[0] == 1


def test_a_save_of_one_field_leaves_other_changes_for_the_next_save(database: str) -> None:
    webhook = make_webhook(Site, name="old", timeout=5)
    webhook.name, webhook.timeout = "renamed", 6
    webhook.save(update_fields=["name"])
    webhook.save()
    assert Webhook.objects.values_list("name", "timeout").get() == ("renamed", 6)


def test_a_stale_instance_keeps_the_secret_that_a_key_rotation_encrypted_again(
    database: str, webhooks_settings: Any
) -> None:
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    webhooks_settings(ENCRYPTION_KEYS=[old])
    make_webhook(Site, secret="kept")
    stale = Webhook.objects.get()
    webhooks_settings(ENCRYPTION_KEYS=[new, old])
    assert rotate_keys().renewed == 1
    stale.timeout = 7
    stale.save()
    webhooks_settings(ENCRYPTION_KEYS=[new])
    assert (Webhook.objects.get().secret, Webhook.objects.get().timeout) == ("kept", 7)


def test_a_new_secret_overlaps_with_the_one_before_on_every_save(database: str) -> None:
    webhook = make_webhook(Site, secret="first")
    webhook.secret = "second"  # type: ignore[assignment]
    webhook.save()
    stored = Webhook.objects.get()
    assert (stored.secret, stored.previous_secret) == ("second", "first")


def test_a_save_does_not_bring_back_a_webhook_that_was_deleted_meanwhile(database: str) -> None:
    webhook = make_webhook(Site, name="CMDB")
    stale = Webhook.objects.get()
    assert webhook.delete() == (1, {"rq_webhooks.Webhook": 1})
    with pytest.raises(Webhook.DoesNotExist):
        stale.save()
    assert not Webhook.objects.exists()
    assert not Webhook.with_deleted.get().enabled


def test_a_copy_of_an_instance_is_a_new_webhook(database: str) -> None:
    webhook = make_webhook(Site, name="CMDB", timeout=5)
    copied = Webhook.objects.get()
    copied.pk, copied.name = None, "copy"
    copied.save()
    assert list(Webhook.objects.values_list("name", "timeout")) == [("CMDB", 5), ("copy", 5)]
    assert copied.pk != webhook.pk


def delete_by_view(webhook: Webhook) -> None:
    request = RequestFactory().post("/")
    assert DeleteView.as_view(model=Webhook, success_url="/")(request, pk=webhook.pk).status_code == 302


DELETE: dict[str, Callable[[Webhook], Any]] = {
    "view": delete_by_view,
    "instance": Webhook.delete,
    "queryset": lambda webhook: Webhook.objects.filter(pk=webhook.pk).delete(),
}


@pytest.mark.parametrize("way", DELETE)
def test_a_deletion_costs_as_much_for_many_deliveries_and_loses_nothing_of_others(database: str, way: str) -> None:
    costs = []
    other = make_webhook(Site, name="other")
    for count in (1, 40):
        webhook = make_webhook(Site, name="CMDB")
        for number in range(count):
            delivery = make_attempt(make_delivery(webhook, State.FAILED, object_id=str(number))).delivery
        shared = make_delivery(other, State.FAILED, event=delivery.event)
        with CaptureQueriesContext(connection) as queries:
            DELETE[way](webhook)
        costs.append(len(queries))
        assert list(Webhook.objects.all()) == [other]
        assert Delivery.objects.filter(webhook=webhook).count() == count
        while sweep.sweep():
            pass
        assert list(Webhook.with_deleted.all()) == [other]
        assert list(Delivery.objects.filter(webhook=other, event=shared.event)) == [shared]
        assert not Delivery.objects.exclude(webhook=other).exists()
    assert costs[0] == costs[1] <= 6
    assert Event.objects.count() == 2


ENABLE: dict[str, Callable[[Webhook], Any]] = {
    "save": Webhook.save,
    "save of the field": lambda webhook: webhook.save(update_fields=["enabled"]),
    "settings": lambda webhook: webhook.save_settings(["enabled"], "jstretch"),
    "update": lambda webhook: Webhook.objects.filter(pk=webhook.pk).update(enabled=True),
    "admin": lambda webhook: set_enabled(Webhook.objects.filter(pk=webhook.pk), Operator("a test"), True),
}


@pytest.mark.parametrize("way", ENABLE)
@pytest.mark.parametrize("reason", ["", "failing"])
def test_a_webhook_that_is_enabled_again_has_no_failures(database: str, way: str, reason: str) -> None:
    long_ago = timezone.now() - timedelta(days=30)
    failing = {"failures_in_a_row": 12, "failing_since": long_ago, "probe_at": long_ago, "probes": 3}
    webhook = make_webhook(Site, enabled=False, disabled_reason=reason, **failing)
    webhook.enabled = way != "admin"
    ENABLE[way](webhook)
    webhook = Webhook.objects.get(pk=webhook.pk)
    state = webhook.failures_in_a_row, webhook.failing_since, webhook.probe_at, webhook.probes
    assert (webhook.enabled, webhook.disabled_reason, webhook.disabled_at, *state) == (True, "", None, 0, None, None, 0)
    assert webhook.resumed_at
    with transaction.atomic():
        policy.update_all({webhook: [REFUSED]})
    webhook.refresh_from_db()
    assert (webhook.enabled, webhook.failures_in_a_row) == (True, 1)


@pytest.mark.parametrize("way", ENABLE)
def test_a_webhook_that_is_enabled_already_keeps_its_failures(database: str, way: str) -> None:
    webhook = make_webhook(Site, failures_in_a_row=7, failing_since=timezone.now())
    ENABLE[way](webhook)
    webhook.refresh_from_db()
    assert (webhook.failures_in_a_row, webhook.failing_since is not None) == (7, True)


def test_saving_the_field_enabled_clears_the_failures(database: str) -> None:
    webhook = make_webhook(Site, enabled=False, disabled_reason="gone", failures_in_a_row=7)
    webhook.enabled = True
    webhook.save(update_fields=["enabled"])
    webhook.refresh_from_db()
    assert (webhook.enabled, webhook.disabled_reason, webhook.failures_in_a_row) == (True, "", 0)
    assert webhook.resumed_at


@pytest.mark.django_db
def test_webhooks_by_id_are_as_the_orm_reads_them() -> None:
    webhooks = {
        webhook.pk: webhook for webhook in (make_webhook(name="one", secret="s" * 20), make_webhook(name="two"))
    }
    deleted = make_webhook(name="three")
    Webhook.objects.filter(pk=deleted.pk).delete()
    for webhook in webhooks.values():
        webhook.name += "!"
        webhook.save()
        found = webhooks_by_id(Webhook.objects.db, [*webhooks, deleted.pk])
        assert found == Webhook.objects.in_bulk(webhooks)
        assert [columns_of(one) for one in found.values()] == [
            columns_of(one) for one in Webhook.objects.in_bulk(found).values()
        ]
    assert webhooks_by_id(Webhook.objects.db, []) == {}


def columns_of(webhook: Webhook) -> dict[str, object]:
    return {field.name: str(getattr(webhook, field.attname)) for field in Webhook._meta.concrete_fields}
