"""A command rotates keys, and reports secrets that no key decrypts."""

from __future__ import annotations

import io
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from dcim.models import Site
from tests.support.makers import make_webhook
from webhooks.models import Webhook
from webhooks.operations import key_rotation
from webhooks.security import encryption

pytestmark = pytest.mark.usefixtures("database")

OLD, NEW, NEWEST = (Fernet.generate_key().decode() for _ in range(3))


def rotate() -> str:
    out = io.StringIO()
    call_command("webhooks_rotate_keys", stdout=out)
    return out.getvalue().strip()


@pytest.fixture(autouse=True)
def old_key(webhooks_settings: Any) -> None:
    webhooks_settings(ENCRYPTION_KEYS=[OLD])


def test_rotation_encrypts_all_secrets_with_the_newest_key_and_can_be_repeated(webhooks_settings: Any) -> None:
    webhook = make_webhook(Site, secret="one", previous_secret="two", secret_headers="X-Token: three")
    make_webhook(Site)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE webhooks_webhook SET secret = 'in clear' WHERE id <> %s", [webhook.pk])
    before = Webhook.objects.order_by("pk").values_list("last_updated", flat=True)
    stamps = list(before)
    webhooks_settings(ENCRYPTION_KEYS=[NEW, OLD])
    assert rotate() == "4 encrypted with the newest key, 0 had it already, 0 unreadable."
    assert rotate() == "0 encrypted with the newest key, 4 had it already, 0 unreadable."
    webhooks_settings(ENCRYPTION_KEYS=[NEW])
    webhook.refresh_from_db()
    assert [webhook.secret, webhook.previous_secret, webhook.secret_headers] == ["one", "two", "X-Token: three"]
    assert Webhook.objects.exclude(pk=webhook.pk).get().secret == "in clear"
    assert list(before.all()) == stamps, "nobody edited them"
    assert key_rotation.unreadable() == []


def test_rotation_moves_from_secret_key_to_encryption_keys(settings: Any, webhooks_settings: Any) -> None:
    webhooks_settings(ENCRYPTION_KEYS=[])
    make_webhook(Site, secret="one")
    webhooks_settings(ENCRYPTION_KEYS=[NEW])
    assert rotate().startswith("1 encrypted with the newest key")
    settings.SECRET_KEY = "changed"
    assert Webhook.objects.get().secret == "one"


def test_rotation_names_unreadable_secrets_and_renews_the_others(webhooks_settings: Any) -> None:
    make_webhook(Site, name="lost", secret="one", previous_secret="two")
    webhooks_settings(ENCRYPTION_KEYS=[NEW])
    make_webhook(Site, name="kept", secret="three")
    webhooks_settings(ENCRYPTION_KEYS=[NEWEST, NEW])
    stored = Webhook.objects.get(name="lost").secret.stored
    with pytest.raises(CommandError, match="the secret of “lost”; the previous secret of “lost”"):
        rotate()
    assert key_rotation.unreadable() == [("lost", "secret"), ("lost", "previous secret")]
    assert Webhook.objects.get(name="lost").secret.stored == stored
    assert encryption.is_current(Webhook.objects.get(name="kept").secret.stored)
    webhooks_settings(ENCRYPTION_KEYS=[NEWEST, OLD])
    assert rotate() == "2 encrypted with the newest key, 1 had it already, 0 unreadable."
    assert Webhook.objects.get(name="lost").secret == "one"


def test_rotation_refuses_invalid_keys(webhooks_settings: Any) -> None:
    make_webhook(Site, secret="one")
    webhooks_settings(ENCRYPTION_KEYS=["no key"])
    with pytest.raises(CommandError, match=r"Nothing was changed: .*ENCRYPTION_KEYS"):
        rotate()


def test_rotation_keeps_a_secret_that_is_entered_meanwhile(
    webhooks_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_webhook(Site, secret="old")
    webhooks_settings(ENCRYPTION_KEYS=[NEW, OLD])
    encrypt = encryption.encrypt

    def slowly(text: str) -> str:
        monkeypatch.setattr(encryption, "encrypt", encrypt)
        Webhook.objects.update(secret="entered meanwhile")
        return encrypt(text)

    monkeypatch.setattr(encryption, "encrypt", slowly)
    assert key_rotation.rotate().renewed == 0
    assert Webhook.objects.get().secret == "entered meanwhile"


def test_rotation_loads_webhooks_in_batches(webhooks_settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_rotation, "BATCH", 3)
    for _ in range(7):
        make_webhook(Site, secret="one")
    with CaptureQueriesContext(connection) as captured:
        assert key_rotation.rotate().current == 7
    assert len(captured) == 4
