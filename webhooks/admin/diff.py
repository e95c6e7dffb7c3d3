"""What a change changed, as lines of a table: from two snapshots to paths with their old and new values. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from webhooks.text import json_equal

# A page shows this many lines.
MAX_LINES = 100

# A longer value is folded.
LONG = 120

_MISSING: Any = object()


@dataclass(frozen=True)
class Line:
    """One value that changed. ``before`` and ``after`` are texts; None if there was no such value."""

    path: str
    before: str | None = None
    after: str | None = None
    gone: list[str] = field(default_factory=list)
    """Members that a list lost. Then ``before`` and ``after`` are None."""
    new: list[str] = field(default_factory=list)
    """Members that a list got."""
    kept: int = 0
    """The number of members that a list kept."""

    @property
    def is_list(self) -> bool:
        return bool(self.gone or self.new)


def diff(before: Any, after: Any) -> list[Line]:
    """The lines for two snapshots, in the order of their keys. None means that there is no object."""
    return list(_lines("", {} if before is None else before, {} if after is None else after))


def _lines(path: str, before: Any, after: Any) -> Iterator[Line]:
    if before is not _MISSING and after is not _MISSING and json_equal(before, after):
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        names = [*before, *(name for name in after if name not in before)]
        for name in sorted(names) if path else names:
            yield from _lines(f"{path}.{name}" if path else name, before.get(name, _MISSING), after.get(name, _MISSING))
    elif isinstance(before, list) and isinstance(after, list) and (line := _members(path, before, after)):
        yield line
    else:
        old, new = (None if value is _MISSING else as_text(value) for value in (before, after))
        yield Line(path, old, new)


def _members(path: str, before: list[Any], after: list[Any]) -> Line | None:
    """The members that a list lost and got. None if only their order changed."""
    gone, new = list(map(as_text, before)), list[str]()
    for member in map(as_text, after):
        if member in gone:
            gone.remove(member)
        else:
            new.append(member)
    return Line(path, gone=gone, new=new, kept=len(before) - len(gone)) if gone or new else None


def as_text(value: Any) -> str:
    """A value as it is shown: text as it is, unless it is empty or has blanks at its ends, and other values as JSON."""
    if isinstance(value, str) and value and value == value.strip():
        return value
    return json.dumps(value, ensure_ascii=False)
