"""Retry and Discard: who may do that to deliveries, and what it came to, in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.contrib.auth import get_permission_codename
from django.db.models import QuerySet
from django.http import HttpRequest

from webhooks import permissions
from webhooks.admin.display import deliveries
from webhooks.models import Delivery
from webhooks.models.delivery import DeliveryQuerySet
from webhooks.operations import retries
from webhooks.operations.retries import Result


@dataclass(frozen=True)
class Operation:
    """Something to do to deliveries; ``applies`` narrows them to those that it changes."""

    name: str
    applies: Callable[[DeliveryQuerySet], DeliveryQuerySet]
    perform: Callable[[QuerySet[Delivery], Any, float], Result]
    done: str
    done_one: str
    left: str
    left_one: str

    def allowed(self, request: HttpRequest) -> bool:
        """Whether the user may do it to some deliveries."""
        return request.user.has_perm(f"webhooks.{get_permission_codename(self.name, Delivery._meta)}")

    def is_offered(self, user: Any, delivery: Delivery) -> bool:
        """Whether the user may do it to this one, and it would change something."""
        return (
            permissions.may(user, self.name, delivery)
            and self.applies(Delivery.objects.filter(pk=delivery.pk)).exists()
        )


RETRY = Operation(
    "retry",
    DeliveryQuerySet.retriable,
    retries.retry,
    done="will be sent again",
    done_one="will be sent again",
    left="were left as they are: only failed, discarded or pending ones can be retried, and none of a deleted webhook",
    left_one="was left as it is: only failed, discarded or pending ones can be retried, and none of a deleted webhook",
)
DISCARD = Operation(
    "discard",
    DeliveryQuerySet.discardable,
    retries.discard,
    done="are discarded and will not be sent",
    done_one="is discarded and will not be sent",
    left="had ended or are being sent, and stay as they are",
    left_one="had ended or is being sent, and stays as it is",
)


def perform(operation: Operation, request: HttpRequest, chosen: QuerySet[Delivery]) -> None:
    """Do it to all of ``chosen`` that it applies to and that the user may do it to, oldest first, and tell the user."""
    chosen = permissions.allowed(request.user, operation.name, chosen)
    _tell(operation, request, operation.perform(chosen, request.user, retries.REQUEST_SECONDS))


def _tell(operation: Operation, request: HttpRequest, done: Result) -> None:
    left = done.seen - done.changed
    parts = []
    if done.changed or not left:
        parts.append(f"{deliveries(done.changed)} {operation.done_one if done.changed == 1 else operation.done}")
    if left:
        parts.append(f"{left:,} {operation.left_one if left == 1 else operation.left}")
    messages.add_message(request, messages.SUCCESS if done.changed else messages.WARNING, f"{'; '.join(parts)}.")
    if not done.is_complete:
        messages.warning(request, "There were too many for one request: do it again for the rest.")
