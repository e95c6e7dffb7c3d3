"""The field: what stands in the row, what comes out of it, and what an export has."""

from __future__ import annotations

import io
import json
import pickle
from typing import Any

import pytest
from django.core import serializers
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import connection

from dcim.models import Site
from tests.support.makers import make_webhook
from webhooks.models import Webhook
from webhooks.security import encryption
from webhooks.security.encryption import Secret

pytestmark = pytest.mark.usefixtures("database")

PLAIN = "hush-hush"


def column(name: str = "secret") -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {name} FROM webhooks_webhook")
        [[value]] = cursor.fetchall()
    return str(value)


@pytest.fixture
def webhook(database: str) -> Webhook:
    return make_webhook(Site, name="CMDB", secret=PLAIN)


@pytest.fixture
def another_key(settings: Any) -> None:
    settings.SECRET_KEY = "another key, without the old one as a fallback"


def test_every_way_to_write_it_encrypts(webhook: Webhook) -> None:
    assert encryption.decrypt(column()) == PLAIN != column()
    Webhook.objects.update(secret="by update")
    assert encryption.decrypt(column()) == "by update" != column()
    webhook.secret = "by save"  # type: ignore[assignment]
    webhook.save()
    assert encryption.decrypt(column()) == "by save" != column()
    webhook.secret = Secret("by bulk")
    Webhook.objects.bulk_update([webhook], ["secret"])
    assert Webhook.objects.get().secret == "by bulk" != column()
    Webhook.objects.all().delete()
    Webhook.objects.bulk_create([Webhook(name="x", secret="created", on_created=True, payload_url="http://x/")])
    assert encryption.decrypt(column()) == "created" != column()


def test_every_way_to_read_it_gives_a_secret(webhook: Webhook) -> None:
    webhook.refresh_from_db()
    deferred = Webhook.objects.defer("secret").get()
    found = [webhook.secret, deferred.secret, Webhook.objects.values_list("secret", flat=True).get()]
    assert [one.reveal() for one in found] == [PLAIN] * 3
    assert PLAIN not in repr([found, webhook.__dict__, Webhook.objects.values().get()])
    assert PLAIN not in repr(Webhook(secret=PLAIN).__dict__)


def test_an_empty_one_stands_there_as_it_is_and_can_be_asked_for(webhook: Webhook) -> None:
    assert not Webhook.objects.filter(secret="").exists()
    Webhook.objects.update(secret="")
    assert column() == ""
    assert Webhook.objects.filter(secret="").exists()


def test_what_stood_there_in_clear_is_read(webhook: Webhook) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE webhooks_webhook SET secret = 'in clear'")
    assert Webhook.objects.get().secret == "in clear"


def test_one_that_cannot_be_read_is_kept_by_a_save(webhook: Webhook, another_key: None, settings: Any) -> None:
    before = column()
    fresh = Webhook.objects.get()
    fresh.name = "renamed"
    fresh.full_clean()
    fresh.save()
    assert column() == before
    assert fresh.unreadable == ["secret"]


@pytest.mark.parametrize("kind", ["json", "xml", "jsonl"])
def test_an_export_has_it_encrypted_and_an_import_takes_that(webhook: Webhook, kind: str) -> None:
    Webhook.objects.update(secret_headers="Authorization: Bearer hush-hush")
    out = io.StringIO()
    call_command("dumpdata", "webhooks.webhook", format=kind, stdout=out)
    assert PLAIN not in out.getvalue()
    Webhook.objects.all().delete()
    for one in serializers.deserialize(kind, out.getvalue()):
        one.save()
    loaded = Webhook.objects.get()
    assert (loaded.secret, loaded.secret_headers) == (PLAIN, "Authorization: Bearer hush-hush")


def test_an_instance_is_pickled_and_cached_without_it_in_clear(webhook: Webhook) -> None:
    pickled = pickle.dumps(webhook)
    assert PLAIN.encode() not in pickled
    assert pickle.loads(pickled).secret == PLAIN
    with pytest.raises(TypeError):
        json.dumps(webhook.secret)


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("secret", "x" * 256, "at most 255 characters"),
        ("secret", "whsec_not base64", "must go on in base64"),
        ("secret_headers", "no colon", "Line 1: write a header as Name: value."),
        ("secret_headers", "X-A: 1\nHost: x", "Line 2: Host cannot be set"),
    ],
)
def test_a_bad_one_is_refused_and_not_repeated(webhook: Webhook, field: str, value: str, error: str) -> None:
    setattr(webhook, field, value)
    with pytest.raises(ValidationError) as raised:
        webhook.full_clean()
    assert set(raised.value.message_dict) == {field}
    assert error in str(raised.value)
    assert value not in str(raised.value)


def test_one_that_cannot_be_encrypted_is_refused_before_it_is_saved(webhook: Webhook, webhooks_settings: Any) -> None:
    webhooks_settings(ENCRYPTION_KEYS=["no key"])
    fresh = Webhook.objects.get()
    fresh.full_clean()  # what is stored needs no key
    fresh.secret = Secret("new")
    with pytest.raises(ValidationError, match="ENCRYPTION_KEYS"):
        fresh.full_clean()
