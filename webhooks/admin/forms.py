"""The form that defines a webhook."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ValidationError
from django.utils.html import escape, format_html

from webhooks import permissions, registry
from webhooks.admin.display import exactly
from webhooks.admin.fields import (
    CODE,
    ConditionsField,
    LinesField,
    ModelsField,
    NamesField,
    SecretField,
    SecretLinesField,
    SuggestingInput,
)
from webhooks.models import ContentType as BodyType
from webhooks.models import Webhook
from webhooks.models.webhook import ACTION_FIELDS, NO_ACTION, SECRET_HEADERS_LENGTH, SECRET_LENGTH
from webhooks.registry import label_of, registered_object_types
from webhooks.security.encryption import Secret


class WebhookForm(forms.ModelForm):
    """``user`` is whose rights decide; without one, nobody's do."""

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
    changed_fields = NamesField(
        required=False,
        label="Only if these fields changed",
        widget=forms.TextInput(attrs={"class": "vTextField"}),
        help_text="Field names, such as: status, tags. Skips updates that change none of these fields. Empty: every "
        "update. Creations and deletions are always sent.",
    )
    excluded_usernames = LinesField(
        required=False,
        label="Ignored users",
        help_text="Changes by these users are not sent. Enter the user of a receiver that writes back. One name a "
        "line.",
    )
    secret = SecretField(
        required=False,
        max_length=SECRET_LENGTH,
        help_text="Signs each request, so that the receiver can verify the sender.",
    )
    clear_secret = forms.BooleanField(
        required=False, label="Clear the secret", help_text="Requests are no longer signed."
    )
    forget_previous_secret = forms.BooleanField(required=False, label="Stop signing with the replaced secret now")
    secret_headers = SecretLinesField(
        required=False,
        max_length=SECRET_HEADERS_LENGTH,
        help_text="Headers that stay hidden, such as Authorization. One “Name: value” a line.",
    )
    clear_secret_headers = forms.BooleanField(required=False, label="Clear the secret headers")

    class Meta:
        model = Webhook
        fields = "__all__"
        widgets = {
            # Not an input of type "url": browsers refuse templates in it.
            "payload_url": forms.TextInput(attrs={"class": "vURLField", "spellcheck": "false"}),
            "serializer": SuggestingInput([], {"class": "vTextField"}),
            "content_type": SuggestingInput(BodyType.values, {"class": "vTextField"}),
            "additional_headers": forms.Textarea(attrs=CODE | {"rows": 4}),
            "body_template": forms.Textarea(attrs=CODE | {"rows": 10}),
        }

    def __init__(self, data: Any = None, files: Any = None, **kwargs: Any) -> None:
        # By name: in a tuple of arguments, Django's reports of errors would not star out what was entered.
        super().__init__(data, files, **kwargs)
        self._notice_switches()
        self.stored = {name: getattr(self.instance, name) for name in ("secret", "secret_headers")}
        self._offer_models()
        self._offer_what_is_registered()
        self._tell_of_what_is_hidden()
        self._offer_to_clear()
        self._offer_to_forget_the_replaced_secret()

    def _offer_models(self) -> None:
        field = self.fields["object_types"]
        field.queryset = registered_object_types()  # type: ignore[attr-defined]
        field.help_text = self._dropped()

    def _notice_switches(self) -> None:
        """The form says how it was when it was opened: what a worker disabled since is not enabled by saving it."""
        says = self.add_initial_prefix("enabled") in self.data
        if self.instance.pk and "enabled" in self.fields and (says or not self.is_bound):
            self.fields["enabled"].show_hidden_initial = True

    def _dropped(self) -> str:
        """A warning of the models that were chosen once and are no longer registered."""
        if not self.instance.pk:
            return ""
        registered = self.fields["object_types"].queryset  # type: ignore[attr-defined]
        dropped = self.instance.object_types.exclude(pk__in=registered.values("pk"))
        names = ", ".join(map(label_of, dropped))
        return f"Chosen too, but no longer registered, and dropped when you save: {escape(names)}." if names else ""

    def _offer_what_is_registered(self) -> None:
        self.fields["custom_events"].choices = self._events()  # type: ignore[attr-defined]
        if "serializer" in self.fields:  # not where it is only read
            self.fields["serializer"].widget.suggestions = registry.serializer_names()
        for name in {"custom_events", "serializer"} - set(offered(self.instance)):
            self.fields.pop(name, None)

    def _events(self) -> list[tuple[str, str]]:
        """Those that are registered; one that was chosen and no longer is can be seen, and is refused if it stays."""
        known = registry.custom_events()
        gone = {name: f"{name} (no longer registered)" for name in self.instance.custom_events if name not in known}
        return [*((name, f"{label} ({name})") for name, label in known.items()), *gone.items()]

    def _tell_of_what_is_hidden(self) -> None:
        for name in self.stored:
            self.fields[name].help_text = self._about(name)

    def _about(self, name: str) -> str:
        about = f"{self.fields[name].help_text} What is entered is never shown again."
        keep = "Leave this empty to keep it. " if self.stored[name] else ""
        return f"{in_words(self.instance, name)} {keep}{about}"

    def _offer_to_clear(self) -> None:
        for name, stored in self.stored.items():
            if not stored:
                del self.fields[f"clear_{name}"]

    def _offer_to_forget_the_replaced_secret(self) -> None:
        until = self.instance.previous_secret_until
        if until and self.instance.previous_secret:
            told = format_html("Beside the new one, it signs until {}.", exactly(until))
            self.fields["forget_previous_secret"].help_text = told
        else:
            del self.fields["forget_previous_secret"]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        self.instance.new_object_types = list(cleaned.get("object_types") or [])
        if not any(cleaned.get(name) for name in (*ACTION_FIELDS, "custom_events")):
            self.add_error("on_created", ValidationError(NO_ACTION, code="required"))
        self._refuse_to_send()
        self._refuse_to_change()
        cleaned["secret_headers"] = self._kept(cleaned, "secret_headers")
        cleaned["secret"] = self._kept(cleaned, "secret")
        return cleaned

    @property
    def changed_settings(self) -> set[str]:
        """The fields of the webhook that this form changes."""
        return {name.removeprefix("clear_").removeprefix("forget_") for name in self.changed_data}

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if self.errors:
            self._ask_again()

    def _ask_again(self) -> None:
        """Whoever corrects something else does not see that a secret that was entered is gone."""
        for name in self.stored:
            if self[name].data and name not in self.errors:
                self.add_error(name, "Enter it again: nothing was saved, and what was entered is not shown.")

    def _refuse_to_send(self) -> None:
        before = set(self.instance.object_types.all()) if self.instance.pk else set()
        if self.user and (
            refusal := permissions.refusal_to_send(self.user, set(self.instance.new_object_types) - before)
        ):
            self.add_error("object_types", refusal)

    def _refuse_to_change(self) -> None:
        if not self.user or not self.instance.pk:
            return
        stored = Webhook.objects.get(pk=self.instance.pk)
        changed = permissions.guarded_changes(stored, self.cleaned_data)
        if changed and (refusal := permissions.refusal_to_change(self.user, stored, changed)):
            self.add_error(changed[0], refusal)
        if any(name in permissions.WHERE_TO for name in changed):
            is_entered = any(name in self.changed_data for name in ("secret_headers", "clear_secret_headers"))
            if refusal := permissions.refusal_to_take_along(stored, is_entered):
                self.add_error("secret_headers", refusal)

    def _kept(self, cleaned: dict[str, Any], name: str) -> Secret:
        entered: Secret = cleaned.get(name) or Secret()
        if not cleaned.get(f"clear_{name}"):
            return entered or self.stored[name]
        if entered:
            self.add_error(f"clear_{name}", "Either enter something new or clear what is set, not both.")
        return Secret()


def offered(webhook: Webhook | None) -> list[str]:
    """The fields that are of use only where the site has registered something for them."""
    registered = {"custom_events": registry.custom_events(), "serializer": registry.serializer_names()}
    return [name for name, known in registered.items() if known or (webhook and getattr(webhook, name))]


WORDS = {
    "secret": ("A secret is set", "No secret is set: requests are not signed."),
    "secret_headers": ("A text with secret headers is set", "No secret headers are set."),
}


def in_words(webhook: Webhook, name: str) -> str:
    """What may be known of a field that is not shown."""
    secret: Secret = getattr(webhook, name)
    is_set, is_not = WORDS[name]
    if secret.problem:
        return f"{is_set}, but no attempt can be made with it: {secret.problem}."
    return f"{is_set}." if secret else is_not
