from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db import connections, models
from django.db.models.functions import Now
from django.utils import timezone

from webhooks.models import event_sql
from webhooks.models.querysets import AtHome, EventQuerySet
from webhooks.models.validators import USERNAME_LENGTH
from webhooks.registry.registration import NAME_LENGTH

REQUEST_ID_LENGTH = 200


class Action(models.TextChoices):
    CREATED = "created", "created"
    UPDATED = "updated", "updated"
    DELETED = "deleted", "deleted"


# The action of a test of a webhook.
PING = "ping"
PING_OBJECT_TYPE = "webhooks.ping"

# How the error of an Event begins that was not sent because of its depth, and of one that could not be dispatched.
CUT = "Cut: "
UNDISPATCHED = "It could not be dispatched:\n"


def lane_name(object_type: str, object_id: str) -> str:
    """The name of the lane that an object's deliveries go in, within each webhook."""
    return f"{object_type}:{object_id}"


class Event(models.Model):
    """One committed change of one object, frozen as it was. Its id is the ``sequence`` of the payload."""

    timestamp = models.DateTimeField(default=timezone.now, db_default=Now())
    # One of ``Action``, the name of a custom event, or "ping".
    action = models.CharField(max_length=100)
    object_type = models.CharField(
        max_length=200,
        blank=True,
        default="",
        db_default="",
        help_text="The model's label, such as dcim.site. Empty: the event has no object.",
    )
    object_id = models.CharField(max_length=255)
    object_repr = models.CharField(max_length=NAME_LENGTH, blank=True, default="", db_default="")
    data = models.TextField(
        blank=True, default="", db_default="", help_text="The serializer's output, as the JSON text that is sent."
    )
    variants = models.TextField(
        blank=True,
        default="",
        db_default="",
        help_text="The output of other serializers, by name, and the webhooks that chose them.",
    )
    snapshots = models.TextField(
        blank=True, default="", db_default="", help_text="The state before and after, as the JSON text that is sent."
    )
    changed = models.TextField(
        blank=True,
        default="",
        db_default="",
        help_text="The names of the fields that an update changed, as JSON text; empty if unknown.",
    )
    username = models.CharField(max_length=USERNAME_LENGTH, blank=True, default="", db_default="")
    request_id = models.CharField(max_length=REQUEST_ID_LENGTH, blank=True, default="", db_default="")
    depth = models.PositiveSmallIntegerField(
        default=1,
        db_default=1,
        help_text="1 if no webhook caused the change, else one more than the depth of the causing event.",
    )
    request = models.TextField(
        blank=True, default="", db_default="", help_text="The HTTP request as the payload shows it, as JSON text."
    )
    webhook_ids = models.JSONField(default=list, db_default=[], help_text="The webhooks that matched when it happened.")
    dispatched_at = models.DateTimeField(null=True, blank=True)
    replay_of = models.BigIntegerField(null=True, blank=True, help_text="The failed event that this one replays.")
    error = models.TextField(
        blank=True, default="", db_default="", help_text="Why it failed. A failed event is not sent."
    )

    objects = AtHome.from_queryset(EventQuerySet)()

    class Meta:
        base_manager_name = "objects"
        default_permissions = ("view",)
        ordering = ["-pk"]
        indexes = [
            models.Index(
                fields=["id"],
                name="webhooks_event_undispatched",
                condition=models.Q(dispatched_at=None, error=""),
            ),
            models.Index(
                fields=["timestamp"],
                name="webhooks_event_failed",
                condition=~models.Q(error="") & models.Q(dispatched_at=None),
            ),
            models.Index(
                fields=["dispatched_at"],
                name="webhooks_event_dispatched",
                condition=models.Q(dispatched_at__isnull=False),
            ),
            models.Index(fields=["request_id"], name="webhooks_event_request", condition=~models.Q(request_id="")),
            models.Index(fields=["object_type", "object_id", "id"], name="webhooks_event_object"),
        ]

    def __str__(self) -> str:
        return f"{self.object_type} {self.object_id} {self.action}"

    def insert(self, using: str) -> None:
        """Save a new one: the same as ``save()``, at half its cost, which every change of an object pays."""
        connection = connections[using]
        values = {
            str(column.column): column.get_db_prep_save(getattr(self, column.attname), connection)
            for column in self._columns()
        }
        self.pk = event_sql.insert(using, values)
        self._state.adding, self._state.db = False, using

    @classmethod
    def insert_all(cls, new: Sequence[Event], using: str) -> None:
        """Save new ones, many with each statement, in their order."""
        names = [str(column.column) for column in cls._columns()]
        ids = event_sql.insert_all(using, names, (one._plain(using) for one in new))
        for event, pk in zip(new, ids, strict=True):
            event.pk = pk
            event._state.adding, event._state.db = False, using

    @classmethod
    def _columns(cls) -> list[models.Field[Any, Any]]:
        """All but the id, which the database gives."""
        return [column for column in cls._meta.local_concrete_fields if not column.primary_key]

    def _plain(self, using: str) -> dict[str, Any]:
        """The values of its columns, as JSON can carry them."""
        values = {str(column.column): getattr(self, column.attname) for column in self._columns()}
        adapt = connections[using].ops.adapt_datetimefield_value
        return {name: str(adapt(value)) if isinstance(value, datetime) else value for name, value in values.items()}

    @property
    def failure(self) -> str:
        """Why nothing was sent of it: "cut", it is too deep in a chain; "undispatched", deliveries could not be made;
        "undecided", it could not be told who wants it; "unmade", its payload could not be made. Empty: it did not fail.
        """
        if not self.error:
            return ""
        if self.error.startswith(CUT):
            return "cut"
        if self.error.startswith(UNDISPATCHED):
            return "undispatched"
        has_data = getattr(self, "has_data", None)  # of a list, which leaves the data themselves out
        return "undecided" if (bool(self.data) if has_data is None else has_data) else "unmade"

    @property
    def is_cut(self) -> bool:
        """Whether it was not sent because it is too deep in a chain, though its payload could be made."""
        return self.failure == "cut"

    @property
    def lane(self) -> str:
        """The name of the lane that its deliveries go in, within each webhook."""
        return lane_name(self.object_type, self.object_id)
