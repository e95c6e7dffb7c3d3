"""What an Event tells, as each of the serializers that webhooks had chosen wrote it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol, cast


class Told(Protocol):
    """What of an Event the body of a request tells."""

    @property
    def pk(self) -> int: ...
    @property
    def timestamp(self) -> datetime: ...
    @property
    def action(self) -> str: ...
    @property
    def object_type(self) -> str: ...
    @property
    def username(self) -> str: ...
    @property
    def request_id(self) -> str: ...
    @property
    def request(self) -> str: ...
    @property
    def depth(self) -> int: ...
    @property
    def replay_of(self) -> int | None: ...
    @property
    def data(self) -> str: ...
    @property
    def snapshots(self) -> str: ...
    @property
    def changed(self) -> str: ...
    @property
    def variants(self) -> str: ...


# What an Event has of each serializer.
TEXTS = ("data", "snapshots", "changed")


def texts_for(chosen: Mapping[str, list[int]], shown: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The columns of an Event that has what each serializer shows, for the webhooks that chose it: the Event's own are
    those of the first, and ``variants`` has the others."""
    main = next(iter(chosen))
    variants = {
        name: {"webhooks": webhook_ids, **(shown.get(name, {}) if name != main else {})}
        for name, webhook_ids in chosen.items()
        if name
    }
    own = {name: shown.get(main, {}).get(name, "") for name in TEXTS}
    return own | {"variants": json.dumps(variants) if variants else ""}


def chosen_serializers(event: Any) -> dict[str, list[int]]:
    """The webhooks of an Event by the serializers that they had chosen, the default one first."""
    chosen: dict[str, list[int]] = {}
    for webhook_id in event.webhook_ids:
        chosen.setdefault(serializer_for(event, webhook_id), []).append(webhook_id)
    return dict(sorted(chosen.items())) or {"": []}


def serializer_for(event: Told, webhook_id: int) -> str:
    """The name of the serializer that a webhook had chosen when an Event happened; empty for the default one."""
    variants = json.loads(event.variants or "{}")
    return next((name for name, one in variants.items() if webhook_id in one["webhooks"]), "")


def written_by(event: Told, serializer: str) -> Told:
    """The Event as the serializer of this name had written it."""
    texts = json.loads(event.variants or "{}").get(serializer, {})
    return cast(Told, _Variant(event, texts)) if "data" in texts else event


def was_written_by(event: Told, serializer: str) -> bool:
    """Whether there are data of the serializer of this name, for some webhook that had chosen it."""
    variants = json.loads(event.variants or "{}")
    main = next((name for name, one in variants.items() if "data" not in one), "")
    return serializer == main or "data" in variants.get(serializer, {})


def sent_to(event: Told, webhook_id: int) -> Told:
    """The Event as a webhook gets it."""
    return written_by(event, serializer_for(event, webhook_id))


class _Variant:
    """An Event with some of its texts replaced."""

    def __init__(self, event: Told, texts: dict[str, str]) -> None:
        self._event, self._texts = event, texts

    def __getattr__(self, name: str) -> Any:
        return self._texts[name] if name in self._texts else getattr(self._event, name)


def snapshots_json(before: str | None, after: str | None) -> str:
    """The ``snapshots`` of the payload, from two JSON texts."""
    return f'{{"prechange":{before or "null"},"postchange":{after or "null"}}}'
