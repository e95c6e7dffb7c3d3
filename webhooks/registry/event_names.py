"""Names of custom events: what is no change of a model, under names that admins can pick."""

from __future__ import annotations

import re
from typing import Any

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured

# The app that an event belongs to, and what it is called there.
EVENT_NAME = re.compile(r"([a-z_][a-z0-9_]*)\.[A-Za-z0-9_][A-Za-z0-9_.-]*")
EVENT_NAME_LENGTH = 100

# Labels of the custom events by their names.
_events: dict[str, str] = {}


def register_event(name: str, label: str = "") -> None:
    """Let webhooks be sent for an event that is no change of a model: ``webhooks.send(name, …)``.

    ``name`` is that of an app and one of your own, "dcim.rack_audited", of 100 characters at the most; ``label`` is
    what admins pick, "Rack audited". Raises ImproperlyConfigured for a name that cannot be used.
    """
    found = EVENT_NAME.fullmatch(str(name)) if len(str(name)) <= EVENT_NAME_LENGTH else None
    if not found or (apps.ready and found[1] not in apps.app_configs):
        raise ImproperlyConfigured(
            f"An event cannot be called {name!r}: it needs the label of an installed app, a dot and a name, such as "
            f'"dcim.rack_audited", and {EVENT_NAME_LENGTH} characters at the most.'
        )
    _events[name] = label or name


def unregister_event(name: str) -> None:
    """Forget a custom event; nothing happens for one that is not registered."""
    _events.pop(name, None)


def custom_events() -> dict[str, str]:
    """The labels of the custom events, by their names, in the order of these."""
    return dict(sorted(_events.items()))


def unknown_events(names: Any) -> str:
    """What is wrong with the names of custom events that a webhook wants, in words; nothing where all is right."""
    if not isinstance(names, list):
        return 'Give a list of names, such as ["dcim.rack_audited"].'
    known = list(custom_events())  # a list: what came from JSON may be what no dictionary can be asked for
    if unknown := [str(name) for name in names if name not in known]:
        return f"No event is registered as {', '.join(unknown)}. These are: {', '.join(known) or 'none'}."
    return "Name each event once." if len(set(names)) < len(names) else ""
