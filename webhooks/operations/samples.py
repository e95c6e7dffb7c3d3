"""What users may try a webhook on: the objects of registered models, and custom events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext as _

from webhooks import permissions, registry, text
from webhooks.conf import conf
from webhooks.db import index_plans
from webhooks.insight.paging import read_page
from webhooks.models import Action, Event, Webhook
from webhooks.operations.trial import NoSample, Sample
from webhooks.registry.registration import Registration

OFFERED = 10  # objects

# Begins a choice that is the name of a custom event. The others are labels of models.
EVENT = "event:"

Search = Callable[[Any, QuerySet[Any], str], QuerySet[Any]]
"""Takes a model, rows of it and a term, and returns the rows that it finds."""


@dataclass(frozen=True)
class Choice:
    """What a user has chosen so far. Without a model or a custom event, it is a test message."""

    user: Any
    search: Search
    """Finds objects by other terms than their keys."""
    of: str = ""
    """The label of a model, or ``EVENT`` and the name of a custom event."""
    key: str = ""
    term: str = ""
    """Finds the object, if there is no key."""
    action: str = ""
    entered: str = ""
    """The data of a custom event, as JSON text."""

    @cached_property
    def custom_event(self) -> str:
        """The name of the custom event, or ""."""
        name = self.of.removeprefix(EVENT)
        return name if name != self.of and name in registry.custom_events() else ""

    @cached_property
    def registration(self) -> Registration | None:
        """The model, if the user may view it."""
        found = registry.registration_by_label(self.of)
        return found if found and permissions.may_view_model(self.user, found.model) else None

    @cached_property
    def newest(self) -> Event | None:
        """The newest custom event of this name, if the list of events finds it at once and the user may view its
        payload."""
        named = permissions.visible_events(self.user, Event.objects.filter(action=self.custom_event, error=""))
        with index_plans(Event.objects.db):
            found = read_page(Event.objects.order_by("-pk"), named, "", 1, counts=False)
        newest = Event.objects.filter(pk__in=found.keys).first()
        return newest if newest and permissions.may_view_payloads(self.user, newest) else None

    @property
    def example(self) -> str:
        """The data of a custom event to begin with: of the newest one, if there is one."""
        return self.newest.data if self.newest else '{"id": 1}'

    @cached_property
    def objects(self) -> list[tuple[str, str]]:
        """The keys and names of objects to choose from: the newest, or the results of the search."""
        if (registration := self.registration) is None:
            return []
        rows = permissions.viewable_objects(self.user, registration.model)
        if term := text.clean(self.term.strip()):
            if keyed := registration.find(rows, term):
                return [(registration.key_of(keyed), registration.name_of(keyed))]
            rows = self.search(registration.model, rows, term)
        return [(registration.key_of(row), registration.name_of(row)) for row in rows.order_by("-pk")[:OFFERED]]

    def sample(self) -> Sample:
        """The chosen object, or the first one that the search found. Raises NoSample."""
        if not self.of:
            return Sample()
        if self.custom_event:
            return Sample(action=self.custom_event, data=self.entered or self.example, like=self.newest)
        if self.registration is None:
            raise NoSample(_("You may not view objects of this model."))
        key = self.key
        if self.term.strip():
            found = [one for one, _name in self.objects]
            key = key if key in found else next(iter(found), "")
        if not key or text.clean(key) != key:
            raise NoSample(_("Choose an object, or search for one."))
        return Sample(self.registration, key, self.action if self.action in Action.values else Action.UPDATED)


def why_not_sent(user: Any, webhook: Webhook, is_changed: bool) -> str:
    """Why the user may look at the request of a trial and not send it; empty if they may. ``is_changed`` says that the
    webhook has settings that are not saved."""
    if not conf.enabled:
        return _("Webhooks are turned off in the settings, so nothing is sent.")
    if permissions.is_restricted(user) and (webhook._state.adding or is_changed):
        return _("To send it, save the webhook first: you may have permission for some webhooks only.")
    return ""
