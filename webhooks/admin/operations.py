"""Retry and Discard: what an admin may do to deliveries, with a log entry for each and a message in words."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from django.contrib import messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth import get_permission_codename
from django.contrib.contenttypes.models import ContentType
from django.db.models import Q, QuerySet
from django.http import HttpRequest

from webhooks import retries
from webhooks.admin.display import deliveries
from webhooks.ids import new_id
from webhooks.models import Delivery
from webhooks.models.querysets import DeliveryQuerySet

# How many ids are read at once, and how many deliveries change in one transaction.
READ, CHUNK = 10_000, 500

# Up to this many, each has a log entry of its own; beyond, one tells of all.
LOGGED_EACH = 100

# Seconds after which a request stops, and says what is left, before a web server's patience ends.
BUDGET = 20.0


@dataclass(frozen=True)
class Operation:
    """Something to do to deliveries; ``applies`` narrows them to those that it changes."""

    name: str
    applies: Callable[[DeliveryQuerySet], DeliveryQuerySet]
    perform: Callable[[DeliveryQuerySet], int]
    done: str
    done_one: str
    left: str
    left_one: str
    logged: str

    def allowed(self, request: HttpRequest) -> bool:
        return request.user.has_perm(f"webhooks.{get_permission_codename(self.name, Delivery._meta)}")

    def changes(self, delivery: Delivery) -> bool:
        return self.applies(Delivery.objects.filter(pk=delivery.pk)).exists()


RETRY = Operation(
    "retry",
    DeliveryQuerySet.retriable,
    lambda chosen: retries.retry(chosen),
    done="will be sent again",
    done_one="will be sent again",
    left="are not failed, discarded or between attempts and stay as they are",
    left_one="is not failed, discarded or between attempts and stays as it is",
    logged="Retried.",
)
DISCARD = Operation(
    "discard",
    DeliveryQuerySet.discardable,
    lambda chosen: retries.discard(chosen),
    done="are discarded and will not be sent",
    done_one="is discarded and will not be sent",
    left="had ended or are being sent, and stay as they are",
    left_one="had ended or is being sent, and stays as it is",
    logged="Discarded.",
)


@dataclass
class Progress:
    """How many deliveries were looked at, how many changed, and whether time ran out before the last."""

    seen: int = 0
    changed: int = 0
    is_cut_short: bool = False
    logged: list[uuid.UUID] = field(default_factory=list)


def perform(operation: Operation, request: HttpRequest, chosen: QuerySet[Delivery]) -> Progress:
    """Do it to all of ``chosen`` that it applies to, oldest first, log it, and tell the user."""
    progress = Progress()
    deadline = time.monotonic() + BUDGET
    for ids in _chunks(chosen):
        applicable = operation.applies(Delivery.objects.filter(pk__in=ids))
        if len(progress.logged) <= LOGGED_EACH:
            progress.logged += applicable.order_by("pk").values_list("pk", flat=True)
        progress.changed += operation.perform(Delivery.objects.filter(pk__in=ids))
        progress.seen += len(ids)
        if time.monotonic() > deadline:
            progress.is_cut_short = True
            break
    _log(operation, request, progress)
    _tell(operation, request, progress)
    return progress


def _chunks(chosen: QuerySet[Delivery]) -> Iterator[list[uuid.UUID]]:
    """The ids, in the order of the events: in a lane the first must come first. None that is made from now on."""
    made = chosen.filter(pk__lte=new_id())
    ordered = made.order_by("event_id", "pk").values_list("event_id", "pk")
    rows = list(ordered[:READ])
    while rows:
        for start in range(0, len(rows), CHUNK):
            yield [pk for _, pk in rows[start : start + CHUNK]]
        event_id, last = rows[-1]
        rows = list(ordered.filter(Q(event_id__gt=event_id) | Q(event_id=event_id, pk__gt=last))[:READ])


def _log(operation: Operation, request: HttpRequest, progress: Progress) -> None:
    user = int(request.user.pk or 0)
    if not progress.changed:
        return
    if progress.changed <= LOGGED_EACH:
        logged = Delivery.objects.filter(pk__in=progress.logged)
        LogEntry.objects.log_actions(user, logged, CHANGE, operation.logged)
        return
    LogEntry.objects.create(
        user_id=user,
        content_type=ContentType.objects.get_for_model(Delivery),
        object_repr=deliveries(progress.changed),
        action_flag=CHANGE,
        change_message=operation.logged,
    )


def _tell(operation: Operation, request: HttpRequest, progress: Progress) -> None:
    left = progress.seen - progress.changed
    parts = []
    if progress.changed or not left:
        done = operation.done_one if progress.changed == 1 else operation.done
        parts.append(f"{deliveries(progress.changed)} {done}")
    if left:
        parts.append(f"{left:,} {operation.left_one if left == 1 else operation.left}")
    messages.add_message(request, messages.SUCCESS if progress.changed else messages.WARNING, f"{'; '.join(parts)}.")
    if progress.is_cut_short:
        messages.warning(request, "There were too many for one request: do it again for the rest.")
