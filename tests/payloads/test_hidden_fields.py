"""Fields that a serializer renames, masks or computes: what they read decides whether they are sent."""

from __future__ import annotations

import datetime
import gc
import json
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import models, transaction
from django.urls import path
from rest_framework import serializers

import webhooks
from core.models import Tag
from dcim.models import Site
from tests.support.makers import actions, changed, events, make_webhook, sides
from tests.testapp.models import Country, Specimen, Thing
from webhooks.capture.serialize import serialize
from webhooks.ground import payloads, registry
from webhooks.ground.payloads import snapshots
from webhooks.ground.registry.registration import Registration

SECRET = "s3cret"


class EncryptedTextField(models.TextField):
    pass


class NationalNumberField(EncryptedTextField):
    """A field of the host, with a name that suggests nothing."""


class Base(models.Model):
    class Meta:
        abstract = True
        app_label = "unmade"


class Login(Base):
    """As Django's Session: its key is the secret."""

    session_key = models.CharField(max_length=40, primary_key=True)
    place = models.CharField(max_length=20)

    class Meta:
        app_label = "unmade"

    def __str__(self) -> str:
        return self.session_key


class DeviceToken(Base):
    key = models.CharField(max_length=20, unique=True)
    place = models.CharField(max_length=20)

    class Meta:
        app_label = "unmade"

    def __str__(self) -> str:
        return self.key


class Phone(DeviceToken):
    class Meta:
        app_label = "unmade"


class Profile(Base):
    ssn = models.CharField(max_length=20)
    pin = EncryptedTextField()
    city = models.CharField(max_length=20)

    class Meta:
        app_label = "unmade"


class Patient(Base):
    name = models.CharField(max_length=20)
    ssn = models.CharField(max_length=20)
    password = models.CharField(max_length=20)
    pin = EncryptedTextField()
    national = NationalNumberField()
    kind = models.CharField(max_length=20, choices=[("a", SECRET)])
    profile = models.ForeignKey(Profile, models.DO_NOTHING, null=True)
    profiles = models.ManyToManyField(Profile, related_name="+")
    parent = models.ForeignKey("self", models.DO_NOTHING, null=True)
    login = models.ForeignKey(Login, models.DO_NOTHING, null=True)
    device = models.ForeignKey(DeviceToken, models.DO_NOTHING, null=True)
    phone = models.ForeignKey(DeviceToken, models.DO_NOTHING, null=True, to_field="key", related_name="+")

    class Meta:
        app_label = "unmade"


class Loaded(models.QuerySet):
    """A queryset with one object, which needs no database."""

    def __init__(self, one: Any = None, **options: Any) -> None:
        super().__init__(**{"model": type(one), **options})
        self._result_cache = [one]


class Hall(Base):
    logins = models.ManyToManyField(Login)
    profiles = models.ManyToManyField(Profile)

    class Meta:
        app_label = "unmade"


def patient(**values: Any) -> Patient:
    common = {"name": "Ann", "ssn": SECRET, "password": SECRET, "pin": SECRET, "kind": "a", "national": SECRET}
    return Patient(**{"pk": 1, **common, **values})


def family() -> Patient:
    one = _family()
    one._prefetched_objects_cache = {"profiles": [one.profile]}
    return one


def _family() -> Patient:
    return patient(
        profile=Profile(pk=2, ssn=SECRET, pin=SECRET, city="Rome"),
        parent=patient(pk=3),
        login=Login(session_key=SECRET, place="here"),
        device=DeviceToken(pk=4, key=SECRET, place="there"),
        phone=DeviceToken(pk=5, key=SECRET, place="there"),
    )


def serializer_of(model: type[models.Model] | None = Patient, **fields: Any) -> type[serializers.Serializer]:
    """A serializer with these fields, and the name and key of the object."""
    if model is None:
        return type("PlainSerializer", (serializers.Serializer,), fields)
    names = ("id", "name", *fields) if model is Patient else tuple(fields)
    meta = type("Meta", (), {"model": model, "fields": names})
    return type(f"{model.__name__}Serializer", (serializers.ModelSerializer,), {**fields, "Meta": meta})


def text(source: str | None = None) -> serializers.CharField:
    return serializers.CharField(source=source, read_only=True)


def method(function: Any) -> Any:
    """A method field of any name."""

    class Computed(serializers.SerializerMethodField):
        def to_representation(self, value: Any) -> Any:
            return function(value)

    return Computed()


def shown(serializer: Any, instance: models.Model | None = None, **options: Any) -> tuple[Any, Any]:
    """The data and the snapshot of an object."""
    payload = serialize(Registration(Patient, serializer, **_frozen(options)), instance or family())
    return json.loads(payload.data), json.loads(payload.snapshot)


def _frozen(options: dict[str, Any]) -> dict[str, Any]:
    return {name: frozenset(names) for name, names in options.items()}


class ByMethod(serializers.ModelSerializer):
    """Calls other serializers in a method, as NetBox does for generic relations."""

    parents = serializers.SerializerMethodField()

    class Meta:
        model = Patient
        fields = ("id", "name", "parents")

    def get_parents(self, one: Patient) -> Any:
        nested = serializer_of(social=text("ssn"), hash=text("password"))
        return {"one": nested(one.parent).data, "all": (nested(each).data for each in [one.parent])}


def nested(**fields: Any) -> Any:
    return serializer_of(**fields)(read_only=True)


# Each shows a secret under a harmless name.
RENAMED = {
    "an excluded field": {"social": text("ssn")},
    "a sensitive field": {"hash": text("password")},
    "a field of a sensitive class": {"number": text("pin")},
    "a field of a class with a sensitive base": {"national": text(), "number": text("national")},
    "a field of a related object": {"number": text("profile.pin")},
    "an excluded name of a related object": {"number": text("profile.ssn")},
    "the display of a choice": {"sort": text("get_kind_display")},
    "the object again": {"more": serializer_of(None, social=text("ssn"))(source="*", read_only=True)},
    "a nested object of the same model": {"parent": nested(social=text("ssn"), hash=text("password"))},
    "an excluded field of a nested object": {"parent": nested(ssn=text())},
    "a nested field": {"profile": nested(model=Profile, city=text(), number=text("pin"))},
    "a nested field with its name": {"profile": nested(model=Profile, city=text(), pin=text())},
    "a nested serializer without a model": {"profile": serializer_of(None, a=text("pin"))(read_only=True)},
    "a list of nested objects": {
        "parents": serializers.ListField(source="parent.as_list", child=nested(social=text("ssn")), read_only=True)
    },
    "many nested objects": {
        "parents": serializer_of(social=text("ssn"), login=text("parent.ssn"))(
            source="parent.as_list", many=True, read_only=True
        )
    },
    "the key of a related object": {"who": serializers.PrimaryKeyRelatedField(source="login", read_only=True)},
    "the key under its own name": {"login": serializers.PrimaryKeyRelatedField(read_only=True)},
    "the column of the key": {"who": text("login_id")},
    "the column of a token": {"who": serializers.PrimaryKeyRelatedField(source="phone", read_only=True)},
    "a link to a token": {
        "who": serializers.HyperlinkedRelatedField("one", source="phone", read_only=True)
    },
    "the name of an object with a secret key": {"who": serializers.StringRelatedField(source="login")},
    "the name of a token": {"who": serializers.StringRelatedField(source="device")},
    "a token as text": {"who": text("device")},
    "a token as text by its method": {"who": text("device.__str__")},
    "the key of a token": {"who": text("device.key")},
    "a slug": {"who": serializers.SlugRelatedField("pin", source="profile", read_only=True)},
    "many slugs": {"who": serializers.SlugRelatedField("password", source="parent.as_list", many=True, read_only=True)},
    "a slug of all objects of a relation": {
        "who": serializers.SlugRelatedField("pin", source="profiles.all", many=True, read_only=True)
    },
    "a link with a secret": {"self": serializers.HyperlinkedIdentityField("one", lookup_field="ssn")},
    "a link to a related object": {
        "who": serializers.HyperlinkedRelatedField("one", source="login", read_only=True)
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def links(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Patient, "as_list", property(lambda one: [one]), raising=False)
    settings.ROOT_URLCONF = type(
        "urls", (), {"urlpatterns": [path(f"<{name}>/", str, name="one") for name in ("pk", "ssn")]}
    )
    return


@pytest.mark.parametrize("case", RENAMED)
def test_a_renamed_field_is_as_secret_as_what_it_reads(case: str) -> None:
    serializer = serializer_of(**RENAMED[case])
    assert SECRET in json.dumps(serializer(family(), context={"request": None}).data), "the serializer shows it"
    data, snapshot = shown(serializer, exclude=["ssn", "kind"])
    assert SECRET not in json.dumps([data, snapshot])
    assert data["name"] == snapshot["name"] == "Ann"


def test_serializers_that_a_method_calls_are_followed() -> None:
    data, _ = shown(ByMethod, exclude=["ssn"])
    rest = {"id": 3, "name": "Ann"}
    assert data["parents"] == {"one": rest, "all": [rest]}


def delegating(write: Any) -> type[serializers.ModelSerializer]:
    """A serializer of one own field, whose ``to_representation`` does more."""

    def to_representation(self: Any, one: Patient) -> Any:
        return write(one, serializers.ModelSerializer.to_representation(self, one))

    meta = type("Meta", (), {"model": Patient, "fields": ("id", "own")})
    return type(
        "Delegating", (serializers.ModelSerializer,),
        {"own": text("ssn"), "Meta": meta, "to_representation": to_representation},
    )  # fmt: skip


PLAIN_FIELDS = serializer_of(None, name=text(), social=text("ssn"), number=text("pin"))
OF_PATIENT = serializer_of(social=text("ssn"), number=text("pin"))

# Each shows nothing but the name and key of the object, if the fields of the serializer that it calls are followed.
CALLED = {
    "of no model": serializer_of(more=method(lambda one: PLAIN_FIELDS(one).data)),
    "many of no model": serializer_of(more=method(lambda one: PLAIN_FIELDS([one], many=True).data)),
    "of a queryset": serializer_of(more=method(lambda one: PLAIN_FIELDS(Loaded(one), many=True).data)),
    "as values": serializer_of(more=method(lambda one: {1: OF_PATIENT(one).data}.values())),
    "as all data": delegating(lambda one, own: OF_PATIENT(one).data),
    "as all data, of no model": delegating(lambda one, own: PLAIN_FIELDS(one).data),
    "with own data": delegating(lambda one, own: OF_PATIENT(one).data | own),
    "with other data": delegating(lambda one, own: {"other": OF_PATIENT(one).data}),
    "in an envelope": delegating(lambda one, own: {"object": own | {"name": one.name}}),
    "in a list": delegating(lambda one, own: {"objects": [own | {"name": one.name}]}),
    "in an envelope of an envelope": delegating(lambda one, own: {"type": {"list": [{"own": SECRET, "name": "Ann"}]}}),
    "as the data of a free serializer": type(
        "Free", (serializers.BaseSerializer,), {"to_representation": lambda self, one: OF_PATIENT(one).data}
    ),
}


@pytest.mark.parametrize("case", CALLED)
def test_the_fields_of_every_serializer_that_wrote_data_are_followed(case: str) -> None:
    assert SECRET in json.dumps(CALLED[case](family(), context={}).data, default=list), "the serializer shows it"
    data, snapshot = shown(CALLED[case], exclude=["ssn"])
    assert SECRET not in json.dumps([data, snapshot])
    assert "Ann" in json.dumps(data)


@pytest.mark.parametrize(
    "fields",
    [
        {"profile": nested(model=Profile, city=text())},
        {"city": text("profile.city")},
        {"place": serializers.SlugRelatedField("place", source="login", read_only=True)},
        {"place": text("device.place")},
        {"device": serializers.PrimaryKeyRelatedField(read_only=True)},
        {"place": text("login.place")},
        {"self": serializers.HyperlinkedIdentityField("one")},
        {"profile": nested(model=Profile, name=text("city"), ssn=text())},
    ],
)
def test_harmless_fields_are_sent(fields: dict[str, Any]) -> None:
    serializer = serializer_of(**fields)
    data, _ = shown(serializer, exclude=["ssn"])
    assert data == serializer(family(), context={"request": None}).data


def test_the_key_of_a_related_object_with_a_secret_key_is_no_snapshot_of_its_other_fields() -> None:
    serializer = serializer_of(place=serializers.SlugRelatedField("place", source="login", read_only=True))
    assert shown(serializer)[1] == {"id": 1, "name": "Ann"}
    assert shown(serializer, include_sensitive=["login"])[1]["place"] == SECRET


@pytest.mark.parametrize(
    ("fields", "included"),
    [
        ({"hash": text("password")}, "hash"),
        ({"hash": text("password")}, "password"),
        ({"number": text("pin")}, "number"),
        ({"number": text("pin")}, "pin"),
        ({"number": text("profile.pin")}, "pin"),
        ({"login": serializers.PrimaryKeyRelatedField(read_only=True)}, "login"),
        ({"login": serializers.PrimaryKeyRelatedField(read_only=True)}, "session_key"),
        ({"who": serializers.PrimaryKeyRelatedField(source="login", read_only=True)}, "who"),
        ({"who": serializers.StringRelatedField(source="device")}, "who"),
    ],
)
def test_include_sensitive_names_a_field_as_in_the_payload_or_as_in_the_model(
    fields: dict[str, Any], included: str
) -> None:
    [name] = fields
    data, snapshot = shown(serializer_of(**fields), include_sensitive=[included])
    assert data[name] == SECRET
    assert snapshot.get(name, SECRET) in (SECRET, 4)


def test_an_excluded_field_is_not_sent_even_if_include_sensitive_names_it() -> None:
    serializer = serializer_of(social=text("ssn"), password=text())
    options = {"exclude": ["ssn", "password"], "include_sensitive": ["ssn", "social", "password"]}
    for sent in shown(serializer, **options):
        assert sent == {"id": 1, "name": "Ann"}


@pytest.mark.parametrize("fields", [{"name": "a text"}, {"name": None}])
def test_a_serializer_or_a_field_may_call_something_else_its_fields(fields: dict[str, Any]) -> None:
    class Free(serializers.BaseSerializer):
        def to_representation(self, instance: Any) -> Any:
            return {"name": instance.name}

    class Badge(serializers.Field):
        def to_representation(self, value: Any) -> Any:
            return {"name": value.name}

    Free.fields = Badge.fields = fields
    assert shown(Free) == ({"name": "Ann"}, {"name": "Ann"})
    assert shown(serializer_of(badge=Badge(source="*", read_only=True)))[0]["badge"] == {"name": "Ann"}


def test_another_column_under_an_excluded_or_sensitive_name_is_not_sent() -> None:
    serializer = serializer_of(ssn=text("name"), password=text("name"))
    for sent in shown(serializer, exclude=["ssn"]):
        assert sent == {"id": 1, "name": "Ann"}


@pytest.mark.cost
def test_classes_that_rest_framework_makes_for_each_serializer_do_not_stay_in_memory() -> None:
    class Deep(serializers.ModelSerializer):
        class Meta:
            model = Patient
            fields = ("id", "profile", "device", "phone")
            depth = 1

    registration, patient = Registration(Patient, Deep), _family()
    before = len(serializers.ModelSerializer.__subclasses__())
    for _ in range(400):
        serialize(registration, patient)
    gc.collect()
    left = len(serializers.ModelSerializer.__subclasses__()) - before
    assert left < 600, "of 1200"
    assert len(registration.rules_by_field) < 50


# Masked and computed columns


def test_a_nested_serializer_may_write_a_list() -> None:
    class Pair(serializers.ModelSerializer):
        social = serializers.CharField(source="ssn")

        class Meta:
            model = Patient
            fields = ("name", "social")

        def to_representation(self, instance: Any) -> Any:
            return [super().to_representation(instance), "x"]

    assert shown(serializer_of(parent=Pair(read_only=True)), exclude=["ssn"])[0]["parent"] == [{"name": "Ann"}, "x"]


class Masked(serializers.CharField):
    def to_representation(self, value: str) -> str:
        return f"**** {value[-1:]}" if value else value


class MaskedOnReading(serializers.CharField):
    def get_attribute(self, instance: Any) -> str:
        return instance.name and f"**** {instance.name[-1:]}"


class LastDigits(serializers.Field):
    def to_representation(self, value: str) -> dict[str, str]:
        return {"last": value[-1:]}


class Choice(serializers.Field):
    """NetBox's."""

    def to_representation(self, value: str) -> Any:
        return {"value": value, "label": value.title()} if value else None


class ByHand:
    def __init__(self, instance: Any = None, context: Any = None) -> None:
        self.instance = instance

    @property
    def data(self) -> dict[str, Any]:
        return mask_name({"id": self.instance.pk, "name": self.instance.name})


class MaskingOutput(serializers.ModelSerializer):
    class Meta:
        model = Thing
        fields = ("id", "name", "status")

    @property
    def data(self) -> Any:
        return mask_name(super().data)


def things(*, represent: Any = None, **fields: Any) -> type[serializers.ModelSerializer]:
    def to_representation(self: Any, instance: Thing) -> Any:
        return represent(serializers.ModelSerializer.to_representation(self, instance))

    names = ("id", "status", *([] if "number" in fields else ["name"]), *fields)
    meta = type("Meta", (), {"model": Thing, "fields": tuple(dict.fromkeys(names))})
    own = {} if represent is None else {"to_representation": to_representation}
    return type("ThingSerializer", (serializers.ModelSerializer,), {**fields, **own, "Meta": meta})


def mask_name(data: dict[str, Any]) -> dict[str, Any]:
    return data | {"name": data["name"] and f"**** {data['name'][-1:]}"}


MASKED: dict[str, Any] = {
    "a method": things(name=method(lambda thing: f"**** {thing.name[-1:]}")),
    "a property": things(name=text("masked")),
    "another source": things(name=text("status")),
    "the last digits": things(name=LastDigits()),
    "a masking field": things(name=Masked()),
    "a field that masks on reading": things(name=MaskedOnReading()),
    "a renamed column": things(number=Masked(source="name")),
    "whether it is empty": things(number=serializers.BooleanField(source="name")),
    "a masking child": things(name=serializers.ListField(child=Masked())),
    "the serializer": things(represent=mask_name),
    "its output": MaskingOutput,
    "by hand": ByHand,
}


@pytest.fixture
def masking(own_registrations: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Thing, "masked", property(lambda one: f"**** {one.name[-1:]}"), raising=False)


@pytest.mark.usefixtures("database", "masking")
@pytest.mark.parametrize("case", MASKED)
@pytest.mark.parametrize(("old", "new"), [("4111", "4222"), ("4111", ""), ("", "4222")])
def test_snapshots_do_not_show_what_the_data_mask(case: str, old: str, new: str) -> None:
    serializer = MASKED[case]
    registry.register(Thing, serializer)
    make_webhook(Thing, prechange=True)
    thing = Thing.objects.create(name=old)
    thing.name = new
    thing.save()
    thing.delete()
    assert actions() == ["created", "updated", "deleted"]
    for event in events():
        assert not any(name in event.data + event.snapshots for name in (old, new) if name)


@pytest.mark.usefixtures("database", "own_registrations")
def test_a_change_in_an_envelope_counts_by_its_name_alone() -> None:
    registry.register(Thing, things(represent=lambda data: {"id": data["id"], "properties": data}))
    chosen = make_webhook(Thing, name="chosen", changed_fields=["name"])
    any_change = make_webhook(Thing, name="any", only_changes=True)
    thing = Thing.objects.create(name="open")
    thing.save()
    thing.name = "closed"
    thing.save()
    thing.status = "retired"
    thing.save()
    _created, *updates = events()
    assert [(json.loads(one.changed), one.webhook_ids) for one in updates] == [
        (["name"], [chosen.pk, any_change.pk]),
        (["status"], [any_change.pk]),
    ]
    assert not any(
        {"name", "status"} & snapshot.keys() for one in updates for snapshot in json.loads(one.snapshots).values()
    )


def mask_numbers(data: dict[str, Any]) -> dict[str, Any]:
    return mask_name(data) if data["name"].isdecimal() else data


class MaskingNumbers(MaskingOutput):
    @property
    def data(self) -> Any:
        return mask_numbers(super(MaskingOutput, self).data)


class MaskedNumber(serializers.CharField):
    def get_attribute(self, instance: Any) -> str:
        return str(mask_numbers({"name": instance.name})["name"])


@pytest.mark.usefixtures("database", "own_registrations")
@pytest.mark.parametrize(
    "serializer",
    [things(represent=mask_numbers), MaskingNumbers, things(name=MaskedNumber())],
    ids=["own", "data", "field"],
)
def test_snapshots_show_an_old_value_only_if_the_data_showed_it(serializer: Any) -> None:
    registry.register(Thing, serializer)
    make_webhook(Thing, prechange=True)
    thing = Thing.objects.create(name="4111")
    for name in ("open", "other"):
        thing.name = name
        thing.save()
    _created, revealed, renamed = (json.loads(one.snapshots) for one in events())
    assert "name" not in {*revealed["prechange"], *revealed["postchange"]}
    assert (renamed["prechange"]["name"], renamed["postchange"]["name"]) == ("open", "other")


@pytest.mark.usefixtures("database", "masking")
@pytest.mark.parametrize("case", [case for case in MASKED if case != "another source"])
@pytest.mark.parametrize("new", ["4222", ""])
def test_a_change_of_a_masked_column_counts_by_its_name_alone(case: str, new: str) -> None:
    registry.register(Thing, MASKED[case])
    [name] = {"number", "name"} & set(snapshots.snapshot_fields(registry.registration_of(Thing)))
    make_webhook(Thing, changed_fields=[name])
    unchanged = make_webhook(Thing, changed_fields=["id"])
    thing = Thing.objects.create(name="4111")
    thing.name = new
    thing.save()
    thing.save()
    updated = events()[1]
    assert updated.action == "updated"
    assert changed() == [name]
    assert unchanged.pk not in updated.webhook_ids
    assert all(name not in side for side in sides())


@pytest.mark.usefixtures("database", "own_registrations")
@pytest.mark.parametrize("left", [["c"], []])
def test_snapshots_do_not_show_the_members_of_a_relation_that_the_serializer_masks(left: list[str]) -> None:
    def mask(data: dict[str, Any]) -> dict[str, Any]:
        return data | {"heroes": ["****" for _ in data["heroes"]]}

    heroes = serializers.SlugRelatedField("name", many=True, read_only=True)
    registry.register(Thing, things(represent=mask, heroes=heroes))
    make_webhook(Thing, changed_fields=["heroes"])
    thing, old, *_ = (Thing.objects.create(name=name) for name in ("a", SECRET, "c"))
    thing.heroes.add(old)
    thing.heroes.set(Thing.objects.filter(name__in=left))
    assert changed() == ["heroes"]
    assert SECRET not in "".join(event.data + event.snapshots for event in events() if event.object_id == str(thing.pk))


@pytest.mark.usefixtures("database", "own_registrations")
def test_an_object_that_is_created_again_shows_nothing_that_its_data_mask() -> None:
    def mask(data: dict[str, Any]) -> dict[str, Any]:
        return mask_name(data) | {"heroes": ["****" for _ in data["heroes"]]}

    heroes = serializers.SlugRelatedField("name", many=True, read_only=True)
    registry.register(Thing, things(represent=mask, heroes=heroes))
    make_webhook(Thing, prechange=True)
    thing = Thing.objects.create(name="4111")
    thing.heroes.add(Thing.objects.create(name=SECRET))
    with transaction.atomic():
        pk = thing.pk
        thing.delete()
        Thing.objects.create(pk=pk, name="4111")
    assert (actions()[-1], changed()) == ("updated", ["heroes"])
    assert [side.keys() for side in sides()] == [{"id", "status"}] * 2


@pytest.mark.usefixtures("database", "own_registrations")
def test_snapshots_have_no_names_of_tags_that_a_method_leaves_out() -> None:
    shows_public = method(lambda site: [tag.name for tag in site.tags.all() if tag.name != SECRET])
    registry.register(Site, serializer_of(Site, id=text(), tags=shows_public))
    make_webhook(Site, prechange=True)
    site = Site.objects.create(name="a", slug="a")
    public, private = (Tag.objects.create(name=name, slug=name) for name in ("public", SECRET))
    site.tags.add(public, private)
    site.tags.remove(private)
    assert changed() == ["tags"]
    assert [side["tags"] for side in sides()] == [[public.pk, private.pk], [public.pk]]
    assert SECRET not in "".join(event.data + event.snapshots for event in events())


@pytest.mark.usefixtures("database", "own_registrations")
def test_a_relation_that_a_property_reads_is_compared_by_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    def names(thing: Thing) -> list[str]:
        return list(thing.heroes.order_by("name").values_list("name", flat=True))

    monkeypatch.setattr(Thing, "names_of_heroes", property(names), raising=False)
    registry.register(Thing, things(heroes=serializers.ListField(source="names_of_heroes", read_only=True)))
    make_webhook(Thing, only_changes=True)
    thing, old, new = (Thing.objects.create(name=name) for name in "abc")
    thing.heroes.add(old)
    thing.heroes.set([new])
    assert changed() == ["heroes"]
    assert json.loads(events()[-1].data)["heroes"] == ["c"]
    assert [side["heroes"] for side in sides()] == [[old.pk], [new.pk]]


@pytest.mark.usefixtures("database", "own_registrations")
def test_a_deleted_object_that_is_created_again_does_not_show_to_one_serializer_what_another_showed() -> None:
    registry.register(Thing, things(), serializers={"masked": things(name=Masked())})
    make_webhook(Thing, prechange=True)
    masked = make_webhook(Thing, prechange=True, serializer="masked")
    thing = Thing.objects.create(name="4111")
    with transaction.atomic():
        pk = thing.pk
        thing.delete()
        Thing.objects.create(pk=pk, name="")
    event = events()[-1]
    assert event.action == "updated"
    assert "4111" in event.snapshots
    assert "4111" not in payloads.as_sent_to(event, masked.pk).snapshots
    assert payloads.as_sent_to(event, masked.pk).changed == '["name"]'


PLAIN: dict[str, Any] = {
    "as they are": things(),
    "a choice": things(name=Choice(), status=Choice()),
    "another name": things(number=text("name")),
    "a serializer that adds keys": things(represent=lambda data: data | {"more": 1}),
    "a choice of a serializer that adds keys": things(represent=lambda data: data | {"more": 1}, name=Choice()),
}


@pytest.mark.usefixtures("database", "own_registrations")
@pytest.mark.parametrize("case", PLAIN)
def test_snapshots_show_what_the_data_show(case: str) -> None:
    registry.register(Thing, PLAIN[case])
    make_webhook(Thing, prechange=True)
    thing = Thing.objects.create(name="4111")
    thing.name = "4222"
    thing.save()
    old, new = sides()
    name = "number" if "number" in new else "name"
    assert (old[name], new[name], new["status"], changed()) == ("4111", "4222", "active", [name])


@pytest.mark.usefixtures("database", "own_registrations")
def test_a_masked_field_has_no_values_in_the_differences_of_a_template() -> None:
    payload = {
        "event": "updated", "changed": ["card", "name"],
        "snapshots": {"prechange": {"name": "a"}, "postchange": {"name": "b"}},
    }  # fmt: skip
    assert snapshots.differences(payload) == {"removed": {"name": "a"}, "added": {"name": "b"}}


class Document(Base):
    """Has columns of kinds that need more than a comparison."""

    extra = models.JSONField(default=dict)
    born = models.DateField()
    at = models.DateTimeField()
    price = models.DecimalField(max_digits=8, decimal_places=2)
    size = models.FloatField()
    sizes = models.JSONField(default=list)
    number = models.IntegerField()
    secret_of = models.ForeignKey(Profile, models.DO_NOTHING, null=True)

    class Meta:
        app_label = "unmade"


class Custom(serializers.Field):
    """Writes what a function returns."""

    def __init__(self, function: Any = lambda value: value, **kwargs: Any) -> None:
        self._function = function
        super().__init__(**{**kwargs, "read_only": True})

    def to_representation(self, value: Any) -> Any:
        return self._function(value)


NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("name", "field", "is_shown"),
    [
        ("extra", serializers.JSONField(), True),
        ("extra", Custom(), True),
        ("extra", Custom(lambda value: value | {"more": 1, "site": {"id": 5}}), True),
        ("extra", Custom(lambda value: {"site": 5}), False),
        ("extra", Custom(lambda value: value | {"card": "****"}), False),
        ("extra", Custom(lambda value: value | {"list": [{"id": 1}, {"id": 2}]}), True),
        ("extra", Custom(len), False),
        ("born", serializers.DateField(), True),
        ("born", serializers.DateField(format="%Y"), False),
        ("born", serializers.DateField(format="iso-8601"), True),
        ("born", Custom(lambda value: value.isoformat()), True),
        ("born", Custom(lambda value: value.year), False),
        ("at", Custom(lambda value: value.isoformat().replace("+00:00", "Z")), True),
        ("price", serializers.DecimalField(8, 2), True),
        ("price", serializers.DecimalField(8, 4), True),
        ("price", serializers.DecimalField(8, 2, localize=True), True),
        ("price", serializers.DecimalField(8, 2, normalize_output=True), True),
        ("price", serializers.DecimalField(8, 1), False),
        ("price", serializers.DecimalField(None, None), True),
        ("size", serializers.DecimalField(8, 1), False),
        ("size", serializers.FloatField(), True),
        ("sizes", serializers.ListField(child=serializers.DecimalField(8, 1)), False),
        ("price", Custom(str), True),
        ("price", Custom(lambda value: "some"), False),
        ("number", serializers.IntegerField(), True),
        ("number", serializers.BooleanField(), False),
        ("number", serializers.CharField(), True),
        ("number", Custom(lambda value: value // 1000 * 1000), False),
    ],
)
def test_a_column_is_in_snapshots_if_its_field_shows_the_stored_value(name: str, field: Any, is_shown: bool) -> None:
    document = Document(
        pk=1, extra={"card": "4111", "site": 5, "list": [1, 2]}, born=NOW.date(), at=NOW, price=Decimal("9.55"),
        size=1.25, sizes=[1.25], number=4111,
    )  # fmt: skip
    registration = Registration(Document, serializer_of(Document, **{name: field}))
    payload = serialize(registration, document)
    assert (name in json.loads(payload.snapshot)) == is_shown
    assert name in json.loads(payload.data)


@pytest.mark.usefixtures("database", "own_registrations")
def test_members_of_a_relation_have_no_renamed_secrets_in_snapshots() -> None:
    class Friend(serializers.ModelSerializer):
        state = serializers.CharField(source="status")

        class Meta:
            model = Thing
            fields = ("name", "state")  # without an id, so a snapshot has all of it

    registry.register(Thing, things(heroes=Friend(many=True)), exclude=["status"])
    make_webhook(Thing, prechange=True)
    thing, old, new = (Thing.objects.create(name=name, status=SECRET) for name in "abc")
    thing.heroes.add(old)
    with transaction.atomic():
        thing.heroes.set([new])
    assert [side["heroes"] for side in sides()] == [[{"name": "b"}], [{"name": "c"}]]
    assert SECRET not in "".join(event.data + event.snapshots for event in events())


@pytest.mark.usefixtures("database", "own_registrations")
def test_a_change_of_any_key_in_a_hidden_column_may_be_a_change_of_the_named_key() -> None:
    registry.register(Specimen, serializer_of(Specimen, id=text(), extra=method(lambda one: len(one.extra))))
    webhook = make_webhook(Specimen, on="u", changed_fields=["extra.zone"])
    specimen = Specimen.objects.create(extra={"zone": SECRET})
    specimen.save()
    assert events() == []
    specimen.extra = {"zone": SECRET, "more": 1}
    specimen.save()
    [event] = events()
    assert event.webhook_ids == [webhook.pk]
    assert changed() == ["extra"]
    assert SECRET not in event.data + event.snapshots


def test_changed_fields_can_be_masked_but_not_hidden_ones(own_registrations: None) -> None:
    registration = Registration(
        Thing, things(name=Masked(), status=method(str), number=text("name")), exclude=frozenset(["name"])
    )
    assert snapshots.snapshot_fields(registration).keys() == {"id", "status"}
    assert snapshots.snapshot_fields(replace(registration, exclude=frozenset())).keys() >= {"name", "number", "status"}


def test_changed_fields_cannot_be_fields_of_requests(own_registrations: None) -> None:
    fields = {"status": serializers.CharField(write_only=True)}
    assert snapshots.snapshot_fields(Registration(Thing, things(**fields))).keys() == {"id", "name"}

    class Writing(things(**fields)):  # type: ignore[misc]
        def to_representation(self, thing: Thing) -> dict[str, Any]:
            return super().to_representation(thing) | {"status": thing.status}

    assert snapshots.snapshot_fields(Registration(Thing, Writing)).keys() == {"id", "name", "status"}


def test_a_masked_natural_key_of_a_related_object_is_not_in_snapshots() -> None:
    class MaskedKey(serializers.RelatedField):
        def to_representation(self, value: Any) -> str:
            return "****"

    class Brief(MaskedKey):
        def to_representation(self, value: Any) -> Any:
            return {"id": value.pk, "display": "****"}

    class Citizen(Base):
        country = models.ForeignKey(Country, models.DO_NOTHING)

        class Meta:
            app_label = "unmade"

    one = Citizen(pk=1, country=Country(code="4111", name="x"))
    fields = {
        MaskedKey(read_only=True): False,
        Brief(read_only=True): True,
        serializers.SlugRelatedField("name", read_only=True): True,
        serializer_of(Country, name=text())(read_only=True): False,
        serializer_of(Country, number=text("code"))(read_only=True): True,
    }
    for field, is_shown in fields.items():
        payload = serialize(Registration(Citizen, serializer_of(Citizen, country=field)), one)
        assert ("4111" in payload.snapshot) == is_shown


@pytest.mark.usefixtures("database", "own_registrations")
@pytest.mark.parametrize(
    ("fields", "values"),
    [({"number": text("code")}, ["4111", "4222"]), ({"name": text()}, [None, None])],
)
def test_a_natural_key_changes_as_the_nested_serializer_shows_it(fields: dict[str, Any], values: list[Any]) -> None:
    country = serializer_of(Country, **fields)(read_only=True)
    registry.register(Specimen, serializer_of(Specimen, id=text(), country=country))
    make_webhook(Specimen, prechange=True)
    old, new = (Country.objects.create(code=code, name="x") for code in ("4111", "4222"))
    specimen = Specimen.objects.create(country=old)
    specimen.country = new
    specimen.save()
    assert changed() == ["country"]
    assert [side.get("country") for side in sides()] == values
    assert ("4111" in "".join(event.data + event.snapshots for event in events())) == bool(values[0])


# Keys that are secrets


def test_a_model_with_a_secret_in_its_key_is_refused(own_registrations: None) -> None:
    class Account(Base):
        login = models.OneToOneField(Login, models.DO_NOTHING, primary_key=True)

        class Meta:
            app_label = "unmade"

    class Grant(Base):
        pk = models.CompositePrimaryKey("number", "api_token")
        number = models.IntegerField()
        api_token = models.CharField(max_length=20)

        class Meta:
            app_label = "unmade"

    class Visit(Base):
        pk = models.CompositePrimaryKey("number", "login")
        number = models.IntegerField()
        login = models.ForeignKey(Login, models.DO_NOTHING)

        class Meta:
            app_label = "unmade"

    webhooks.register_event("testapp.used")
    samples = (Account(login_id=SECRET), Grant(number=1, api_token=SECRET), Visit(number=1, login_id=SECRET))
    for sample, key in zip(samples, ("login", "api_token", "login"), strict=True):
        model = type(sample)
        refusal = rf"a secret as its primary key, '{key}'\..*include_sensitive=\['{key}'\]"
        with pytest.raises(ImproperlyConfigured, match=refusal):
            webhooks.register(model, serializer=ByHand)
        with pytest.raises(ValueError, match="its primary key is a secret"):
            webhooks.send("testapp.used", sample)
        assert not Registration(model, include_sensitive=frozenset([key])).problem


def test_a_child_of_a_token_has_its_secrets() -> None:
    registration = Registration(Phone)
    assert registration.name_of(Phone(pk=3, key=SECRET)) == "phone 3"
    assert registration.is_left_out("key")


@pytest.mark.parametrize("name", ["login", "login_id"])
def test_a_serializer_that_writes_freely_does_not_show_the_key_of_an_object_with_a_secret_key(name: str) -> None:
    class Free(ByHand):
        @property
        def data(self) -> dict[str, Any]:
            return {"id": 1, name: self.instance.login_id}

    assert shown(Free) == ({"id": 1}, {"id": 1})


def test_a_relation_to_objects_with_secret_keys_is_not_sent() -> None:
    registration = Registration(Hall)
    assert registration.is_left_out("logins")
    assert not registration.is_left_out("profiles")
    assert snapshots.snapshot_fields(Registration(Hall, ByHand)).keys() == {"id", "profiles"}
