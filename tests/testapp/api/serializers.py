"""Found by the convention; Unregistered has none."""

from typing import Any, ClassVar

from django.db import connection
from rest_framework import serializers

from tests.testapp import models


class LabelSerializer(serializers.ModelSerializer):
    class Meta:
        model = models.Label
        fields = ("id", "name")


class ThingSerializer(serializers.ModelSerializer):
    labels = serializers.SlugRelatedField("name", many=True, read_only=True)

    class Meta:
        model = models.Thing
        fields = ("id", "name", "status", "labels", "friends", "heroes", "groups")


class PeerSerializer(serializers.ModelSerializer):
    class Meta:
        model = models.Peer
        fields = ("id", "peers")


class PartSerializer(serializers.ModelSerializer):
    class Meta:
        model = models.Part
        fields = ("id", "name", "thing", "spare_of")


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


class CountrySerializer(serializers.ModelSerializer):
    class Meta:
        model = models.Country
        fields = ("code", "name")


class EditionSerializer(serializers.ModelSerializer):
    class Meta:
        model = models.Edition
        fields = ("number", "name")


class TideSerializer(serializers.ModelSerializer):
    class Meta:
        model = models.Tide
        fields = ("at", "name")


class ShoutSerializer(serializers.ModelSerializer):
    class Meta:
        model = models.Shout
        fields = ("word", "name")


class SecretiveSerializer(serializers.ModelSerializer):
    class Meta:
        model = models.Secretive
        fields = ("id", "name", "hidden")


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


class TrackedSerializer(serializers.ModelSerializer):
    class Meta:
        model = models.Tracked
        fields = ("id", "name", "status")


class TrackedPartSerializer(serializers.ModelSerializer):
    class Meta:
        model = models.TrackedPart
        fields = ("id", "name", "whole")


class PairedSerializer(serializers.ModelSerializer):
    class Meta:
        model = models.Paired
        fields = ("id", "left", "right", "note")


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


class MemberSerializer(serializers.ModelSerializer):
    class Meta:
        model = models.Member
        fields = ("email", "password", "last_login")


class BoxSerializer(serializers.ModelSerializer):
    tags = serializers.SlugRelatedField("name", many=True, read_only=True)

    class Meta:
        model = models.Box
        fields = ("id", "name", "tags")


class TeamSerializer(serializers.ModelSerializer):
    class Meta:
        model = models.Team
        fields = ("id", "name", "members", "leaders")


class CourseSerializer(serializers.ModelSerializer):
    class Meta:
        model = models.Course
        fields = ("id", "code", "students")


class CountedSerializer(serializers.ModelSerializer):
    label_count = serializers.IntegerField(read_only=True)

    class Meta:
        model = models.Counted
        fields = ("id", "name", "labels", "label_count")
