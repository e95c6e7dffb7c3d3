"""Registrations: sensitive fields and primary keys."""

from __future__ import annotations

import enum
import json
import logging
import re
import tracemalloc
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.utils.translation import gettext_lazy
from rest_framework import serializers
from rest_framework.authtoken.models import Token

import webhooks
from dcim.models import Site
from tests.support.makers import actions, events, last_data, make_webhook
from tests.support.modes import MODES
from tests.testapp.models import ApiToken, Country, Edition, Essay, Gadget, Shelf, Shout, Tide
from users.models import User
from webhooks.ground import registry
from webhooks.ground.registry.keys import normalize_pk
from webhooks.ground.registry.registration import is_sensitive, sensitive_fields
from webhooks.ground.text.json_text import drop_keys, dumps

# Sensitive fields


@pytest.fixture(autouse=True)
def registered(own_registrations: None) -> None:
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
def test_sensitive_names(name: str) -> None:
    assert is_sensitive(name)


@pytest.mark.parametrize(
    "name",
    [
        "id", "key", "name", "public_key", "primary_key", "foreign_key", "keyboard", "monkey", "asset_tag", "serial",
        "hash", "comments", "pwdless", "passport", "passive", "custom_fields", "auth_type", "upskill", "",
    ],
)  # fmt: skip
def test_other_names_are_not_sensitive(name: str) -> None:
    assert not is_sensitive(name)


@pytest.mark.cost
def test_long_names_are_checked_and_not_cached() -> None:
    tracemalloc.start()
    try:
        for number in range(8):
            assert is_sensitive(f"{number} {'x' * 1_000_000} token")
            assert not is_sensitive(f"{number} {'x' * 1_000_000}")
        assert tracemalloc.get_traced_memory()[0] < 5_000_000
    finally:
        tracemalloc.stop()


def test_the_classes_of_fields_count_too() -> None:
    fields = [("key", "CharField"), ("community", "EncryptedCharField"), ("name", "CharField"), ("pin", "SecretField")]
    assert sensitive_fields("Site", fields) == {"community", "pin"}
    assert sensitive_fields("APIToken", fields) == {"key", "community", "pin", "display", "display_name"}


def test_sensitive_keys_are_left_out_at_any_depth() -> None:
    value = {"a": 1, "x": 2, "b": [{"x": 3, "c": ({"x": 4, "d": None},)}], "e": {"x": {}, "f": "x"}, 5: "y"}
    rest = drop_keys(value, lambda name: name == "x")
    assert rest == {"a": 1, "b": [{"c": [{"d": None}]}], "e": {"f": "x"}, 5: "y"}
    assert value["x"] == 2, "the value itself is not changed"


def test_sensitive_keys_inside_generators_are_left_out() -> None:
    written = dumps({"rows": ({"x": 1, "y": n} for n in range(2))}, lambda name: name == "x")
    assert json.loads(written) == {"rows": [{"y": 0}, {"y": 1}]}


# From a saved object


class UserSerializer(serializers.ModelSerializer):
    profile = serializers.SerializerMethodField()

    class Meta:
        model = User
        fields = ("id", "password", "email", "profile")

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
def make_user() -> Callable[..., User]:
    def make(**options: Any) -> User:
        webhooks.register(User, serializer=UserSerializer, **options)
        make_webhook(User)
        return User.objects.create_user("ann@example.org", "s3cret-password")

    return make


PROFILE = {"theme": "dark", "keys": [{"public_key": "open"}]}


@pytest.mark.usefixtures("database")
def test_data_and_snapshots_have_no_passwords_and_tokens(make_user: Callable[..., User]) -> None:
    user = make_user()
    columns = {"id": user.pk, "email": "ann@example.org"}
    [event] = events()
    assert json.loads(event.data) == columns | {"profile": PROFILE}
    assert json.loads(event.snapshots)["postchange"] == columns
    assert "s3cret" not in event.data + event.snapshots
    assert user.password not in event.data + event.snapshots


@pytest.mark.usefixtures("database")
def test_a_token_is_neither_data_nor_the_name_of_its_object() -> None:
    webhooks.register(ApiToken, serializer=ApiTokenSerializer)
    make_webhook(ApiToken, custom_events=["testapp.used"])
    token = ApiToken.objects.create(key="s3cret")
    pk = token.pk
    webhooks.send("testapp.used", token)
    token.delete()
    actual = events()
    assert [event.action for event in actual] == ["created", "testapp.used", "deleted"]
    assert {event.object_repr for event in actual} == {f"api token {pk}"}
    assert [json.loads(event.data) for event in actual] == [{"id": pk}, None, {"id": pk}]
    assert "s3cret" not in "".join(event.snapshots for event in actual)


@pytest.mark.usefixtures("database")
def test_include_sensitive_allows_the_name_of_a_token() -> None:
    webhooks.register(ApiToken, serializer=ApiTokenSerializer, include_sensitive=["key", "display"])
    make_webhook(ApiToken)
    token = ApiToken.objects.create(key="open")
    [event] = events()
    assert event.object_repr == "open"
    assert json.loads(event.data) == {"id": token.pk, "key": "open", "display": "open"}


def test_a_model_whose_primary_key_is_a_secret_is_refused() -> None:
    with pytest.raises(
        ImproperlyConfigured, match=r"a secret as its primary key, 'key'\..*include_sensitive=\['key'\]"
    ):
        webhooks.register(Token, serializer=TokenSerializer)
    assert registry.registration_of(Token) is None
    webhooks.register(Token, serializer=TokenSerializer, include_sensitive=["key"])
    assert registry.registration_of(Token)


def test_a_custom_event_cannot_have_an_object_with_a_secret_primary_key() -> None:
    with pytest.raises(ValueError, match=r"about an object of authtoken\.token: its primary key is a secret"):
        webhooks.send("testapp.used", Token(key="s3cret"))


@pytest.mark.usefixtures("database")
def test_include_sensitive_sends_the_named_fields(make_user: Callable[..., User]) -> None:
    user = make_user(include_sensitive=["password", "api_token"])
    [event] = events()
    assert last_data()["password"] == user.password
    assert last_data()["profile"] == PROFILE | {"api_token": "s3cret"}
    assert json.loads(event.snapshots)["postchange"]["password"] == user.password


@pytest.mark.usefixtures("database")
def test_excluded_fields_are_missing_from_data_and_snapshots() -> None:
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
        {"exclude": "comments"}, {"include_sensitive": "password"}, {"serializers": {"": "a.B"}},
        {"serializers": {"not a name": "a.B"}},
    ],
)  # fmt: skip
def test_invalid_arguments_of_register_are_refused(options: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"dcim\.site"):
        webhooks.register(Site, **options)


# Primary keys

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ID = uuid.UUID("00000000-0000-4000-8000-00000000000a")

# A model, a primary key as a host may assign it, and as the database has it.
TIMES: list[tuple[type[models.Model], Any, str]] = [
    (Tide, NOON.astimezone(timezone(timedelta(hours=2))), "2026-01-01 12:00:00+00:00"),
    (Tide, "2026-01-01T14:00:00+02:00", "2026-01-01 12:00:00+00:00"),
]
NAIVE_TIMES: list[tuple[type[models.Model], Any, str]] = [(Tide, "2026-01-01T12:00", "2026-01-01 12:00:00")]
KEYS: list[tuple[type[models.Model], Any, str]] = [
    (Edition, Decimal(1), "1.00"),
    (Edition, "1.5", "1.50"),
    (Edition, 2, "2.00"),
    *(TIMES if settings.USE_TZ else NAIVE_TIMES),
    (Gadget, str(ID).upper(), str(ID)),
]


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("prechange", [False, True])
@MODES
@pytest.mark.parametrize(("model", "given", "named"), KEYS)
def test_object_ids_are_normalized_primary_keys(
    model: type[models.Model], given: Any, named: str, mode: Any, prechange: bool
) -> None:
    make_webhook(model, prechange=prechange)
    manager = model._base_manager
    mode(lambda: manager.create(pk=given, name="made"))
    again = manager.get()
    again.pk, again.name = given, "changed"  # type: ignore[attr-defined]
    mode(again.save)
    mode(again.delete)
    assert [(event.action, event.object_id, event.error) for event in events()] == [
        ("created", named, ""),
        ("updated", named, ""),
        ("deleted", named, ""),
    ]
    assert ('"made"' in events()[1].snapshots) == prechange


@pytest.mark.usefixtures("database")
@MODES
def test_a_field_with_custom_conversion_can_be_a_primary_key(mode: Any) -> None:
    make_webhook(Shout, prechange=True)
    mode(lambda: [Shout.objects.create(word=word, name="made") for word in ("hey", "ho")])
    assert [(event.action, event.object_id, event.error) for event in events()] == [
        ("created", "hey", ""),
        ("created", "ho", ""),
    ]
    assert last_data()["word"] == "HO"


@pytest.mark.usefixtures("database")
def test_a_row_deleted_within_a_batch_is_not_sent() -> None:
    make_webhook(Edition)
    with webhooks.batch():
        Edition.objects.create(pk=1)
        Edition.objects.create(pk=2)
        Edition.objects.filter(pk=1)._raw_delete("default")
    assert [(event.action, event.object_id) for event in events()] == [("created", "2.00")]


@pytest.mark.usefixtures("database")
def test_a_custom_event_has_the_lane_of_its_object() -> None:
    make_webhook(Gadget, custom_events=["testapp.used"])
    gadget = Gadget.objects.create(id=str(ID).upper(), name="made")
    webhooks.send("testapp.used", gadget)
    made, sent = events()
    assert (made.object_type, made.object_id) == (sent.object_type, sent.object_id)
    with pytest.raises(ValueError, match="its key is invalid"):
        webhooks.send("testapp.used", Gadget(id="nothing like it"))
    assert actions() == ["created", "testapp.used"]


class EssaySerializer(serializers.ModelSerializer):
    class Meta:
        model = Essay
        fields = ("title",)


@pytest.mark.postgresql
@pytest.mark.usefixtures("database")
@MODES
def test_an_unrecordable_object_does_not_affect_other_events(mode: Any, app_log: pytest.LogCaptureFixture) -> None:
    registry.register(Essay, EssaySerializer)
    make_webhook(Essay, Edition, custom_events=["testapp.used"])

    def change() -> None:
        Essay.objects.create(title="short")
        Essay.objects.create(title="x" * 300)
        webhooks.send("testapp.used")
        Edition.objects.create(pk=1, name="made")

    mode(change)
    assert [event.object_id for event in events()] == ["short", "testapp.used", "1.00"]
    assert [event.error for event in events()] == [""] * 3
    assert re.search("no webhook gets it: testapp.essay x{300} created", app_log.text)


def test_inherited_and_composite_primary_keys_are_normalized() -> None:
    class Reprint(Edition):
        class Meta:
            app_label = "unmade"

    class Page(models.Model):
        pk = models.CompositePrimaryKey("edition_id", "number")
        edition = models.ForeignKey(Edition, models.CASCADE)
        number = models.IntegerField()

        class Meta:
            app_label = "unmade"

    assert str(registry.registration_or_default(Reprint).normalize_pk("3")) == "3.00"
    assert [str(part) for part in normalize_pk(Page._meta.pk, (3, "7"))] == ["3.00", "7"]


def test_a_secret_in_a_key_is_refused() -> None:
    class Session(models.Model):
        pk = models.CompositePrimaryKey("number", "token")
        number = models.IntegerField()
        token = models.CharField(max_length=50)

        class Meta:
            app_label = "unmade"

    with pytest.raises(ImproperlyConfigured, match="has a secret as its primary key, 'token'"):
        registry.register(Session)


class Code(str, enum.Enum):  # noqa: UP042 # as hosts have them
    GERMANY = "de"


class Choice(models.TextChoices):
    GERMANY = "de"


class Number(enum.IntEnum):
    SEVEN = 7


class Issue(Decimal, enum.Enum):
    THIRD = "3"


@pytest.mark.parametrize(
    ("model", "key", "plain"),
    [(Country, Code.GERMANY, "de"), (Country, Choice.GERMANY, "de"), (Shelf, Number.SEVEN, "7"),
     (Edition, Issue.THIRD, "3.00")],
)  # fmt: skip
def test_a_member_of_an_enumeration_is_the_key_that_it_stands_for(
    model: type[models.Model], key: Any, plain: str
) -> None:
    assert str(normalize_pk(model._meta.pk, key)) == plain


@pytest.mark.usefixtures("database")
def test_an_object_with_a_key_of_an_enumeration_has_one_lane() -> None:
    make_webhook(Country)
    country = Country.objects.create(code=Code.GERMANY, name="Germany")
    Country.objects.get(code="de").save()
    country.delete()
    assert {(event.object_id, json.loads(event.data)["code"]) for event in events()} == {("de", "de")}
    assert actions() == ["created", "updated", "deleted"]


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("answer", [lambda self: None, lambda self: 1 / 0, lambda self: gettext_lazy("Yes")])
def test_an_object_without_a_name_is_sent_with_its_model_and_key(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[Any], Any], app_log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Gadget, "__str__", answer)
    make_webhook(Gadget)
    gadget = Gadget.objects.create(name="a")
    webhooks.send("testapp.used", gadget)
    gadget.delete()
    found = events()
    assert [(event.error, event.object_repr) for event in found] == [("", f"gadget {found[0].object_id}")] * 2
    assert not [record for record in app_log.records if record.levelno > logging.DEBUG]


@pytest.mark.one_database
@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("model", "key"),
    [
        (Site, "no number"), (Site, 10**30), (Site, float("inf")), (Site, [1]), (Edition, "1e50"), (Tide, 5),
        (Tide, "tomorrow"), (Gadget, "no uuid"),
    ],
)  # fmt: skip
def test_a_key_that_the_model_cannot_have_finds_no_object(model: type[models.Model], key: Any) -> None:
    registration = registry.registration_or_default(model)
    assert registration.find(registration.rows("default"), key) is None


@pytest.mark.usefixtures("database")
def test_an_object_is_found_by_its_key_in_another_spelling() -> None:
    edition, registration = Edition.objects.create(pk=1, name="a"), registry.registration_or_default(Edition)
    assert registration.find(registration.rows("default"), "1") == Edition.objects.get(name=edition.name)
    assert registration.find(registration.rows("default").exclude(name="a"), "1") is None


def test_a_naive_time_is_in_the_time_zone_of_the_settings(settings: Any) -> None:
    at, naive = Tide._meta.pk, datetime(2026, 1, 1, 12)
    settings.TIME_ZONE = "Europe/Berlin"
    settings.USE_TZ = True
    assert str(normalize_pk(at, naive)) == "2026-01-01 11:00:00+00:00"
    settings.USE_TZ = False
    assert normalize_pk(at, naive) == naive
    assert normalize_pk(at, NOON) == datetime(2026, 1, 1, 13)
