from __future__ import annotations

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from webhooks.db import new_id
from webhooks.models.event import Event
from webhooks.models.querysets import ENDED_STATES, HEAD_STATES, AtHome, DeliveryQuerySet, State
from webhooks.models.webhook import Webhook


class Delivery(models.Model):
    """One Event to one Webhook. Its id is the ``webhook-id`` that every attempt carries."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    event = models.ForeignKey(Event, on_delete=models.CASCADE, related_name="deliveries")
    # Its index is the one below that begins with it.
    webhook = models.ForeignKey(Webhook, on_delete=models.CASCADE, related_name="deliveries", db_index=False)
    created = models.DateTimeField(default=timezone.now, db_default=Now())
    state = models.CharField(max_length=10, choices=State.choices, default=State.WAITING, db_default=State.WAITING)

    lane = models.CharField(max_length=460, help_text="The object whose changes go one after the other.")
    in_lane = models.BooleanField(
        default=True, db_default=True, help_text="Whether it is sent in order with the others of its lane."
    )
    head_since = models.DateTimeField(null=True, blank=True)

    next_attempt_at = models.DateTimeField(default=timezone.now, db_default=Now())
    claim = models.UUIDField(null=True, blank=True, editable=False, help_text="The claim of the worker that holds it.")
    lease_until = models.DateTimeField(null=True, blank=True, editable=False)
    lost_leases = models.PositiveSmallIntegerField(
        default=0, db_default=0, editable=False, help_text="Leases that ended without a record since the last attempt."
    )

    attempt_count = models.PositiveIntegerField(default=0, db_default=0)
    failures = models.PositiveIntegerField(
        default=0, db_default=0, help_text="Failed attempts since it was last retried by hand."
    )
    reason = models.TextField(blank=True, default="", db_default="", help_text="Why the last attempt failed.")
    finished_at = models.DateTimeField(null=True, blank=True)

    objects = AtHome.from_queryset(DeliveryQuerySet)()

    class Meta:
        base_manager_name = "objects"
        ordering = ["-pk"]
        verbose_name_plural = "deliveries"
        default_permissions = ("view",)
        permissions = [
            ("retry_delivery", "Can retry deliveries"),
            ("discard_delivery", "Can discard deliveries"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["webhook", "lane"],
                condition=models.Q(state__in=HEAD_STATES, in_lane=True),
                name="webhooks_delivery_one_head",
            ),
        ]
        indexes = [
            models.Index(fields=["webhook", "state", "finished_at"], name="webhooks_delivery_of_webhook"),
            models.Index(
                fields=["webhook", "next_attempt_at"],
                condition=models.Q(state=State.PENDING),
                name="webhooks_delivery_due",
            ),
            models.Index(
                fields=["webhook", "lane", "event"],
                condition=models.Q(state=State.WAITING),
                name="webhooks_delivery_waiting",
            ),
            models.Index(
                fields=["lease_until"], condition=models.Q(state=State.SENDING), name="webhooks_delivery_leased"
            ),
            models.Index(
                fields=["webhook", "lost_leases", "next_attempt_at"],
                condition=models.Q(state=State.PENDING, lost_leases__gt=0),
                name="webhooks_delivery_suspect",
            ),
            models.Index(
                fields=["head_since"],
                condition=models.Q(state=State.PENDING, in_lane=True, failures__gt=0),
                name="webhooks_delivery_holding",
            ),
            models.Index(
                fields=["state", "finished_at"],
                condition=models.Q(state__in=ENDED_STATES),
                name="webhooks_delivery_ended",
            ),
        ]

    def __str__(self) -> str:
        return str(self.pk)


# Characters that are kept of the URL of an attempt: a template can make longer ones.
URL_LENGTH = 2000


class Attempt(models.Model):
    """One HTTP request of a Delivery, and what came back."""

    delivery = models.ForeignKey(Delivery, on_delete=models.CASCADE, related_name="attempts")
    number = models.PositiveIntegerField()
    started_at = models.DateTimeField()
    duration_ms = models.PositiveIntegerField(help_text="Milliseconds.")
    url = models.CharField(max_length=URL_LENGTH)
    succeeded = models.BooleanField()
    reason = models.TextField(blank=True, default="", db_default="", help_text="Why it failed.")
    status = models.PositiveSmallIntegerField(null=True, blank=True, help_text="The HTTP status, if one came.")
    response_headers = models.JSONField(default=dict, db_default={}, blank=True)
    response_body = models.TextField(blank=True, default="", db_default="", help_text="The beginning of it.")
    worker = models.CharField(max_length=100, blank=True, default="", db_default="")

    objects = AtHome()

    class Meta:
        base_manager_name = "objects"
        default_permissions = ()
        ordering = ["pk"]

    def __str__(self) -> str:
        return f"attempt {self.number}"
