"""Webhooks: their settings, and what a save of them means."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import IntegrityError, models, router, transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from webhooks import hooks
from webhooks.ground.conf import MAX_TIMEOUT
from webhooks.ground.db import DatabaseNow
from webhooks.ground.security import url_policy
from webhooks.ground.security.encryption import Secret
from webhooks.ground.text import clean, username_of
from webhooks.models import validators
from webhooks.models.columns import EMPTY, EMPTY_LIST, USERNAME_LENGTH, alters_data, default
from webhooks.models.event import Action
from webhooks.models.webhook_secrets import CREDENTIAL_FIELDS, SENT_CREDENTIALS, WebhookSecrets
from webhooks.models.webhook_states import NO_FAILURES, ActiveManager, WebhookState, WithDeletedManager

if TYPE_CHECKING:
    from typing import Self

ACTION_FIELDS = {"on_created": Action.CREATED, "on_updated": Action.UPDATED, "on_deleted": Action.DELETED}

# The settings of a webhook in the sections and the order of its form. REST, the comparison with what another user saved
# meanwhile, and the permissions below follow: a new setting needs its field, and its name here.
SECTIONS = {
    "general": ("name", "payload_url", "object_types", *ACTION_FIELDS, "custom_events", "enabled"),
    "security": ("secret", "ssl_verification", "ca_file_path"),
    "filters": ("conditions", "changed_fields", "only_changes", "excluded_usernames"),
    "request": (
        "http_method", "content_type", "body_template", "static_data", "additional_headers", "secret_headers",
        "serializer", "prechange", "send_trace",
    ),
    "delivery": ("ordered", "timeout"),
    "about": ("description", "identifier"),
}  # fmt: skip
SETTINGS = tuple(chain.from_iterable(SECTIONS.values()))

# Only users who may change a webhook see these, for they may contain tokens.
TOKEN_FIELDS = ("additional_headers", "body_template")
TEMPLATE_FIELDS = ("payload_url", *TOKEN_FIELDS)

# A change of these sends data to another receiver, or lets others read it on the way.
DESTINATION_FIELDS = ("payload_url", "ssl_verification", "ca_file_path")

# A change of these neither sends more data nor reveals any. Models and ``enabled`` have their own checks.
HARMLESS_FIELDS = {
    "name", "identifier", "description", "enabled", "object_types", "custom_events", "http_method", "content_type",
    "timeout", "ordered",
}  # fmt: skip

# A change of all others sends more data, or reveals data by whether something is sent.
CONTENT_FIELDS = tuple(
    name for name in SETTINGS if name not in {*DESTINATION_FIELDS, *CREDENTIAL_FIELDS, *HARMLESS_FIELDS}
)

# The fields that ``normalize`` may rewrite.
NORMALIZED_FIELDS = {
    "identifier",
    "conditions",
    "static_data",
    "changed_fields",
    "excluded_usernames",
    *SENT_CREDENTIALS,
}

CONFLICT = _("Meanwhile another webhook of this name was saved, or this webhook was changed. Load it again.")
NO_ACTION = _("Choose at least one action (created, updated, deleted) or one custom event.")


# What judges a webhook as a whole: each returns the invalid fields with their reasons. ``apps`` fills it.
find_errors: list[Callable[[Webhook], dict[str, str]]] = []


class MediaType(models.TextChoices):
    """The usual content types. A webhook may have any other."""

    JSON = "application/json", "JSON"
    FORM = "application/x-www-form-urlencoded", _("form")


class Method(models.TextChoices):
    """The HTTP methods of a request. Each sends the body."""

    GET = "GET", "GET"
    POST = "POST", "POST"
    PUT = "PUT", "PUT"
    PATCH = "PATCH", "PATCH"
    DELETE = "DELETE", "DELETE"


class Webhook(WebhookSecrets, WebhookState):
    """An admin's rule: send changes of these models to this URL, in this format."""

    name = models.CharField(
        _("name"),
        max_length=150,
        unique=True,
        validators=[validators.check_visible],
        help_text=_("A name for lists and messages, such as “CMDB sync”."),
    )
    identifier = models.CharField(
        _("identifier"),
        max_length=100,
        unique=True,
        null=True,  # several webhooks may have none
        blank=True,
        validators=[validators.check_identifier],
        help_text=_("A name that does not change, for files and scripts, such as “cmdb-sync”. It may be empty."),
    )
    description = models.TextField(
        _("description"), **EMPTY, help_text=_("What the receiver does, and whom to ask about it.")
    )
    enabled = models.BooleanField(
        _("enabled"),
        **default(True),
        help_text=_(
            "While this is off, changes are skipped. “Recover skipped…” sends their objects later. "
            "What is not sent yet waits."
        ),
    )
    object_types = models.ManyToManyField(
        ContentType,
        related_name="+",
        blank=True,
        verbose_name=_("models"),
        help_text=_("Changes of these models are sent."),
    )
    on_created = models.BooleanField(_("created"), **default(False), help_text=_("Send when an object is created."))
    on_updated = models.BooleanField(_("updated"), **default(False), help_text=_("Send when an object is updated."))
    on_deleted = models.BooleanField(_("deleted"), **default(False), help_text=_("Send when an object is deleted."))
    custom_events = models.JSONField(
        _("custom events"), **EMPTY_LIST, help_text=_("Events sent by code; they do not depend on the selected models.")
    )
    serializer = models.CharField(
        _("serializer"),
        max_length=50,
        **EMPTY,
        help_text=_("The name of the serializer for the data of a change. Empty: the default one of each model."),
    )
    conditions = models.JSONField(
        _("conditions"),
        null=True,
        blank=True,
        help_text=_("Send only changes that match these conditions, in NetBox's format. Empty: every change."),
    )
    changed_fields = models.JSONField(
        _("only if these fields changed"),
        **EMPTY_LIST,
        help_text=_(
            "Field names, such as: status, tags. Skips updates that change none of these fields. Empty: every update. "
            "Creations and deletions are always sent."
        ),
    )
    only_changes = models.BooleanField(
        _("skip updates that change nothing"), **default(False), help_text=_("For example a save of the same values.")
    )
    prechange = models.BooleanField(
        _("include previous state"),
        **default(False),
        help_text=_("Add the state before an update to the payload. This costs a query for each update."),
    )
    excluded_usernames = models.JSONField(
        _("ignored users"),
        **EMPTY_LIST,
        validators=[validators.check_usernames],
        help_text=_("Changes by these users are not sent. Enter the user of a receiver that writes back."),
    )
    payload_url = models.CharField(
        _("payload URL"),
        max_length=500,
        help_text=_(
            "The address of the receiver: each change is sent there. Parts may come from the change: "
            "https://…/{{ data.id }}."
        ),
    )
    http_method = models.CharField(
        _("HTTP method"),
        max_length=10,
        choices=Method.choices,
        **default(Method.POST),
        help_text=_("Most receivers expect POST. Each method sends the body."),
    )
    content_type = models.CharField(
        _("content type"),
        max_length=100,
        **default(MediaType.JSON),
        validators=[validators.check_media_type],
        help_text=_(
            "Sent as the Content-Type header: application/json, application/x-www-form-urlencoded, or any other."
        ),
    )
    additional_headers = models.TextField(
        _("additional headers"), **EMPTY, help_text=_("A template with one “Name: value” a line.")
    )
    body_template = models.TextField(
        _("body template"),
        **EMPTY,
        help_text=_("A template for another body. Empty: the whole payload, as JSON or as a form."),
    )
    send_trace = models.BooleanField(
        _("send trace context"),
        **default(False),
        help_text=_("Send the header traceparent of OpenTelemetry, so that the receiver continues the trace."),
    )
    static_data = models.JSONField(
        _("static data"),
        null=True,
        blank=True,
        help_text=_("Keys that each payload gets in its data, unless the data has them: a JSON object. Empty: none."),
    )
    ssl_verification = models.BooleanField(
        _("TLS verification"), **default(True), help_text=_("Refuse a receiver without a trusted certificate.")
    )
    ca_file_path = models.CharField(
        _("CA file"),
        max_length=4096,
        **EMPTY,
        help_text=_("A PEM file on the worker's machine. Its certificates replace the usual trusted ones."),
    )
    timeout = models.PositiveSmallIntegerField(
        _("timeout"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(MAX_TIMEOUT)],
        help_text=format_lazy(
            _("Seconds for a whole attempt, 1 to {most}. Empty: the setting TIMEOUT."), most=MAX_TIMEOUT
        ),
    )
    ordered = models.BooleanField(
        _("ordered"),
        **default(True),
        help_text=_("Send the changes of one object one after the other, each after the one before has ended."),
    )

    created = models.DateTimeField(_("created"), auto_now_add=True)
    last_updated = models.DateTimeField(_("last updated"), auto_now=True)

    objects = ActiveManager()
    with_deleted = WithDeletedManager()

    new_object_types: Collection[ContentType] | None = None
    """Set by a form or serializer before ``clean``: the models to validate, which are saved after the row."""

    class Meta:
        verbose_name, verbose_name_plural = _("webhook"), _("webhooks")
        ordering = ["name"]
        base_manager_name = "with_deleted"  # for delivery.webhook, too
        permissions = [("chain_webhook", "Can say by X-Webhook-Depth that a webhook caused its changes")]
        constraints = [
            models.CheckConstraint(
                condition=Q(on_created=True) | Q(on_updated=True) | Q(on_deleted=True) | ~Q(custom_events=[]),
                name="rq_webhooks_webhook_wants_an_action",
                violation_error_message=NO_ACTION,
            )
        ]

    def __str__(self) -> str:
        return self.name

    _loaded: Mapping[str, Any] = MappingProxyType({})
    """The settings as they were read, or written and committed, last: see ``_settings``. For ``save``."""

    @classmethod
    def from_db(cls, *args: Any, **kwargs: Any) -> Self:
        webhook = super().from_db(*args, **kwargs)
        webhook._remember(webhook._settings())
        return webhook

    def refresh_from_db(self, using: Any = None, fields: Any = None, **kwargs: Any) -> None:  # type: ignore[override]
        super().refresh_from_db(using, fields, **kwargs)
        self._remember(self._settings(fields))

    def _settings(self, fields: Collection[str] | None = None) -> dict[str, Any]:
        """The settings of this instance, JSON as text: code may change a list in place."""
        names = [name for name in SETTINGS if name in self.__dict__ and (fields is None or name in fields)]
        values = {name: self.__dict__[name] for name in names}
        return {name: [json.dumps(item)] if isinstance(item, list | dict) else item for name, item in values.items()}

    def _remember(self, settings: Mapping[str, Any]) -> None:
        self._loaded = {**self._loaded, **settings}

    @alters_data
    def save(self, *args: Any, **kwargs: Any) -> None:
        """Insert or update the row. An update writes the settings that changed since this instance was loaded.

        Workers own the other columns, and sometimes disable a webhook: a form that was open meanwhile reverts nothing.
        With ``update_fields``, these columns are written as they are. Raises what ``save_settings`` raises.
        """
        is_new = not self.pk or self._state.adding or kwargs.get("force_insert")
        if is_new or kwargs.get("update_fields") is not None:
            self._write(*args, **kwargs)
            return
        settings = self._settings().items()
        changed = {name for name, value in settings if name not in self._loaded or self._loaded[name] != value}
        self.save_settings(changed, using=kwargs.get("using"))

    def _write(self, *args: Any, stored: Webhook | None = None, **kwargs: Any) -> None:
        """``stored`` is the row, if the caller has locked it in a transaction."""
        fields = kwargs.get("update_fields")
        using = kwargs.get("using") or router.db_for_write(Webhook, instance=self)
        rows = type(self).objects.using(using).filter(pk=self.pk)
        was_enabled = stored.enabled if stored else None
        if "enabled" in (self.__dict__ if fields is None else fields):
            if self.pk and not stored:
                was_enabled = rows.values_list("enabled", flat=True).first()
            written = {"disabled_at", "disabled_by"}
            if self.enabled:
                self.disabled_at, self.disabled_by = None, ""
                if was_enabled is False or self.disabled_reason:
                    # Else its next failure could disable it again: it would count as failing all the time.
                    cleared = {"disabled_reason": "", **NO_FAILURES}
                    for name, value in cleared.items():
                        setattr(self, name, value)
                    written |= cleared.keys()
            elif was_enabled is not False:
                self.disabled_at = timezone.now()
            if fields is not None:
                kwargs["update_fields"] = {*fields, *written}
        with transaction.atomic(using, savepoint=stored is None):
            super().save(*args, **kwargs)
            if was_enabled is False and self.enabled:
                rows.update(resumed_at=DatabaseNow())
            # Not before: a transaction that is rolled back may be tried again, and must write them again.
            transaction.on_commit(partial(self._remember, self._settings(kwargs.get("update_fields"))), using)

    @alters_data
    def delete(self, using: str | None = None, keep_parents: bool = False) -> tuple[int, dict[str, int]]:
        """Hide and disable the webhook at once. The sweep deletes its deliveries and then the row."""
        using = using or router.db_for_write(Webhook, instance=self)
        return Webhook.objects.using(using).filter(pk=self.pk).delete()

    @alters_data
    def save_settings(
        self, changed: Collection[str], user: object = "", using: str | None = None, stored: Webhook | None = None
    ) -> bool:
        """Save only the fields that a user changed. Keep what workers, other users and key rotation wrote meanwhile.
        Returns whether this enables the webhook.

        "secret" in ``changed`` starts an overlap with the stored secret. "previous_secret" ends an overlap. If this
        disables the webhook, ``user`` did it. Raises DoesNotExist if the row was deleted meanwhile, and IntegrityError
        if secret headers would go to a receiver that was not validated together with them. Validate first: the row
        stays locked until the end of the transaction, and workers wait for it. ``stored`` is the row, if the caller
        has locked it.
        """
        using = using or router.db_for_write(Webhook, instance=self)
        with transaction.atomic(using, savepoint=stored is None):
            stored = stored or Webhook.objects.using(using).select_for_update(no_key=True).get(pk=self.pk)
            self._refuse_unseen_receiver(stored, {*changed})
            secret = self.secret
            for field in self._meta.concrete_fields:
                if field.name in {"secret", "previous_secret"} or field.name not in changed:
                    setattr(self, field.attname, getattr(stored, field.attname))
            if stored.enabled and not self.enabled:
                self.disabled_by = clean(username_of(user), USERNAME_LENGTH)
            if "secret" in changed:
                self.replace_secret(secret)
            if "previous_secret" in changed:
                self.forget_previous_secret()
            self._write(using=using, stored=stored)
            if self.enabled != stored.enabled:
                name = "webhook_resumed" if self.enabled else "webhook_disabled"
                hooks.announce(name, using, lambda: [self.as_changed(user)])
            return self.enabled and not stored.enabled

    def _refuse_unseen_receiver(self, stored: Webhook, changed: Collection[str]) -> None:
        """One user may have entered secret headers while another one changed the receiver."""
        for name in SENT_CREDENTIALS:
            together = {name, *DESTINATION_FIELDS}
            is_used = getattr(self if name in changed else stored, name)
            if not is_used or together.isdisjoint(changed):
                continue
            if any(getattr(self, column) != getattr(stored, column) for column in together.difference(changed)):
                raise IntegrityError(CONFLICT)

    def as_changed(self, user: object = "") -> hooks.WebhookChange:
        """The webhook as hooks see it, after a change by this user, or by a worker."""
        failure = self.disabled_reason, self.last_failure, self.error_kind
        return hooks.WebhookChange(
            self.pk, self.name, username_of(user), *failure, url_policy.redacted(self.payload_url)
        )

    @property
    def is_paused(self) -> bool:
        """Whether a user paused it, or its failures did."""
        return self.enabled and (self.probe_at is not None or self.paused_at is not None)

    @property
    def is_sendable(self) -> bool:
        return self.enabled and not self.is_paused

    def clean(self) -> None:
        self.normalize()
        if errors := {name: reason for find in find_errors for name, reason in find(self).items()}:
            raise ValidationError(errors)

    def normalize(self) -> None:
        """Write settings as they are stored: an empty value in one way only, and names stripped and once each."""
        self.identifier = self.identifier or None  # a form has an empty text, and several webhooks may have none
        self.conditions = self.conditions or None
        self.static_data = self.static_data or None
        self.changed_fields = _normalized_names(self.changed_fields)
        self.excluded_usernames = _normalized_names(self.excluded_usernames)
        for name in SENT_CREDENTIALS:
            if not getattr(self, name).problem and not getattr(self, name).reveal().strip():
                setattr(self, name, Secret())

    @property
    def is_form(self) -> bool:
        """Whether the payload is sent as a form, unless a template writes the body."""
        return self.content_type.partition(";")[0].strip().lower() == MediaType.FORM

    @property
    def has_filters(self) -> bool:
        """Whether it may skip a change of its models and actions."""
        return any(getattr(self, name) for name in SECTIONS["filters"])

    @property
    def actions(self) -> list[Action]:
        return [action for name, action in ACTION_FIELDS.items() if getattr(self, name)]


def _normalized_names(names: Any) -> Any:
    """Strip the names and drop repeats. Returns anything but a list of strings as it is, for validation to refuse."""
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return list(dict.fromkeys(name.strip() for name in names)) if is_list else names
