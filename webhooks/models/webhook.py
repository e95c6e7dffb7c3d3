from __future__ import annotations

from typing import Any

from django.contrib.contenttypes.models import ContentType as DjangoContentType
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from webhooks import destinations, dialling, registry, signing
from webhooks.managers import WebhookQuerySet
from webhooks.models.event import Action


class ContentType(models.TextChoices):
    """How the body of a request is written."""

    JSON = "application/json", "JSON"
    FORM = "application/x-www-form-urlencoded", "form"


class Webhook(models.Model):
    """What an admin defines: which changes of which models go to which URL, and how."""

    name = models.CharField(max_length=150, unique=True)
    enabled = models.BooleanField(
        default=True,
        help_text="A disabled webhook gets no new deliveries; those on file wait until it is enabled again.",
    )
    object_types = models.ManyToManyField(
        DjangoContentType, related_name="+", verbose_name="models", help_text="Changes of these are sent."
    )
    on_created = models.BooleanField("created", default=False, help_text="Send when an object is created.")
    on_updated = models.BooleanField("updated", default=False, help_text="Send when an object is updated.")
    on_deleted = models.BooleanField("deleted", default=False, help_text="Send when an object is deleted.")
    payload_url = models.CharField("payload URL", max_length=500, help_text="Where to POST to.")
    content_type = models.CharField(
        max_length=100, choices=ContentType.choices, default=ContentType.JSON, help_text="How the body is written."
    )
    secret = models.CharField(
        max_length=255,
        blank=True,
        help_text="Signs each request, so that the receiver can tell that it came from here.",
    )
    ssl_verification = models.BooleanField(
        "TLS verification", default=True, help_text="Refuse a receiver whose certificate is not trusted."
    )
    ca_file_path = models.CharField(
        "CA file",
        max_length=4096,
        blank=True,
        help_text="A PEM file on the worker's machine with the certificates to trust instead of the usual ones.",
    )
    timeout = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(120)],
        help_text="Seconds that one attempt may take in all, 1 to 120. Empty: the setting TIMEOUT.",
    )
    ordered = models.BooleanField(
        default=True,
        help_text="Send the changes of one object one after the other, each only when the one before has ended.",
    )

    # Kept by ``health``.
    last_success_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_failure_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_failure = models.TextField(blank=True, editable=False)
    failures_in_a_row = models.PositiveIntegerField(default=0, editable=False)
    failing_since = models.DateTimeField(null=True, blank=True, editable=False)
    probe_at = models.DateTimeField(null=True, blank=True, editable=False, help_text="Set while it is paused.")
    probes = models.PositiveIntegerField(default=0, editable=False)
    disabled_reason = models.TextField(blank=True, editable=False, help_text="Why it was disabled by itself.")

    created = models.DateTimeField(auto_now_add=True)
    last_updated = models.DateTimeField(auto_now=True)

    objects = WebhookQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(on_created=True) | models.Q(on_updated=True) | models.Q(on_deleted=True),
                name="webhooks_webhook_wants_an_action",
                violation_error_message="Choose at least one action: created, updated or deleted.",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self.enabled and self.disabled_reason:
            # Somebody enabled it again after it had been disabled by itself: it starts afresh.
            self.forget_failures()
        super().save(*args, **kwargs)

    def forget_failures(self) -> None:
        """As though it had never failed; save it to make that so."""
        self.disabled_reason = ""
        self.failing_since = self.probe_at = None
        self.failures_in_a_row = self.probes = 0

    @property
    def is_paused(self) -> bool:
        return self.enabled and self.probe_at is not None

    def clean(self) -> None:
        errors = {}
        try:
            signing.key_of(self.secret)
        except ValueError as error:
            errors["secret"] = str(error)
        if self.ca_file_path and not self.ssl_verification:
            errors["ca_file_path"] = "A CA file has no effect while TLS verification is off: clear one of the two."
        # A disabled one is sent nowhere: whoever finds that it no longer may be can still switch it off.
        judge = dialling.objection if self.enabled else destinations.misspelt
        if self.payload_url and (reason := judge(self.payload_url)):
            errors["payload_url"] = reason
        if errors:
            raise ValidationError(errors)

    @property
    def actions(self) -> list[Action]:
        wanted = {Action.CREATED: self.on_created, Action.UPDATED: self.on_updated, Action.DELETED: self.on_deleted}
        return [action for action, is_wanted in wanted.items() if is_wanted]


def registered_object_types() -> models.QuerySet[DjangoContentType]:
    """The content types of the registered models: what an admin can pick."""
    found = DjangoContentType.objects.get_for_models(*(item.model for item in registry.registrations()))
    pks = [content_type.pk for content_type in found.values()]
    return DjangoContentType.objects.filter(pk__in=pks).order_by("app_label", "model")


def _is_registered(label: str) -> bool:
    # A proxy's registration is its concrete model's, whose label its changes go by.
    registration = registry.registration_by_label(label)
    return registration is not None and registration.label == label


def refuse_unregistered(pks: set[int]) -> None:
    """Raise ValidationError, naming them, when some of these content types are of models that nobody registered."""
    refused = [
        f"{content_type.app_label}.{content_type.model}"
        for content_type in DjangoContentType.objects.filter(pk__in=pks)
        if not _is_registered(f"{content_type.app_label}.{content_type.model}")
    ]
    if refused:
        raise ValidationError(
            f"No webhook can be sent for {', '.join(sorted(refused))}: not registered. Name it in the setting "
            'WEBHOOKS["MODELS"] or call webhooks.register() for it.'
        )
