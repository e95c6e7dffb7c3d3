from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Any

from django.contrib.contenttypes.models import ContentType as DjangoContentType
from django.core.exceptions import ValidationError
from django.core.validators import MaxLengthValidator, MaxValueValidator, MinValueValidator
from django.db import models, router, transaction
from django.utils import timezone

from webhooks.conf import conf
from webhooks.conf.rules import LONGEST_TIMEOUT
from webhooks.db import DatabaseNow
from webhooks.models.event import Action
from webhooks.models.querysets import AtHome, KeptWebhooks, WebhookQuerySet
from webhooks.models.validation import objections
from webhooks.models.validators import check_headers, check_media_type, check_secret, check_usernames, check_visible
from webhooks.payloads.templates import is_template
from webhooks.security.encrypted_field import EncryptedTextField
from webhooks.security.encryption import Secret

# Characters that may be entered. What is stored of them, encrypted, is longer.
SECRET_LENGTH, SECRET_HEADERS_LENGTH = 255, 8192

# What ``clean`` may put in another way than it was given.
TIDIED = {"conditions", "changed_fields", "excluded_usernames", "secret_headers"}

# What ``forget_failures`` clears.
FAILURES = {"disabled_reason", "failing_since", "probe_at", "failures_in_a_row", "probes"}

# The fields that say which actions are sent.
ACTION_FIELDS = {"on_created": Action.CREATED, "on_updated": Action.UPDATED, "on_deleted": Action.DELETED}

NO_ACTION = "Choose at least one action (created, updated, deleted) or one custom event."


class ContentType(models.TextChoices):
    """How the body of a request is usually written; a webhook may name any other."""

    JSON = "application/json", "JSON"
    FORM = "application/x-www-form-urlencoded", "form"


class Method(models.TextChoices):
    """The HTTP methods that a request may have. Each sends the body."""

    GET = "GET", "GET"
    POST = "POST", "POST"
    PUT = "PUT", "PUT"
    PATCH = "PATCH", "PATCH"
    DELETE = "DELETE", "DELETE"


class Webhook(models.Model):
    """What an admin defines: which changes of which models go to which URL, and how."""

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
        blank=True,
        default="",
        db_default="",
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
    additional_headers = models.TextField(
        blank=True, default="", db_default="", help_text="A template with one “Name: value” a line."
    )
    body_template = models.TextField(
        blank=True, default="", db_default="", help_text="A template for the body. Empty: the whole payload."
    )
    secret = EncryptedTextField(
        max_length=SECRET_LENGTH,
        blank=True,
        default="",
        db_default="",
        validators=[MaxLengthValidator(SECRET_LENGTH), check_secret],
        help_text="Signs each request, so that the receiver can verify the sender.",
    )
    previous_secret = EncryptedTextField(blank=True, default="", db_default="", editable=False)
    previous_secret_until = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Until then the previous secret signs, too."
    )
    secret_headers = EncryptedTextField(
        max_length=SECRET_HEADERS_LENGTH,
        blank=True,
        default="",
        db_default="",
        validators=[MaxLengthValidator(SECRET_HEADERS_LENGTH), check_headers],
        help_text="Headers that stay hidden, such as Authorization. One “Name: value” a line.",
    )
    ssl_verification = models.BooleanField(
        "TLS verification",
        default=True,
        db_default=True,
        help_text="Refuse a receiver without a trusted certificate.",
    )
    ca_file_path = models.CharField(
        "CA file",
        max_length=4096,
        blank=True,
        default="",
        db_default="",
        help_text="A PEM file on the worker's machine. Its certificates replace the usual trusted ones.",
    )
    timeout = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(LONGEST_TIMEOUT)],
        help_text=f"Seconds for a whole attempt, 1 to {LONGEST_TIMEOUT}. Empty: the setting TIMEOUT.",
    )
    ordered = models.BooleanField(
        default=True,
        db_default=True,
        help_text="Send the changes of one object one after the other, each after the one before has ended.",
    )

    # Kept by ``health``.
    last_success_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_failure_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_failure = models.TextField(blank=True, default="", db_default="", editable=False)
    failures_in_a_row = models.PositiveIntegerField(default=0, db_default=0, editable=False)
    failing_since = models.DateTimeField(null=True, blank=True, editable=False)
    probe_at = models.DateTimeField(null=True, blank=True, editable=False, help_text="Set while it is paused.")
    probes = models.PositiveIntegerField(default=0, db_default=0, editable=False)
    resumed_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="When sending last resumed after a stop."
    )
    disabled_reason = models.TextField(
        blank=True, default="", db_default="", editable=False, help_text="Why it was disabled automatically."
    )

    created = models.DateTimeField(auto_now_add=True)
    last_updated = models.DateTimeField(auto_now=True)

    deleted_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Set while its deliveries are being deleted."
    )

    objects = KeptWebhooks()
    with_deleted = AtHome.from_queryset(WebhookQuerySet)()

    # The models that are about to be picked: they are judged before they can be saved.
    picked: Collection[DjangoContentType] | None = None

    class Meta:
        ordering = ["name"]
        base_manager_name = "with_deleted"  # of a delivery, too
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
            # A person enables it again after it was disabled automatically: its failures count no longer.
            self.forget_failures()
            if fields is not None:
                kwargs["update_fields"] = {*fields, *FAILURES}
        rows = type(self).objects.using(self._state.db).filter(pk=self.pk)
        is_resumed = bool(is_enabled and self.pk) and rows.filter(enabled=False).exists()
        super().save(*args, **kwargs)
        if is_resumed:
            rows.update(resumed_at=DatabaseNow())

    def save_settings(self, changed: Collection[str]) -> None:
        """Save these fields, which a person changed, and nothing else: whatever workers, other people and a rotation of
        keys wrote since the row was loaded stays. A new ``secret`` takes over from the one that is stored;
        ``previous_secret`` forgets the one that was replaced. Raises DoesNotExist where it was deleted meanwhile.

        Validate it before: the row stays locked to the end of the transaction, and workers wait for it.
        """
        using = router.db_for_write(Webhook, instance=self)
        with transaction.atomic(using):
            stored = Webhook.objects.using(using).select_for_update(no_key=True).get(pk=self.pk)
            secret = self.secret
            for field in self._meta.concrete_fields:
                if field.name in {"secret", "previous_secret"} or field.name not in changed:
                    setattr(self, field.attname, getattr(stored, field.attname))
            if "secret" in changed:
                self.sign_with(secret)
            if "previous_secret" in changed:
                self.forget_previous_secret()
            self.save(using=using)

    def forget_failures(self) -> None:
        """As though it had never failed; save it to make that so."""
        self.disabled_reason = ""
        self.failing_since = self.probe_at = None
        self.failures_in_a_row = self.probes = 0

    def sign_with(self, secret: Secret) -> None:
        """Sign with this from now on. The secret that it replaces signs beside it for ``SECRET_OVERLAP``, so that
        receivers can change over without a gap; without a new secret nothing signs any more. Save it to make that so.
        """
        replaced, self.secret = self.secret, secret
        if secret == replaced:
            return
        self.forget_previous_secret()
        if secret and replaced and not replaced.problem and conf.secret_overlap:
            self.previous_secret = replaced
            self.previous_secret_until = timezone.now() + timedelta(seconds=conf.secret_overlap)

    def forget_previous_secret(self) -> None:
        """Sign with nothing but the secret itself; save it to make that so."""
        self.previous_secret, self.previous_secret_until = Secret(), None

    def overlapping_secret(self) -> str:
        """The secret that was replaced, as long as it signs, too. One that cannot be read does not keep the new one
        from signing: ``check --deploy`` tells of it."""
        is_over = self.previous_secret_until is None or self.previous_secret_until <= timezone.now()
        return "" if is_over or self.previous_secret.problem else self.previous_secret.reveal()

    @property
    def unreadable(self) -> list[str]:
        """What no key in the settings decrypts, in words: attempts fail until it is put right."""
        return [name.replace("_", " ") for name in ("secret", "secret_headers") if getattr(self, name).problem]

    @property
    def is_paused(self) -> bool:
        return self.enabled and self.probe_at is not None

    def clean(self) -> None:
        self._tidy()
        if found := objections(self):
            raise ValidationError(found)

    def _tidy(self) -> None:
        """Keep nothing that says nothing, whoever sent it: see ``TIDIED``."""
        self.conditions = self.conditions or None
        self.changed_fields = _each_once(self.changed_fields)
        self.excluded_usernames = _each_once(self.excluded_usernames)
        if not self.secret_headers.problem and not self.secret_headers.reveal().strip():
            self.secret_headers = Secret()

    @property
    def is_form(self) -> bool:
        """Whether the payload is written as a form, where no template writes the body."""
        said = self.content_type
        return said != ContentType.JSON and said.partition(";")[0].strip().lower() == ContentType.FORM

    @property
    def has_templates(self) -> bool:
        """Whether a template makes any part of its requests."""
        return any(map(is_template, (self.payload_url, self.additional_headers, self.body_template)))

    @property
    def actions(self) -> list[Action]:
        return [action for name, action in ACTION_FIELDS.items() if getattr(self, name)]


def _each_once(names: Any) -> Any:
    """The names without blanks around them, each once; what is no list of names stays, to be refused."""
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return list(dict.fromkeys(name.strip() for name in names)) if is_list else names
