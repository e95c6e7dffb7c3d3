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

    ``name`` was given to ``webhooks.register_event()``. ``obj`` is the object of the event, which then goes into the
    lane of its changes. ``data`` is sent as it is. REST framework must be able to write it as JSON. The event is
    recorded in the open transaction, and never merged with another.

    Raises ValueError for a name that is not registered, for an object without a key or with a wrong or secret one, and
    for data that is not JSON. Raises TypeError for an ``obj`` that is no instance of a model. Errors of the database
    or of Redis are logged, as for a save.
    """
    if name not in registry.custom_events():
        raise ValueError(registry.custom_events_problem([name]))
    try:
        text = dumps(data)
    except NotJSONSerializable as error:
        raise ValueError(f"The data of the event {name} cannot be written as JSON: {error}") from error
    registration, key, title = None, name, clean(registry.custom_events()[name], NAME_LENGTH)
    if obj is not None:
        registration, key, title = _identify(name, obj)
    label = registration.label if registration else ""
    event = Event(action=name, object_type=label, object_id=key, object_repr=title, data=text)
    try:
        payloads.refuse_too_large(f"the data of the event {name}", len(text))
    except Unsendable as error:
        event.data, event.error = "", f"{error}."
    if conf.enabled:
        using = recording.database()
        is_here = obj is not None and router.db_for_write(type(obj), instance=obj) == using
        recording.record_custom(event, using, registration if is_here else None)


def _identify(name: str, obj: models.Model) -> tuple[Registration, str, str]:
    """The registration of an object, its key as text, and its name."""
    if not isinstance(obj, models.Model):
        raise TypeError(f"The event {name} must be about an object of a model or None, not {obj!r}.")
    if obj.pk is None:
        raise ValueError(f"The event {name} cannot be about {obj!r}, which is not saved, or deleted already.")
    registration = registry.registration_or_default(type(obj))
    if registration.has_secret_key:
        raise ValueError(
            f"The event {name} cannot be about an object of {registration.label}: its primary key is a "
            "secret. Give none."
        )
    try:
        return registration, str(registration.normalize_pk(obj.pk)), registration.name_of(obj)
    except ValidationError as error:
        raise ValueError(f"The event {name} cannot be about {obj!r}: its key is invalid. {error}") from error
