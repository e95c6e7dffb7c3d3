"""A serializer for each model, with its columns and the relations that it holds."""

from __future__ import annotations

from django.db import models
from rest_framework import serializers

from tests.hosts.models import KINDS


def _serializer(model: type[models.Model]) -> type[serializers.ModelSerializer]:
    left_out = {"content_type", "friends", "vehicle_ptr"}
    fields = [one.name for one in (*model._meta.concrete_fields, *model._meta.many_to_many)]
    meta = type("Meta", (), {"model": model, "fields": [name for name in fields if name not in left_out]})
    return type(f"{model.__name__}Serializer", (serializers.ModelSerializer,), {"Meta": meta})


SERIALIZERS = {kind: _serializer(model) for kind, model in KINDS.items() if not model._meta.proxy}
