"""What receivers of NetBox know from its own webhooks: counts, columns of snapshots, and the context of plugins."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any

from core.events import OBJECT_CREATED, OBJECT_DELETED, OBJECT_UPDATED
from core.management.commands.rqworker import DEFAULT_QUEUES
from django.apps import apps
from django.core.exceptions import FieldDoesNotExist
from django.db import models
from django.db.models.signals import pre_delete, pre_save
from extras.models import ConfigContext, ConfigContextModel, CustomField
from netbox.context import current_request
from netbox.models.features import CustomFieldsMixin
from netbox.registry import registry
from rest_framework.serializers import Serializer
from utilities.api import get_annotations_for_serializer, get_prefetches_for_serializer
from utilities.querysets import RestrictedQuerySet
from utilities.request import copy_safe_request

from core.models import ObjectType
from dcim.models import Cable, CableTermination
from webhooks.capture.prechange import read_prechange
from webhooks.contrib.netbox.actors import other_request
from webhooks.contrib.netbox.worker import WORKER
from webhooks.ground.db.django_internals import MergedSavepoint
from webhooks.ground.errors import get_logger, log_errors
from webhooks.ground.registry import registration_of
from webhooks.ground.registry.framework import Framework
from webhooks.ground.registry.registration import conventional_serializer
from webhooks.hooks import CapturedChange, Hooks
from webhooks.models import Action, Event

logger = get_logger(__name__)

Model = type[models.Model]

EVENT_TYPES: dict[str, str] = {
    Action.CREATED: OBJECT_CREATED,
    Action.UPDATED: OBJECT_UPDATED,
    Action.DELETED: OBJECT_DELETED,
}


class NetBoxContext(Hooks):
    """The key ``context`` of the payload, from the functions that plugins gave to NetBox's
    ``register_webhook_callback``."""

    def payload_context(self, change: CapturedChange) -> Mapping[str, Any] | None:
        callbacks = registry["webhook_callbacks"]
        if not callbacks or not change.object_type:
            return None
        object_type = ObjectType.objects.get_for_model(apps.get_model(change.object_type))
        request = current_request.get()
        if request is not None and hasattr(request, "META"):
            request = copy_safe_request(request, include_files=False)
        event_type, using, snapshot = EVENT_TYPES.get(change.action, change.action), Event.objects.db, dict[str, Any]()
        for callback in callbacks:
            message = "The webhook callback %s failed, so its context is left out"
            with log_errors(using, message, callback.__qualname__), MergedSavepoint(using):
                snapshot |= callback(object_type, event_type, change.data, request) or {}
        return snapshot


class NetBox(Framework):
    """Reads NetBox's models as its REST API does."""

    worker_class = WORKER

    def queues_of_worker(self, queue: str) -> Sequence[str]:
        """Those of NetBox's usual worker."""
        return [*dict.fromkeys((*DEFAULT_QUEUES, queue))]

    def serializer(self, model: Model) -> type[Any] | None:
        """The serializer that the plugin of the model makes at run time, if it does."""
        resolve = registry["serializer_resolvers"].get(model._meta.app_label)
        resolved = resolve(model, prefix="") if resolve else None
        return resolved if isinstance(resolved, type) and issubclass(resolved, Serializer) else None

    def queryset(self, model: Model) -> models.QuerySet[Any]:
        """The rows with the counts that the serializer shows, and the objects that their foreign keys refer to."""
        return _queryset(model).all()

    def snapshot_columns(self, model: Model) -> Collection[str]:
        return _snapshot_columns(model)

    def related_snapshot(self, model: Model) -> Callable[[Any], Mapping[str, Any]] | None:
        return terminations if model is Cable else None

    def json_shown(self, model: Model) -> Mapping[str, Iterable[Any]]:
        """The custom fields of the model, and all config contexts if its objects have one."""
        fetched: dict[str, Iterable[Any]] = {}
        if issubclass(model, CustomFieldsMixin):
            fetched["custom_fields"] = [{field.name: None for field in CustomField.objects.get_for_model(model)}]
        if issubclass(model, ConfigContextModel):
            local = model._base_manager.filter(local_context_data__isnull=False)
            fetched["config_context"] = chain(
                ConfigContext.objects.values_list("data", flat=True),
                local.values_list("local_context_data", flat=True).iterator(),
            )
        return fetched

    def creates(self, model: Model) -> bool:
        plugin = apps.app_configs.get(model._meta.app_label)
        return bool(getattr(plugin, "serializer_resolver", None)) and hasattr(model, "serialize_object")

    def request(self) -> Any | None:
        return other_request()

    def restriction(self) -> Callable[[Any, Any, str], Any]:
        return RestrictedQuerySet.restrict

    def records_raw_saves(self) -> bool:
        """A merge of netbox-branching saves what it creates as a fixture, within a request. A fixture has none."""
        return current_request.get() is not None


@cache
def _queryset(model: Model) -> models.QuerySet[Any]:
    rows = model._base_manager.all()
    serializer: Any = conventional_serializer(model)
    if not isinstance(getattr(getattr(serializer, "Meta", None), "fields", None), list | tuple):
        return rows
    if paths := [path for path in get_prefetches_for_serializer(serializer) if _is_single(model, path)]:
        rows = rows.select_related(*paths)
    return rows.annotate(**get_annotations_for_serializer(serializer))


def _is_single(model: Any, path: str) -> bool:
    """Whether a path leads from foreign key to foreign key, and so to one object."""
    for name in path.split("__"):
        try:
            field = model._meta.get_field(name)
        except FieldDoesNotExist:
            return False
        if not isinstance(field, models.ForeignKey):
            return False
        model = field.related_model
    return True


@cache
def _snapshot_columns(model: Model) -> Collection[str]:
    """The columns of NetBox's own snapshots, without private ones."""
    if not hasattr(model, "serialize_object"):
        return ()
    columns = [column for column in model._meta.concrete_fields if column.serialize and not column.primary_key]
    return [
        column.name
        for column in columns
        if not (column.name.startswith("_") or column.name == "custom_field_data" or getattr(column, "auto_now", False))
    ]


# Cables


def connect() -> None:
    """Read a cable before its terminations change: NetBox saves these first."""
    for signal in (pre_save, pre_delete):
        signal.connect(on_termination_changing, CableTermination, dispatch_uid="webhooks.on_termination_changing")


def on_termination_changing(sender: Model, instance: Any, using: str, **kwargs: Any) -> None:
    registration = registration_of(Cable)
    if registration is not None and using == Event.objects.db and instance.cable_id:
        read_prechange({registration: [instance.cable_id]}, using)


def terminations(cable: Any) -> dict[str, list[int]]:
    """The ends of a cable, as NetBox's snapshots show them."""
    terminations: dict[str, list[int]] = {"a_terminations": [], "b_terminations": []}
    ends = CableTermination.objects.using(cable._state.db).filter(cable=cable.pk).order_by("pk")
    for end, pk in ends.values_list("cable_end", "pk"):
        terminations[f"{end.lower()}_terminations"].append(pk)
    return terminations
