"""What a framework on top of Django knows of its models, such as NetBox. A module of ``contrib`` sets it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from django.db import models

Model = type[models.Model]


class Framework:
    """Plain Django. A framework overrides what it does in another way."""

    worker_class = "webhooks.workers.WebhookWorker"
    """The path of the shipped worker class, for messages."""

    def queues_of_worker(self, queue: str) -> Sequence[str]:
        """The queues of a worker that serves ``queue`` and does what else the framework needs."""
        return [queue]

    def serializer(self, model: Model) -> type[Any] | None:
        """The serializer of a model that none of the conventional paths may have. None if the framework has none."""
        return None

    def queryset(self, model: Model) -> models.QuerySet[Any]:
        """The queryset to read objects from, with the annotations that the serializer of the framework needs."""
        return model._base_manager.all()

    def snapshot_columns(self, model: Model) -> Collection[str]:
        """Columns that snapshots show although the serializer does not. Sensitive ones are left out all the same."""
        return ()

    def related_snapshot(self, model: Model) -> Callable[[Any], Mapping[str, Any]] | None:
        """A function that reads more of an object for its snapshots, from other tables. None if there is nothing."""
        return None

    def json_shown(self, model: Model) -> Mapping[str, Iterable[Any]]:
        """The JSON that the serializer shows of other tables, or of rows that have it, by the names of its fields."""
        return {}

    def creates(self, model: Model) -> bool:
        """Whether an app creates this model at run time, and the framework finds its serializer. The class is not ready
        yet: its relations may not be resolved."""
        return False

    def request(self) -> Any | None:
        """The request that the framework now acts for, if the app was not given it in another way."""
        return None

    def restriction(self) -> Callable[[Any, Any, str], Any] | None:
        """The ``restrict(queryset, user, action)`` of all its querysets. None to look for one in the models."""
        return None

    def records_raw_saves(self) -> bool:
        """Whether a raw save is a change to record. Django saves the objects of a fixture so."""
        return False


_framework = Framework()


def framework() -> Framework:
    """The framework of the project."""
    return _framework


def set_framework(chosen: Framework) -> None:
    """Set the framework of the project, before any model is registered."""
    global _framework
    _framework = chosen
