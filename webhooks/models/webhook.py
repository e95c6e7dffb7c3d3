"""Webhooks, and the querysets that pause, resume and delete them."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from datetime import timedelta
from typing import Any

from django.contrib.contenttypes.models import ContentType as DjangoContentType
from django.core.exceptions import ValidationError
from django.core.validators import MaxLengthValidator, MaxValueValidator, MinValueValidator
from django.db import models, router, transaction
from django.db.models import Case, F, Value, When
from django.db.models.functions import Cast, Concat, Substr
from django.utils import timezone

from webhooks.conf import MAX_TIMEOUT, conf
from webhooks.db import DatabaseNow, atomically
from webhooks.models.event import EMPTY, Action, WriteDBManager
from webhooks.models.validation import (
    check_headers,
    check_media_type,
    check_secret,
    check_usernames,
    check_visible,
    find_errors,
)
from webhooks.payloads.templates import is_template
from webhooks.security.encryption import EncryptedTextField, Secret

# Characters of the plain text. The encrypted text in the database is longer.
SECRET_LENGTH, SECRET_HEADERS_LENGTH = 255, 8192

SECRET_FIELDS = ("secret", "previous_secret", "secret_headers")
ACTION_FIELDS = {"on_created": Action.CREATED, "on_updated": Action.UPDATED, "on_deleted": Action.DELETED}

# The fields that ``clean`` may rewrite, and the fields that ``clear_failures`` resets.
NORMALIZED_FIELDS = {"conditions", "changed_fields", "excluded_usernames", "secret_headers"}
FAILURE_FIELDS = {"disabled_reason", "failing_since", "probe_at", "failures_in_a_row", "probes"}

NO_ACTION = "Choose at least one action (created, updated, deleted) or one custom event."


class ContentType(models.TextChoices):
    """The usual content types. A webhook may have any other."""

    JSON = "application/json", "JSON"
    FORM = "application/x-www-form-urlencoded", "form"


class Method(models.TextChoices):
    """The HTTP methods of a request. Each sends the body."""

    GET = "GET", "GET"
    POST = "POST", "POST"
    PUT = "PUT", "PUT"
    PATCH = "PATCH", "PATCH"
    DELETE = "DELETE", "DELETE"


class WebhookQuerySet(models.QuerySet["Webhook"]):
    def paused(self) -> WebhookQuerySet:
        return self.filter(enabled=True).exclude(probe_at=None)

    def being_deleted(self) -> WebhookQuerySet:
        """Webhooks that are no longer used. The sweep deletes them after the last of their deliveries."""
        return self.exclude(deleted_at=None)

    def resume(self) -> int:
        """Send to paused webhooks again at once, and clear their failures."""
        return atomically(lambda: self.paused().record_recovery(), self.db)

    def probe(self) -> int:
        """Send the next probe of paused webhooks at once."""
        return atomically(lambda: self.paused().update(probe_at=DatabaseNow()), self.db)

    def record_recovery(self, **also: Any) -> int:
        """Clear the failures, and end a pause if there is one. ``also`` has other columns to set."""
        resumed_at = Case(When(probe_at=None, then=F("resumed_at")), default=DatabaseNow())
        cleared = {"probe_at": None, "probes": 0, "failures_in_a_row": 0, "failing_since": None}
        return self.update(resumed_at=resumed_at, **cleared, **also)

    def mark_deleted(self) -> int:
        """Hide and disable them. Each gets a new name that is unique, so that its old name is free."""
        end = Value(f" {secrets.token_hex(4)})")
        name = Concat(Substr("name", 1, 100), Value(" (being deleted, "), Cast("pk", models.CharField()), end)
        return self.update(enabled=False, deleted_at=DatabaseNow(), name=name)

    mark_deleted.queryset_only = True  # type: ignore[attr-defined]  # as Django's own delete()

    def delete_expired_secrets(self) -> int:
        """Delete previous secrets that no longer sign."""
        expired = self.filter(previous_secret_until__lte=DatabaseNow())
        return expired.update(previous_secret="", previous_secret_until=None)  # nosec B106 # empty


_Manager = WriteDBManager.from_queryset(WebhookQuerySet)


class ActiveManager(_Manager):
    """All webhooks that are not being deleted."""

    def get_queryset(self) -> Any:
        return super().get_queryset().filter(deleted_at=None)


class Webhook(models.Model):
    """An admin's rule: send changes of these models to this URL, in this format."""

    name = models.CharField(max_length=150, unique=True, validators=[check_visible])
    enabled = models.BooleanField(
        default=True,
        db_default=True,
        help_text="A disabled webhook gets no new deliveries; its stored ones wait until it is enabled again.",
    )
    object_types = models.ManyToManyField(
        DjangoContentType,
        related_name="+",
        blank=True,
        verbose_name="models",
        help_text="Changes of these models are sent.",
    )
    on_created = models.BooleanField(
        "created", default=False, db_default=False, help_text="Send when an object is created."
    )
    on_updated = models.BooleanField(
        "updated", default=False, db_default=False, help_text="Send when an object is updated."
    )
    on_deleted = models.BooleanField(
        "deleted", default=False, db_default=False, help_text="Send when an object is deleted."
    )
    custom_events = models.JSONField(
        default=list,
        db_default=[],
        blank=True,
        help_text="Events sent by code; they do not depend on the selected models.",
    )
    serializer = models.CharField(
        max_length=50,
        **EMPTY,
        help_text="The name of the serializer for the data of a change. Empty: the default one of each model.",
    )
    conditions = models.JSONField(
        null=True,
        blank=True,
        help_text="Send only changes that match these conditions, in NetBox's format. Empty: every change.",
    )
    changed_fields = models.JSONField(
        "only if these fields changed",
        default=list,
        db_default=[],
        blank=True,
        help_text="Skip updates that change none of these fields. Empty: every update.",
    )
    only_changes = models.BooleanField(
        "skip updates that change nothing",
        default=False,
        db_default=False,
        help_text="For example a save of the same values.",
    )
    prechange = models.BooleanField(
        "include previous state",
        default=False,
        db_default=False,
        help_text="Add the state before an update to the payload. This costs a query for each update.",
    )
    excluded_usernames = models.JSONField(
        "ignored users",
        default=list,
        db_default=[],
        blank=True,
        validators=[check_usernames],
        help_text="Changes by these users are not sent. Enter the user of a receiver that writes back.",
    )
    payload_url = models.CharField(
        "payload URL", max_length=500, help_text="The URL of the receiver. May be a template: https://…/{{ data.id }}."
    )
    http_method = models.CharField(
        "HTTP method", max_length=10, choices=Method.choices, default=Method.POST, db_default=Method.POST
    )
    content_type = models.CharField(
        max_length=100,
        default=ContentType.JSON,
        db_default=ContentType.JSON,
        validators=[check_media_type],
        help_text="Sent as the Content-Type header: application/json, application/x-www-form-urlencoded, or any other.",
    )
    additional_headers = models.TextField(**EMPTY, help_text="A template with one “Name: value” a line.")
    body_template = models.TextField(**EMPTY, help_text="A template for the body. Empty: the whole payload.")
    secret = EncryptedTextField(
        max_length=SECRET_LENGTH,
        **EMPTY,
        validators=[MaxLengthValidator(SECRET_LENGTH), check_secret],
        help_text="Signs each request, so that the receiver can verify the sender.",
    )
    previous_secret = EncryptedTextField(**EMPTY, editable=False)
    previous_secret_until = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Until then the previous secret signs, too."
    )
    secret_headers = EncryptedTextField(
        max_length=SECRET_HEADERS_LENGTH,
        **EMPTY,
        validators=[MaxLengthValidator(SECRET_HEADERS_LENGTH), check_headers],
        help_text="Headers that stay hidden, such as Authorization. One “Name: value” a line.",
    )
    ssl_verification = models.BooleanField(
        "TLS verification", default=True, db_default=True, help_text="Refuse a receiver without a trusted certificate."
    )
    ca_file_path = models.CharField(
        "CA file",
        max_length=4096,
        **EMPTY,
        help_text="A PEM file on the worker's machine. Its certificates replace the usual trusted ones.",
    )
    timeout = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(MAX_TIMEOUT)],
        help_text=f"Seconds for a whole attempt, 1 to {MAX_TIMEOUT}. Empty: the setting TIMEOUT.",
    )
    ordered = models.BooleanField(
        default=True,
        db_default=True,
        help_text="Send the changes of one object one after the other, each after the one before has ended.",
    )

    # ``delivery.health`` writes the following columns.
    last_success_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_failure_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_failure = models.TextField(**EMPTY, editable=False)
    failures_in_a_row = models.PositiveIntegerField(default=0, db_default=0, editable=False)
    failing_since = models.DateTimeField(null=True, blank=True, editable=False)
    probe_at = models.DateTimeField(null=True, blank=True, editable=False, help_text="Set while it is paused.")
    probes = models.PositiveIntegerField(default=0, db_default=0, editable=False)
    resumed_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="When sending last resumed after a stop."
    )
    disabled_reason = models.TextField(**EMPTY, editable=False, help_text="Why it was disabled automatically.")

    created = models.DateTimeField(auto_now_add=True)
    last_updated = models.DateTimeField(auto_now=True)

    deleted_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Set while its deliveries are being deleted."
    )

    objects = ActiveManager()
    with_deleted = _Manager()

    new_object_types: Collection[DjangoContentType] | None = None
    """Set by a form or serializer before ``clean``: the models to validate, which are saved after the row."""

    class Meta:
        ordering = ["name"]
        base_manager_name = "with_deleted"  # for delivery.webhook, too
        permissions = [("chain_webhook", "Can say by X-Webhook-Depth that a webhook caused its changes")]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(on_created=True)
                | models.Q(on_updated=True)
                | models.Q(on_deleted=True)
                | ~models.Q(custom_events=[]),
                name="webhooks_webhook_wants_an_action",
                violation_error_message=NO_ACTION,
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        fields = kwargs.get("update_fields")
        is_enabled = "enabled" in (self.__dict__ if fields is None else fields) and self.enabled
        if is_enabled and self.disabled_reason:
            # A user enables it again after it was disabled automatically.
            self.clear_failures()
            if fields is not None:
                kwargs["update_fields"] = {*fields, *FAILURE_FIELDS}
        rows = type(self).objects.using(self._state.db).filter(pk=self.pk)
        is_resumed = bool(is_enabled and self.pk) and rows.filter(enabled=False).exists()
        super().save(*args, **kwargs)
        if is_resumed:
            rows.update(resumed_at=DatabaseNow())

    def save_settings(self, changed: Collection[str]) -> None:
        """Save only the fields that a user changed. Keep what workers, other users and key rotation wrote meanwhile.

        "secret" in ``changed`` starts an overlap with the stored secret. "previous_secret" ends an overlap. Raises
        DoesNotExist if the row was deleted meanwhile. Validate first: the row stays locked until the end of the
        transaction, and workers wait for it.
        """
        using = router.db_for_write(Webhook, instance=self)
        with transaction.atomic(using):
            stored = Webhook.objects.using(using).select_for_update(no_key=True).get(pk=self.pk)
            secret = self.secret
            for field in self._meta.concrete_fields:
                if field.name in {"secret", "previous_secret"} or field.name not in changed:
                    setattr(self, field.attname, getattr(stored, field.attname))
            if "secret" in changed:
                self.replace_secret(secret)
            if "previous_secret" in changed:
                self.forget_previous_secret()
            self.save(using=using)

    def clear_failures(self) -> None:
        """Reset the failure columns. Does not save."""
        self.disabled_reason = ""
        self.failing_since = self.probe_at = None
        self.failures_in_a_row = self.probes = 0

    def replace_secret(self, secret: Secret) -> None:
        """Sign with this secret from now on. Does not save.

        The previous secret signs, too, for ``SECRET_OVERLAP`` seconds, so that receivers can change without a gap. An
        empty secret ends all signing at once.
        """
        previous, self.secret = self.secret, secret
        if secret == previous:
            return
        self.forget_previous_secret()
        if secret and previous and not previous.problem and conf.secret_overlap:
            self.previous_secret = previous
            self.previous_secret_until = timezone.now() + timedelta(seconds=conf.secret_overlap)

    def forget_previous_secret(self) -> None:
        """Sign with the current secret only. Does not save."""
        self.previous_secret, self.previous_secret_until = Secret(), None

    def overlapping_secret(self) -> str:
        """The previous secret while it still signs, or "".

        If it cannot be decrypted, the current secret still signs. ``check --deploy`` reports the previous one.
        """
        is_over = self.previous_secret_until is None or self.previous_secret_until <= timezone.now()
        return "" if is_over or self.previous_secret.problem else self.previous_secret.reveal()

    @property
    def unreadable(self) -> list[str]:
        """The secrets that no key decrypts, such as "secret headers". All attempts fail until that is repaired."""
        return [name.replace("_", " ") for name in ("secret", "secret_headers") if getattr(self, name).problem]

    @property
    def is_paused(self) -> bool:
        return self.enabled and self.probe_at is not None

    def clean(self) -> None:
        self.conditions = self.conditions or None
        self.changed_fields = _normalized_names(self.changed_fields)
        self.excluded_usernames = _normalized_names(self.excluded_usernames)
        if not self.secret_headers.problem and not self.secret_headers.reveal().strip():
            self.secret_headers = Secret()
        if errors := find_errors(self):
            raise ValidationError(errors)

    @property
    def is_form(self) -> bool:
        """Whether the payload is sent as a form, unless a template writes the body."""
        return self.content_type.partition(";")[0].strip().lower() == ContentType.FORM

    @property
    def has_templates(self) -> bool:
        return any(map(is_template, (self.payload_url, self.additional_headers, self.body_template)))

    @property
    def actions(self) -> list[Action]:
        return [action for name, action in ACTION_FIELDS.items() if getattr(self, name)]


def _normalized_names(names: Any) -> Any:
    """Strip the names and drop repeats. Returns anything but a list of strings as it is, for validation to refuse."""
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return list(dict.fromkeys(name.strip() for name in names)) if is_list else names
