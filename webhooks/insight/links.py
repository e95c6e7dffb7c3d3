"""Links and buttons, as a page shows them: in terms of models, because each framework has addresses of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Link:
    """A page to open, or an act to post, which the user is permitted to do.

    Without a key, the page is the list of the model with these filters. With one, it is the page of a row.
    """

    label: str
    model: str
    """Such as "delivery". "status" is the status page."""
    key: Any = None
    act: str = ""
    """The act, such as "retry". Without a key: a page of the model, such as "add"."""
    filters: Mapping[str, Any] = field(default_factory=dict)
    about: str = ""
    """The name of the webhook, for screen readers: other links have the same labels."""
    posts: bool = False
    """Whether it is a button that posts."""


def retry_failed(label: str, about: str = "", **filters: Any) -> Link:
    """Retries the failed deliveries with these filters: at once if there are few. Else a page asks first."""
    return Link(
        label, "run", act="add", filters={"kind": "retry", "state": "failed", **filters}, about=about, posts=True
    )
