"""Stop a serializer between two items of a list: if they cannot fit into the payload, or if its time is over.

REST framework asks the serializer or field of a list for one item after the other. Here, each asks first whether to go
on. Nothing asks in between: a method of the project's own runs to its end.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

from rest_framework.fields import ListField
from rest_framework.relations import ManyRelatedField
from rest_framework.serializers import BaseSerializer, ListSerializer

from webhooks.ground.conf import conf
from webhooks.ground.errors import get_logger
from webhooks.ground.payloads import Unsendable, too_large
from webhooks.ground.payloads.snapshots import is_stock
from webhooks.ground.registry.registration import Registration
from webhooks.ground.registry.sources import is_hidden, serializer_fields
from webhooks.ground.text.json_text import LEAST_OF_ITEM, Room, TooLong

logger = get_logger(__name__)

# A serializer that takes longer than so many seconds is logged, once in each process.
SLOW_SECONDS = 1.0

LISTS = ListSerializer, ListField, ManyRelatedField

_logged: set[str] = set()


def log_if_slow(what: str, began: float) -> None:
    """Log code of the project that takes long, in a transaction that waits for it."""
    took = monotonic() - began
    if took > SLOW_SECONDS and what not in _logged:
        _logged.add(what)
        logger.warning("The %s took %.1f s, and the save waited for it. This process logs it once", what, took)


class Watch:
    """Watches one serializer while it writes the payload of one object."""

    def __init__(self, registration: Registration, name: str, what: str) -> None:
        self._registration, self._name, self._what = registration, name, what
        self._began = monotonic()
        self._seconds = conf.serialize_timeout
        self._room: Room | None = Room(conf.payload_bytes)

    def follow(self, serializer: Any) -> None:
        """Watch the lists of the serializer, and of nested serializers when they begin to write."""
        self._follow(serializer, counts=is_stock(serializer.__class__, "data", "to_representation"))

    def data_are_written(self) -> None:
        """The items that are written from now on are not in the data."""
        self._room = None

    def log_if_slow(self) -> None:
        """Log a serializer that takes long: each save waits for it."""
        log_if_slow(f"serializer {self._name or '(default)'} of {self._registration.label}", self._began)

    def _follow(self, serializer: Any, counts: bool) -> None:
        for name, field in serializer_fields(serializer).items():
            child = getattr(field, "child", None) or getattr(field, "child_relation", None)
            if child is not None:
                self._guard(child, counts and self._is_written(name, field))
            elif isinstance(field, BaseSerializer):
                self._guard(field, counts=False)

    def _is_written(self, name: str, field: Any) -> bool:
        """Whether each item of a list is certain to be in the data. The project may cut its own lists."""
        kind: Any = field.__class__
        is_list = issubclass(kind, LISTS) and is_stock(kind, "to_representation")
        is_dropped = self._registration.is_left_out(name) or self._registration.is_sensitive(name)
        return is_list and not is_dropped and not is_hidden(self._registration, field)

    def _guard(self, field: Any, counts: bool) -> None:
        write, is_new = field.to_representation, isinstance(field, BaseSerializer)

        def to_representation(value: Any) -> Any:
            nonlocal is_new
            self._go_on(counts)
            if is_new:
                is_new = False
                self._follow(field, counts=False)
            return write(value)

        field.to_representation = to_representation

    def _go_on(self, counts: bool) -> None:
        """Raise Unsendable if the serializer must stop."""
        if monotonic() - self._began > self._seconds:
            text = f"{self._what} was not written to its end: after {self._seconds:g} s, SERIALIZE_TIMEOUT stopped it"
            raise Unsendable(text)
        if counts and self._room:
            try:
                self._room.take(LEAST_OF_ITEM)
            except TooLong as error:
                raise too_large(self._what) from error
