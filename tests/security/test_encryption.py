"""Encryption: keys, the Secret, and the field that stores it."""

from __future__ import annotations

import base64
import io
import json
import pickle
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core import serializers
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import connection
from django.template import Context, Template
from jinja2.exceptions import SecurityError
from jinja2.sandbox import SandboxedEnvironment

from dcim.models import Site
from tests.support.makers import make_webhook
from webhooks.ground.security import encryption
from webhooks.ground.security.encryption import Secret, Unreadable
from webhooks.models import Webhook

A, B = Fernet.generate_key().decode(), Fernet.generate_key().decode()


PLAIN = "hush-hush"


def test_the_stored_text_hides_the_plain_text_and_decrypts_to_it() -> None:
    text = "Grüße an alle, die das lesen"
    stored = encryption.encrypt(text)
    assert stored.startswith("fernet:gAAAA")
    assert not any(word in stored for word in ("alle", "lesen", base64.b64encode(text.encode()).decode()[:8]))
    assert encryption.encrypt(text) != stored
    assert encryption.decrypt(stored) == text


def test_a_text_that_is_not_encrypted_is_returned_as_it_is_and_is_not_current() -> None:
    assert encryption.decrypt(PLAIN) == PLAIN
    assert not encryption.is_current(PLAIN)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"SECRET_KEY": "one"}, {"SECRET_KEY": "two", "SECRET_KEY_FALLBACKS": ["one"]}),
        ({"SECRET_KEY": "one"}, {"SECRET_KEY": "two", "SECRET_KEY_FALLBACKS": [b"three", "one"]}),
        ({"SECRET_KEY": b"one"}, {"SECRET_KEY": "one", "keys": [A]}),
        ({"keys": [A]}, {"keys": [B, A]}),
        ({"keys": [A], "SECRET_KEY": "one"}, {"keys": (B, A), "SECRET_KEY": "two"}),
    ],
)
def test_an_older_key_still_decrypts_and_the_newest_encrypts(
    settings: Any, before: dict[str, Any], after: dict[str, Any]
) -> None:
    use(settings, before)
    stored = encryption.encrypt(PLAIN)
    assert encryption.is_current(stored)
    use(settings, after)
    assert encryption.decrypt(stored) == PLAIN
    assert not encryption.is_current(stored)
    renewed = encryption.encrypt(PLAIN)
    assert encryption.is_current(renewed)
    use(settings, before)
    with pytest.raises(Unreadable):
        encryption.decrypt(renewed)


def use(settings: Any, keys: dict[str, Any]) -> None:
    settings.SECRET_KEY = keys.get("SECRET_KEY", "the same")
    settings.SECRET_KEY_FALLBACKS = keys.get("SECRET_KEY_FALLBACKS", [])
    settings.WEBHOOKS = {"ENCRYPTION_KEYS": keys.get("keys", [])}


def test_the_error_names_a_missing_key_and_the_secret_works_again_with_it(settings: Any) -> None:
    use(settings, {"keys": [A]})
    secret = Secret(stored=encryption.encrypt(PLAIN))
    use(settings, {"keys": [B]})
    with pytest.raises(Unreadable, match="its key is no longer in the settings"):
        secret.reveal()
    assert secret
    assert secret.problem.startswith("it cannot be decrypted")
    use(settings, {"keys": [B, A]})
    assert (secret.reveal(), secret.problem) == (PLAIN, "")


@pytest.mark.parametrize("stored", ["fernet:", "fernet:gAAAA", "fernet:ä", "fernet:" + "A" * 120])
def test_a_damaged_text_is_unreadable(stored: str) -> None:
    with pytest.raises(Unreadable):
        encryption.decrypt(stored)
    assert not encryption.is_current(stored)


def test_invalid_keys_are_an_error_even_if_other_keys_would_work(settings: Any) -> None:
    use(settings, {})
    stored = encryption.encrypt(PLAIN)
    use(settings, {"keys": ["not a key"]})
    for call in (
        lambda: encryption.encrypt(PLAIN),
        lambda: encryption.decrypt(stored),
        lambda: encryption.is_current(stored),
    ):
        with pytest.raises(Unreadable, match="ENCRYPTION_KEYS"):
            call()


class TestSecret:
    @pytest.mark.parametrize("secret", [Secret(PLAIN), Secret(stored=encryption.encrypt(PLAIN))])
    def test_only_reveal_shows_the_text(self, secret: Secret) -> None:
        shown = [str(secret), repr(secret), f"{secret}", f"{[secret]}", "%s" % secret, f"{secret!r:>20}"]  # noqa: UP031
        shown += [repr(pickle.dumps(secret)), str(secret.__reduce__()), repr(secret == PLAIN)]
        assert not [one for one in shown if PLAIN in one]
        assert repr(secret) == "********"
        with pytest.raises(TypeError):
            json.dumps(secret)
        assert secret.reveal() == PLAIN

    def test_it_is_pickled_encrypted_and_can_be_revealed_again(self) -> None:
        again = pickle.loads(pickle.dumps(Secret(PLAIN)))
        assert again.reveal() == PLAIN

    def test_it_is_encrypted_once(self) -> None:
        secret = Secret(PLAIN)
        assert secret.stored == secret.stored

    def test_an_empty_secret_is_false_and_stored_empty(self) -> None:
        for secret in (Secret(), Secret(""), Secret(stored="")):
            assert not secret
            assert (secret.stored, secret.reveal(), repr(secret), secret == "") == ("", "", "", True)

    def test_secrets_are_equal_if_their_texts_are(self) -> None:
        assert Secret(PLAIN) == PLAIN == Secret(stored=encryption.encrypt(PLAIN)) == Secret(PLAIN)
        assert Secret(PLAIN) != "other"
        assert Secret(PLAIN) != Secret("other")
        assert Secret(PLAIN) != 1
        assert Secret("\ud800") == "\ud800"

    def test_an_unreadable_secret_equals_only_itself(self) -> None:
        lost = Secret(stored="fernet:lost")
        assert lost == Secret(stored="fernet:lost")
        assert lost not in ("", PLAIN, Secret(PLAIN), Secret(stored="fernet:other"))


def test_templates_of_a_host_cannot_reveal_a_secret() -> None:
    secret = Secret(PLAIN)
    assert PLAIN not in Template("{{ secret.reveal }} {{ secret }}").render(Context({"secret": secret}))
    with pytest.raises(SecurityError):
        SandboxedEnvironment().from_string("{{ secret.reveal() }}").render(secret=secret)


def test_a_secret_that_was_revealed_before_is_not_decrypted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = encryption.encrypt(PLAIN)
    Secret(stored=stored).reveal()
    monkeypatch.setattr(encryption, "_fernet", None)
    assert Secret(stored=stored).reveal() == PLAIN


def column(name: str = "secret") -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {name} FROM rq_webhooks_webhook")
        [[value]] = cursor.fetchall()
    return str(value)


@pytest.fixture
def webhook(database: str) -> Webhook:
    return make_webhook(Site, name="CMDB", secret=PLAIN)


@pytest.fixture
def another_key(settings: Any) -> None:
    settings.SECRET_KEY = "another key, without the old one as a fallback"


def test_each_way_to_write_the_field_encrypts(webhook: Webhook) -> None:
    assert encryption.decrypt(column()) == PLAIN != column()
    Webhook.objects.update(secret="by update")
    assert encryption.decrypt(column()) == "by update" != column()
    webhook.secret = "by save"  # type: ignore[assignment]
    webhook.save()
    assert encryption.decrypt(column()) == "by save" != column()
    webhook.secret = Secret("by bulk")
    Webhook.objects.bulk_update([webhook], ["secret"])
    assert Webhook.objects.get().secret == "by bulk" != column()
    Webhook.with_deleted.all().delete_rows()
    Webhook.objects.bulk_create([Webhook(name="x", secret="created", on_created=True, payload_url="http://x/")])
    assert encryption.decrypt(column()) == "created" != column()


def test_each_way_to_read_the_field_returns_a_secret(webhook: Webhook) -> None:
    webhook.refresh_from_db()
    deferred = Webhook.objects.defer("secret").get()
    found = [webhook.secret, deferred.secret, Webhook.objects.values_list("secret", flat=True).get()]
    assert [one.reveal() for one in found] == [PLAIN] * 3
    assert PLAIN not in repr([found, webhook.__dict__, Webhook.objects.values().get()])
    assert PLAIN not in repr(Webhook(secret=PLAIN).__dict__)


def test_an_empty_text_is_stored_as_it_is_and_can_be_filtered(webhook: Webhook) -> None:
    assert not Webhook.objects.filter(secret="").exists()
    Webhook.objects.update(secret="")
    assert column() == ""
    assert Webhook.objects.filter(secret="").exists()


def test_a_row_with_plain_text_can_be_read(webhook: Webhook) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE rq_webhooks_webhook SET secret = 'in clear'")
    assert Webhook.objects.get().secret == "in clear"


def test_a_save_keeps_an_unreadable_secret(webhook: Webhook, another_key: None, settings: Any) -> None:
    before = column()
    fresh = Webhook.objects.get()
    fresh.name = "renamed"
    fresh.full_clean()
    fresh.save()
    assert column() == before
    assert fresh.unreadable == ["secret"]


@pytest.mark.parametrize("kind", ["json", "xml", "jsonl"])
def test_an_export_has_the_encrypted_text_and_an_import_accepts_it(webhook: Webhook, kind: str) -> None:
    Webhook.objects.update(secret_headers="Authorization: Bearer hush-hush")
    out = io.StringIO()
    call_command("dumpdata", "rq_webhooks.webhook", format=kind, stdout=out)
    assert PLAIN not in out.getvalue()
    Webhook.objects.all().delete()
    for one in serializers.deserialize(kind, out.getvalue()):
        one.save()
    loaded = Webhook.objects.get()
    assert (loaded.secret, loaded.secret_headers) == (PLAIN, "Authorization: Bearer hush-hush")


def test_a_pickled_instance_has_the_secret_encrypted(webhook: Webhook) -> None:
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
def test_an_invalid_secret_is_refused_and_not_repeated_in_the_error(
    webhook: Webhook, field: str, value: str, error: str
) -> None:
    setattr(webhook, field, value)
    with pytest.raises(ValidationError) as raised:
        webhook.full_clean()
    assert set(raised.value.message_dict) == {field}
    assert error in str(raised.value)
    assert value not in str(raised.value)


def test_validation_refuses_a_secret_that_cannot_be_encrypted(webhook: Webhook, webhooks_settings: Any) -> None:
    webhooks_settings(ENCRYPTION_KEYS=["no key"])
    fresh = Webhook.objects.get()
    fresh.full_clean()  # a stored secret needs no key
    fresh.secret = Secret("new")
    with pytest.raises(ValidationError, match="ENCRYPTION_KEYS"):
        fresh.full_clean()
