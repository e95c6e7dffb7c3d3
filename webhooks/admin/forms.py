"""The form for a webhook."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ValidationError
from django.utils.html import escape, format_html

from webhooks import permissions, registry
from webhooks.admin.display import exact_time
from webhooks.admin.fields import (
    CODE,
    ConditionsField,
    EmptyTextarea,
    FieldNamesField,
    ListField,
    ModelsField,
    SuggestingInput,
    WriteOnlyField,
)
from webhooks.models import ContentType as BodyType
from webhooks.models import Webhook
from webhooks.models.webhook import ACTION_FIELDS, NO_ACTION, SECRET_HEADERS_LENGTH, SECRET_LENGTH
from webhooks.registry import label_of, registered_object_types
from webhooks.security.encryption import Secret


class WebhookForm(forms.ModelForm):
    """``user`` must have permission for the changes. Without a user, nothing is checked."""

    user: ClassVar[Any] = None

    object_types = ModelsField(queryset=ContentType.objects.none(), label="Models", required=False)
    custom_events = forms.MultipleChoiceField(
        required=False,
        widget=forms.CheckboxSelectMultiple,
        label="Custom events",
        help_text="Events sent by code; they do not depend on the selected models.",
    )
    conditions = ConditionsField(
        required=False, help_text="Send only changes that match these conditions. Empty: every change."
    )
    changed_fields = FieldNamesField(
        required=False,
        label="Only if these fields changed",
        help_text="Field names, such as: status, tags. Skips updates that change none of these fields. Empty: every "
        "update. Creations and deletions are always sent.",
    )
    excluded_usernames = ListField(
        required=False,
        label="Ignored users",
        help_text="Changes by these users are not sent. Enter the user of a receiver that writes back. One name a "
        "line.",
    )
    secret = WriteOnlyField(
        required=False,
        max_length=SECRET_LENGTH,
        widget=forms.PasswordInput(attrs={"class": "vTextField", "autocomplete": "new-password"}, render_value=False),
        help_text="Signs each request, so that the receiver can verify the sender.",
    )
    clear_secret = forms.BooleanField(
        required=False, label="Clear the secret", help_text="Requests are no longer signed."
    )
    forget_previous_secret = forms.BooleanField(required=False, label="Stop signing with the previous secret now")
    secret_headers = WriteOnlyField(
        required=False,
        max_length=SECRET_HEADERS_LENGTH,
        widget=EmptyTextarea(
            attrs={"class": "vLargeTextField", "rows": 3, "autocomplete": "off", "spellcheck": "false"}
        ),
        help_text="Headers that stay hidden, such as Authorization. One “Name: value” a line.",
    )
    clear_secret_headers = forms.BooleanField(required=False, label="Clear the secret headers")

    class Meta:
        model = Webhook
        fields = "__all__"
        widgets = {
            # Browsers refuse templates in an input of type "url".
            "payload_url": forms.TextInput(attrs={"class": "vURLField", "spellcheck": "false"}),
            "serializer": SuggestingInput([], {"class": "vTextField"}),
            "content_type": SuggestingInput(BodyType.values, {"class": "vTextField"}),
            "additional_headers": forms.Textarea(attrs=CODE | {"rows": 4}),
            "body_template": forms.Textarea(attrs=CODE | {"rows": 10}),
        }

    def __init__(self, data: Any = None, files: Any = None, **kwargs: Any) -> None:
        # Named arguments: Django's error reports hide ``data``, but not ``*args``.
        super().__init__(data, files, **kwargs)
        self.stored_secrets = {name: getattr(self.instance, name) for name in ("secret", "secret_headers")}
        self._detect_concurrent_switch()
        self._offer_models()
        self._offer_registered()
        self._describe_secrets()

    def _detect_concurrent_switch(self) -> None:
        """Remember "enabled" as it was when the form was opened: a worker may disable the webhook before the save."""
        has_initial = self.add_initial_prefix("enabled") in self.data
        if self.instance.pk and "enabled" in self.fields and (has_initial or not self.is_bound):
            self.fields["enabled"].show_hidden_initial = True

    def _offer_models(self) -> None:
        field: Any = self.fields["object_types"]
        field.queryset = registered_object_types()
        field.help_text = ""
        if self.instance.pk:
            dropped = self.instance.object_types.exclude(pk__in=field.queryset.values("pk"))
            if names := ", ".join(map(label_of, dropped)):
                field.help_text = f"No longer registered, and removed when you save: {escape(names)}."

    def _offer_registered(self) -> None:
        """Offer registered custom events and serializers, and the chosen ones: these stay visible."""
        events = registry.custom_events()
        gone = [(name, f"{name} (no longer registered)") for name in self.instance.custom_events if name not in events]
        choices = [(name, f"{label} ({name})") for name, label in events.items()]
        self.fields["custom_events"].choices = choices + gone  # type: ignore[attr-defined]
        if "serializer" in self.fields:  # a user without permission to change webhooks has no such field
            self.fields["serializer"].widget.suggestions = registry.serializer_names()
        for name in {"custom_events", "serializer"} - set(optional_fields(self.instance)):
            self.fields.pop(name, None)

    def _describe_secrets(self) -> None:
        for name, stored in self.stored_secrets.items():
            keep = "Leave this empty to keep it. " if stored else ""
            about = f"{self.fields[name].help_text} The value is never shown again."
            self.fields[name].help_text = f"{describe_secret(self.instance, name)} {keep}{about}"
            if not stored:
                del self.fields[f"clear_{name}"]
        until = self.instance.previous_secret_until
        if until and self.instance.previous_secret:
            text = format_html("It signs together with the new one until {}.", exact_time(until))
            self.fields["forget_previous_secret"].help_text = text
        else:
            del self.fields["forget_previous_secret"]

    @property
    def changed_settings(self) -> set[str]:
        """The fields of the webhook that this form changes."""
        return {name.removeprefix("clear_").removeprefix("forget_") for name in self.changed_data}

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        self.instance.new_object_types = list(cleaned.get("object_types") or [])
        if not any(cleaned.get(name) for name in (*ACTION_FIELDS, "custom_events")):
            self.add_error("on_created", ValidationError(NO_ACTION, code="required"))
        if self.user:
            self._check_permissions()
        for name, stored in self.stored_secrets.items():
            entered: Secret = cleaned.get(name) or Secret()
            if not cleaned.get(f"clear_{name}"):
                cleaned[name] = entered or stored
                continue
            if entered:
                self.add_error(f"clear_{name}", "Either enter a new value or clear the stored one, not both.")
            cleaned[name] = Secret()
        return cleaned

    def _check_permissions(self) -> None:
        """Users may only send what they may view, and secret headers do not follow to another receiver."""
        stored = Webhook.objects.get(pk=self.instance.pk) if self.instance.pk else None
        is_entered = not {"secret_headers", "clear_secret_headers"}.isdisjoint(self.changed_data)
        chosen = self.instance.new_object_types
        for name, reason in permissions.refusals(self.user, stored, self.cleaned_data, chosen, is_entered).items():
            self.add_error(name, reason)

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if not self.errors:
            return
        # The page does not show entered secrets again: a user who corrects another field would lose them.
        for name in self.stored_secrets:
            if self[name].data and name not in self.errors:
                self.add_error(name, "Enter it again: nothing was saved, and the entered value is not shown.")


def optional_fields(webhook: Webhook | None) -> list[str]:
    """The fields that are only useful if the site registered custom events or serializers."""
    registered = {"custom_events": registry.custom_events(), "serializer": registry.serializer_names()}
    return [name for name, known in registered.items() if known or (webhook and getattr(webhook, name))]


def describe_secret(webhook: Webhook, name: str) -> str:
    """Whether a secret value is stored and usable, without showing it."""
    secret: Secret = getattr(webhook, name)
    is_set, is_not_set = {
        "secret": ("A secret is set", "No secret is set: requests are not signed."),
        "secret_headers": ("Secret headers are set", "No secret headers are set."),
    }[name]
    if secret.problem:
        return f"{is_set}, but every attempt fails: {secret.problem}."
    return f"{is_set}." if secret else is_not_set
