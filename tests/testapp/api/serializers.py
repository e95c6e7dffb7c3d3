"""Found by the convention; Unregistered has none."""

from typing import Any, ClassVar

from django.db import connection
from django.db.models import Model
from rest_framework import serializers

from tests.testapp import models


def plain(model: type[Model], *fields: str) -> type[serializers.ModelSerializer]:
    """A serializer of these fields and nothing else."""
    meta = type("Meta", (), {"model": model, "fields": fields})
    return type(f"{model.__name__}Serializer", (serializers.ModelSerializer,), {"Meta": meta})


LabelSerializer = plain(models.Label, "id", "name")
PeerSerializer = plain(models.Peer, "id", "peers")
PartSerializer = plain(models.Part, "id", "name", "thing", "spare_of")
CountrySerializer = plain(models.Country, "code", "name")
EditionSerializer = plain(models.Edition, "number", "name")
TideSerializer = plain(models.Tide, "at", "name")
ShoutSerializer = plain(models.Shout, "word", "name")
SecretiveSerializer = plain(models.Secretive, "id", "name", "hidden")
ShelvedSerializer = plain(models.Shelved, "id", "name", "hidden", "labels")
ReviewSerializer = plain(models.Review, "id", "thing", "name")
TrackedSerializer = plain(models.Tracked, "id", "name", "status")
TrackedPartSerializer = plain(models.TrackedPart, "id", "name", "whole")
PairedSerializer = plain(models.Paired, "id", "left", "right", "note")
CounterSerializer = plain(models.Counter, "code", "number", "group", "name")
SeatSerializer = plain(models.Seat, "thing", "number", "name")
SoundingSerializer = plain(models.Sounding, "gadget", "at", "depth", "place", "name")
AlbumSerializer = plain(models.Album, "id", "name", "labels")
AlbumLabelSerializer = plain(models.AlbumLabel, "album", "label")
MemberSerializer = plain(models.Member, "email", "password", "last_login")
TeamSerializer = plain(models.Team, "id", "name", "members", "leaders")
CourseSerializer = plain(models.Course, "id", "code", "students")


class ThingSerializer(serializers.ModelSerializer):
    labels = serializers.SlugRelatedField("name", many=True, read_only=True)

    class Meta:
        model = models.Thing
        fields = ("id", "name", "status", "labels", "friends", "heroes", "groups")


class PlaceSerializer(serializers.ModelSerializer):
    labels = serializers.SlugRelatedField("name", many=True, read_only=True)

    class Meta:
        model = models.Place
        fields = ("id", "name", "labels")


class RestaurantSerializer(PlaceSerializer):
    class Meta:
        model = models.Restaurant
        fields = ("id", "name", "labels", "cuisine")


class DinerSerializer(PlaceSerializer):
    class Meta:
        model = models.Diner
        fields = ("id", "name", "labels", "cuisine", "is_open")


class AnnexSerializer(PlaceSerializer):
    class Meta:
        model = models.Annex
        fields = ("main", "name", "labels", "floor")


class CraftSerializer(serializers.ModelSerializer):
    labels = serializers.SlugRelatedField("name", many=True, read_only=True)

    class Meta:
        model = models.Craft
        fields = ("id", "name", "labels", "consorts")


class ShipSerializer(CraftSerializer):
    class Meta:
        model = models.Ship
        fields = ("code", "name", "labels", "consorts", "ports")


class GadgetSerializer(serializers.ModelSerializer):
    labels = serializers.SlugRelatedField("name", many=True, read_only=True)

    class Meta:
        model = models.Gadget
        fields = ("id", "name", "labels")


class FragileSerializer(serializers.ModelSerializer):
    more: ClassVar[dict[str, Any]] = {}

    class Meta:
        model = models.Fragile
        fields = ("id", "name", "behaviour")

    def to_representation(self, instance: models.Fragile) -> dict[str, Any]:
        data = super().to_representation(instance)
        if instance.behaviour == "raises":
            raise RuntimeError("this serializer is broken")
        if instance.behaviour == "bad sql":
            with connection.cursor() as cursor:
                cursor.execute("SELECT nothing FROM nowhere")
        if instance.behaviour == "nan":
            data["value"] = float("nan")
        if instance.behaviour == "not json":
            data["value"] = object()
        return data | self.more


class NoteSerializer(serializers.ModelSerializer):
    about = serializers.StringRelatedField()

    class Meta:
        model = models.Note
        fields = ("id", "text", "about")


class SpecimenSerializer(serializers.ModelSerializer):
    notes = serializers.SlugRelatedField("text", many=True, read_only=True)
    labels = serializers.SlugRelatedField("name", many=True, read_only=True)

    class Meta:
        model = models.Specimen
        fields = "__all__"


class BoxSerializer(serializers.ModelSerializer):
    tags = serializers.SlugRelatedField("name", many=True, read_only=True)

    class Meta:
        model = models.Box
        fields = ("id", "name", "tags")


class CountedSerializer(serializers.ModelSerializer):
    label_count = serializers.IntegerField(read_only=True)

    class Meta:
        model = models.Counted
        fields = ("id", "name", "labels", "label_count")
