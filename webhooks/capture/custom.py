"""``webhooks.send()``: Events that are no change of a model, under registered names."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.db import models, router

from webhooks import payloads, registry
from webhooks.capture import recording
from webhooks.conf import conf
from webhooks.models import Event
from webhooks.payloads import Unsendable
from webhooks.registry.registration import NAME_LENGTH, Registration
from webhooks.text import NotJSONSerializable, clean, dumps


def send(name: str, obj: models.Model | None = None, data: Any = None) -> None:
    """Send an event, such as "dcim.rack_audited", to the webhooks that want it.

    ``name`` was given to ``webhooks.register_event()``. ``obj`` is the object that it is about: the event goes in the
    lane of its changes. ``data`` is sent as it is, and must be what REST framework can write as JSON. It is recorded
    in the transaction that is open, and never merged with another.

    Raises ValueError for a name that is not registered, for an object that has no key, a wrong one or a secret one,
    and for data that cannot be written, and TypeError for an ``obj`` that is no instance of a model. Nothing else:
    trouble with the database or with Redis is logged, as for a save.
    """
    if name not in registry.custom_events():
        raise ValueError(registry.custom_events_problem([name]))
    object_type, key, called = _about(name, obj)
    using = recording.database()
    told = _written(name, data)
    event = Event(action=name, object_type=object_type, object_id=key, object_repr=called, data=told)
    try:
        payloads.refuse_too_large(f"the data of the event {name}", len(told))
    except Unsendable as error:
        event.data, event.error = "", f"{error}."
    if conf.enabled:
        recording.announce(event, using, _row(obj, using))


def _about(name: str, obj: models.Model | None) -> tuple[str, str, str]:
    if obj is None:
        return "", name, clean(registry.custom_events()[name], NAME_LENGTH)
    if not isinstance(obj, models.Model):
        raise TypeError(f"The event {name} must be about an object of a model or None, not {obj!r}.")
    if obj.pk is None:
        raise ValueError(f"The event {name} cannot be about {obj!r}, which is not saved, or deleted already.")
    registration = registry.registration_or_default(type(obj))
    if registration.has_secret_key:
        raise ValueError(
            f"The event {name} cannot be about an object of {registration.label}, whose primary key is a secret: "
            "give none."
        )
    try:
        return registration.label, str(registration.normalize_pk(obj.pk)), registration.name_of(obj)
    except ValidationError as error:
        raise ValueError(f"The event {name} cannot be about {obj!r}: its key is none. {error}") from error


def _row(obj: models.Model | None, using: str) -> Registration | None:
    """The model whose row this object is, if it is in this database."""
    if obj is None or router.db_for_write(type(obj), instance=obj) != using:
        return None
    return registry.registration_or_default(type(obj))


def _written(name: str, data: Any) -> str:
    try:
        return dumps(data)
    except NotJSONSerializable as error:
        raise ValueError(f"The data of the event {name} cannot be written as JSON: {error}") from error
