"""Finding events by what an admin types, through indexes or within bounds, however long the table is."""

from __future__ import annotations

import uuid

from django.db.models import Q, QuerySet

from webhooks import registry
from webhooks.models import Event

# Names have no index: they are looked for among this many of the newest events.
NEWEST = 100_000

# So many events are found at the most.
MOST = 1000

HELP = (
    "An object's id or “dcim.site:12”, a delivery's or a request's id, or part of an object's name "
    f"(among the newest {NEWEST:,} events)."
)


def as_uuid(term: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(term)
    except ValueError:
        return None


def as_key(term: str) -> int:
    """The key of a row, as it is in a request; 0, which none has, for what can be none."""
    return int(term) if term.isdecimal() and len(term) < 19 else 0


def event_ids(term: str, events: QuerySet[Event]) -> list[int]:
    """The newest of these events that a search means, by id."""
    found: list[int] = []
    for query in _meanings(term.strip()):
        found += events.filter(query).order_by("-pk").values_list("pk", flat=True)[:MOST]
    return found


def _meanings(term: str) -> list[Q]:
    label, colon, key = term.partition(":")
    if colon and registry.registration_by_label(label):
        return [Q(object_type=label.lower(), object_id=key.strip())]
    labels = [registration.label for registration in registry.registrations()]
    # The labels lead to the index on object_type and object_id.
    by_key, by_request = Q(object_type__in=labels, object_id=term), Q(request_id=term)
    return [by_key, by_request] if as_uuid(term) else [by_key, by_request, _named(term)]


def _named(term: str) -> Q:
    newest = Event.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
    return Q(pk__gt=newest - NEWEST, object_repr__icontains=term)
