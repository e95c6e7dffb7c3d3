"""Which fields are left out by their names, and how."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from rest_framework import serializers
from rest_framework.authtoken.models import Token

import webhooks
from dcim.models import Site
from tests.support.makers import events, last_data, make_webhook
from tests.testapp.models import ApiToken
from webhooks import registry, text
from webhooks.registry.registration import is_sensitive, sensitive_fields
from webhooks.text import drop_keys


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registrations", dict(registry._registrations))
    monkeypatch.setattr(registry, "_custom_events", dict(registry._custom_events))
    webhooks.register_event("testapp.used")


@pytest.mark.parametrize(
    "name",
    [
        "password", "Password", "auth_password", "passwordHash", "db-passwd", "passphrase", "token", "api_tokens",
        "tokenValue", "secret", "secrets", "clientSecret", "webhook_secret", "SECRET_KEY", "api_key", "apiKey",
        "API-Key", "x-api-key", "private_key", "ssh_private_key", "privateKey", "auth_key", "access_key",
        "encryption_key", "preshared_key", "shared key", "signing_key", "session_key", "credentials", "psk", "wifi_psk",
        "auth_psk", "pwd", "user_pwd", "PSK",
    ],
)  # fmt: skip
def test_names_that_tell_of_a_secret_are_sensitive(name: str) -> None:
    assert is_sensitive(name)


@pytest.mark.parametrize(
    "name",
    [
        "id", "key", "name", "public_key", "primary_key", "foreign_key", "keyboard", "monkey", "asset_tag", "serial",
        "hash", "comments", "pwdless", "passport", "passive", "custom_fields", "auth_type", "upskill", "",
    ],
)  # fmt: skip
def test_other_names_are_not(name: str) -> None:
    assert not is_sensitive(name)


def test_long_names_are_looked_at_and_not_kept_in_memory() -> None:
    tracemalloc.start()
    try:
        for number in range(50):
            assert is_sensitive(f"{number} {'x' * 1_000_000} token")
            assert not is_sensitive(f"{number} {'x' * 1_000_000}")
        assert tracemalloc.get_traced_memory()[0] < 5_000_000
    finally:
        tracemalloc.stop()


def test_what_a_model_says_of_its_fields_counts_too() -> None:
    fields = [("key", "CharField"), ("community", "EncryptedCharField"), ("name", "CharField"), ("pin", "SecretField")]
    assert sensitive_fields("Site", fields) == {"community", "pin"}
    assert sensitive_fields("APIToken", fields) == {"key", "community", "pin", "display", "display_name"}


def test_keys_are_left_out_however_deep_they_stand_and_whatever_holds_them() -> None:
    value = {"a": 1, "x": 2, "b": [{"x": 3, "c": ({"x": 4, "d": None},)}], "e": {"x": {}, "f": "x"}, 5: "y"}
    rest = drop_keys(value, lambda name: name == "x")
    assert rest == {"a": 1, "b": [{"c": [{"d": None}]}], "e": {"f": "x"}, 5: "y"}
    assert value["x"] == 2, "the value itself is not changed"


def test_keys_within_what_only_the_encoder_takes_apart_are_left_out_too() -> None:
    written = text.dumps({"rows": ({"x": 1, "y": n} for n in range(2))}, lambda name: name == "x")
    assert json.loads(written) == {"rows": [{"y": 0}, {"y": 1}]}


# From a saved object


class UserSerializer(serializers.ModelSerializer):
    profile = serializers.SerializerMethodField()

    class Meta:
        model = User
        fields = ("id", "username", "password", "email", "profile")

    def get_profile(self, user: User) -> Any:
        return {"api_token": "s3cret", "theme": "dark", "keys": [{"private_key": "s3cret", "public_key": "open"}]}


class TokenSerializer(serializers.ModelSerializer):
    class Meta:
        model = Token
        fields = ("key", "user")


class ApiTokenSerializer(serializers.ModelSerializer):
    display = serializers.CharField(source="__str__", read_only=True)

    class Meta:
        model = ApiToken
        fields = ("id", "key", "display")


@pytest.fixture
def make_user() -> Iterator[Callable[..., User]]:
    def make(**options: Any) -> User:
        webhooks.register(User, serializer=UserSerializer, **options)
        make_webhook(User)
        return User.objects.create_user("ann", "ann@example.org", "s3cret-password")

    yield make
    registry.unregister(User)


PROFILE = {"theme": "dark", "keys": [{"public_key": "open"}]}


@pytest.mark.usefixtures("database")
def test_passwords_and_tokens_are_neither_in_the_data_nor_in_the_snapshots(make_user: Callable[..., User]) -> None:
    user = make_user()
    columns = {"id": user.pk, "username": "ann", "email": "ann@example.org"}
    [event] = events()
    assert json.loads(event.data) == columns | {"profile": PROFILE}
    assert json.loads(event.snapshots)["postchange"] == columns
    assert "s3cret" not in event.data + event.snapshots
    assert user.password not in event.data + event.snapshots


@pytest.mark.usefixtures("database")
def test_a_token_is_neither_sent_nor_told_as_a_name() -> None:
    webhooks.register(ApiToken, serializer=ApiTokenSerializer)
    make_webhook(ApiToken, custom_events=["testapp.used"])
    token = ApiToken.objects.create(key="s3cret")
    pk = token.pk
    webhooks.send("testapp.used", token)
    token.delete()
    told = events()
    assert [event.action for event in told] == ["created", "testapp.used", "deleted"]
    assert {event.object_repr for event in told} == {f"api token {pk}"}
    assert [json.loads(event.data) for event in told] == [{"id": pk}, None, {"id": pk}]
    assert "s3cret" not in "".join(event.snapshots for event in told)


@pytest.mark.usefixtures("database")
def test_a_model_that_is_called_like_a_secret_and_holds_none_is_named_where_that_is_asked_for() -> None:
    webhooks.register(ApiToken, serializer=ApiTokenSerializer, include_sensitive=["key", "display"])
    make_webhook(ApiToken)
    token = ApiToken.objects.create(key="open")
    [event] = events()
    assert event.object_repr == "open"
    assert json.loads(event.data) == {"id": token.pk, "key": "open", "display": "open"}


def test_a_model_whose_primary_key_is_a_secret_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"whose primary key 'key' is a secret.*include_sensitive=\['key'\]"):
        webhooks.register(Token, serializer=TokenSerializer)
    assert registry.registration_of(Token) is None
    webhooks.register(Token, serializer=TokenSerializer, include_sensitive=["key"])
    assert registry.registration_of(Token)


def test_a_custom_event_cannot_be_about_an_object_whose_primary_key_is_a_secret() -> None:
    with pytest.raises(ValueError, match=r"about an object of authtoken\.token, whose primary key is a secret"):
        webhooks.send("testapp.used", Token(key="s3cret"))


@pytest.mark.usefixtures("database")
def test_what_is_sensitive_is_sent_where_it_is_asked_for_by_name(make_user: Callable[..., User]) -> None:
    user = make_user(include_sensitive=["password", "api_token"])
    [event] = events()
    assert last_data()["password"] == user.password
    assert last_data()["profile"] == PROFILE | {"api_token": "s3cret"}
    assert json.loads(event.snapshots)["postchange"]["password"] == user.password


@pytest.mark.usefixtures("database")
def test_fields_are_left_out_of_the_data_and_the_snapshots_as_the_registration_says() -> None:
    webhooks.register(Site, exclude=["comments", "tenant", "slug"])
    make_webhook(Site)
    Site.objects.create(name="Berlin", slug="berlin", comments="not for everybody")
    [event] = events()
    for shown in (last_data(), json.loads(event.snapshots)["postchange"]):
        assert {"comments", "tenant", "slug"}.isdisjoint(shown)
        assert shown["name"] == "Berlin"


@pytest.mark.parametrize(
    "options",
    [
        {"exclude": "comments"}, {"exclude": [1]}, {"include_sensitive": "password"}, {"serializers": {"": "a.B"}},
        {"serializers": {"not a name": "a.B"}}, {"serializers": {1: "a.B"}}, {"serializers": {"brief": None}},
    ],
)  # fmt: skip
def test_a_registration_that_cannot_mean_what_it_says_is_refused(options: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"dcim\.site"):
        webhooks.register(Site, **options)
