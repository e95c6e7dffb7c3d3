"""Links and buttons, as a page shows them: in terms of models, because each framework has addresses of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from webhooks.models import Delivery, permissions
from webhooks.operations.kinds import OF_DELIVERIES, RUN_KINDS
from webhooks.operations.runs import may_begin

RECOVER_SKIPPED = RUN_KINDS["recover_skipped"]


@dataclass(frozen=True)
class Link:
    """A page to open, or an act to post, which the user is permitted to do.

    Without a key, the page is the list of the model with these filters. With one, it is the page of a row.
    """

    label: str
    model: str
    """Such as "delivery". "status" is the status page, "why" the page “Why didn't it fire?”."""
    key: Any = None
    act: str = ""
    """The act, such as "retry". Without a key: a page of the model, such as "add"."""
    filters: Mapping[str, Any] = field(default_factory=dict)
    about: str = ""
    """The name of the webhook, for screen readers: other links have the same labels."""
    posts: bool = False
    """Whether it is a button that posts."""
    is_main: bool = False
    """Whether it is the most likely act."""
    question: str = ""
    """What to ask before a dangerous act. Empty if it is not dangerous."""
    detail: str = ""
    """What follows from a dangerous act."""
    hint: str = ""
    """A tooltip."""


def retry_failed(label: str, about: str = "", **filters: Any) -> Link:
    """Retries the failed deliveries with these filters: at once if there are few. Else a page asks first."""
    return Link(
        label, "run", act="add", filters={"kind": "retry", "state": "failed", **filters}, about=about, posts=True
    )


def acts_on(delivery: Delivery, user: Any) -> list[Link]:
    """The buttons of one delivery: what the user may do with it now."""
    row = Delivery.objects.filter(pk=delivery.pk)
    possible = {
        name: kind
        for name, kind in OF_DELIVERIES.items()
        if permissions.may(user, kind.operation, delivery) and kind.choose(row).exists()
    }
    return [
        Link(
            kind.button_in(delivery.state),
            "delivery",
            delivery.pk,
            name,
            posts=True,
            is_main=not (kind.is_dangerous or kind.gives_way_to),
            question=str(kind.button_question),
            detail=str(kind.button_detail) % {"webhook": delivery.webhook.name},
        )
        for name, kind in possible.items()
        if kind.gives_way_to not in possible
    ]


def recover_skipped(filters: Mapping[str, Any], user: Any) -> Link | None:
    """The page that recovers the skipped changes of the webhook in the filters of a list. None without one."""
    webhook = permissions.visible_webhooks(user).filter(pk=filters.get("webhook", 0)).first()
    if webhook is None or not may_begin(user, RECOVER_SKIPPED.name):
        return None
    since = {"since": filters["created_after"]} if "created_after" in filters else {"hours": "168"}
    rule = {"rule": filters["rule"]} if "rule" in filters else {}
    return Link(str(RECOVER_SKIPPED.link), "webhook", webhook.pk, RECOVER_SKIPPED.name, filters=since | rule)
