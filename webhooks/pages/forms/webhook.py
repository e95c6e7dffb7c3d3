"""The form of a webhook, with its fields and widgets: models, lists, conditions, secrets.

It is a plain ``ModelForm``: any template shows it by ``{{ form }}`` and ``{{ form.media }}``.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from django import forms
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.forms.models import model_to_dict
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from webhooks.capture.conditions import OPERATORS
from webhooks.ground import registry
from webhooks.ground.registry import label_of, registered_object_types
from webhooks.ground.security.encryption import Secret, refuse_encrypted
from webhooks.insight.wording import exact_time, sentence, why_disabled
from webhooks.models import MediaType, Webhook
from webhooks.models.webhook import ACTION_FIELDS, NO_ACTION, SETTINGS
from webhooks.models.webhook_secrets import CLEAR_BOXES, CREDENTIAL_FIELDS, SECRET_FIELDS
from webhooks.operations.edits import (
    as_setting,
    changed_secrets,
    changed_since,
    is_posted_back,
    is_same,
    secret_tags,
    settings_of,
)
from webhooks.operations.webhooks import refusals, save_webhook
from webhooks.pages.forms.sections import FIELD_ORDER

ACTIONS_LABEL = "wh-actions"  # the id of the text before the three actions

TEXT = {"rows": 3, "spellcheck": "false"}
CODE = TEXT | {"class": "wh-code"}


class ModelsWidget(forms.CheckboxSelectMultiple):
    """Checkboxes with a heading for each app. Scripts add "all" and "none" to each heading, and a filter."""

    template_name = "rq_webhooks/forms/models_widget.html"


class ModelsField(forms.ModelMultipleChoiceField):
    widget = ModelsWidget

    def clean(self, value: Any) -> Any:
        try:
            return super().clean(value)
        except OverflowError as error:  # SQLite refuses some numbers only in the query
            raise ValidationError(_("Choose models of the list."), code="invalid_choice") from error


class FirstActionWidget(forms.CheckboxInput):
    """The first of the boxes for actions, after the text that introduces them all."""

    template_name = "rq_webhooks/forms/first_action.html"


class ConditionsWidget(forms.Textarea):
    """A text area for JSON, with the operators and texts from which a script builds rows."""

    template_name = "rq_webhooks/forms/conditions.html"
    words = {
        "sendIf": gettext_lazy("Send it if"),
        "combine": gettext_lazy("How conditions combine"),
        "all": gettext_lazy("all of these match"),
        "any": gettext_lazy("any of these matches"),
        "path": gettext_lazy("Path"),
        "operator": gettext_lazy("Operator"),
        "value": gettext_lazy("Value"),
        "not": gettext_lazy("not"),
        "add": gettext_lazy("Add a condition"),
        "remove": gettext_lazy("Remove"),
        "asJson": gettext_lazy("Edit as JSON"),
        "asRows": gettext_lazy("Edit as rows"),
        "onlyJson": gettext_lazy("Rows cannot show these conditions, so they are shown as JSON."),
        "try": gettext_lazy("Try it on the last events"),
        "ignored": gettext_lazy("A condition without a path and a value was ignored."),
        "failed": gettext_lazy("The preview failed:"),
    }

    def get_context(self, *args: Any) -> dict[str, Any]:
        operators = {name: {"words": one.words, "widget": one.widget} for name, one in OPERATORS.items()}
        return super().get_context(*args) | {"builder": {"operators": operators, "words": self.words}}


class SuggestingInput(forms.TextInput):
    """A text input with a list of common values."""

    template_name = "rq_webhooks/forms/suggestions.html"
    suggestions: Sequence[str] = ()

    def get_context(self, name: str, value: Any, attrs: Any) -> dict[str, Any]:
        suggested = {"list": f"{name}_suggestions"}
        return super().get_context(name, value, attrs | suggested) | {"suggestions": self.suggestions}


class EnteredTextField(forms.JSONField):
    """A JSON value, edited as text. A form with errors shows the text as it was entered."""

    def bound_data(self, data: Any, initial: Any) -> Any:
        return data


class ListField(EnteredTextField):
    """A list of names, edited as text with one name a line."""

    separator, separators = "\n", r"[\r\n]"

    def prepare_value(self, value: Any) -> Any:
        return self.separator.join(map(str, value)) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        return [name.strip() for name in re.split(self.separators, value or "") if name.strip()]

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool((initial or []) != self.to_python(data))


class FieldNamesField(ListField):
    """A list of names, edited as text with commas or spaces between the names."""

    separator, separators = ", ", r"[,\s]"


class JSONTextField(EnteredTextField):
    """Indented JSON text. Empty without a value."""

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, str):
            return value
        return json.dumps(value, ensure_ascii=False, indent=2) if value else ""

    def to_python(self, value: Any) -> Any:
        try:
            return super().to_python(value.strip() if isinstance(value, str) else value)
        except (ValidationError, ValueError, RecursionError) as error:  # a ValueError: a number with too many digits
            text = _("This is not JSON: %(error)s.") % {"error": error.__context__ or error}
            raise ValidationError(text, code="invalid") from error


class ConditionsField(JSONTextField):
    """A script replaces the text by rows if they can express the conditions."""


class WriteOnlyField(forms.CharField):
    """Never shows the stored or the entered value. An empty input changes nothing."""

    default_validators = [refuse_encrypted]

    def widget_attrs(self, widget: Any) -> dict[str, Any]:
        return super().widget_attrs(widget) | {"data-wh-secret": ""}  # scripts post none to try the other fields

    def prepare_value(self, value: Any) -> str:
        return ""

    def has_changed(self, initial: Any, data: Any) -> bool:
        # As ``clean`` sees it: white space alone is empty, and keeps the stored value.
        return bool(self.to_python(data))

    def clean(self, value: Any) -> Any:
        return Secret(super().clean(value))


class OpenedField(forms.CharField):
    """The stored settings as JSON, in a hidden input. A form that is shown again has the newest ones."""

    widget = forms.HiddenInput

    def bound_data(self, data: Any, initial: Any) -> Any:
        return initial

    def has_changed(self, initial: Any, data: Any) -> bool:
        return False


# A box after each secret, which clears it.
ClearBoxes = type(
    "ClearBoxes",
    (forms.Form,),
    {
        f"clear_{name}": forms.BooleanField(required=False, label=label, help_text=help_text)
        for name, (label, help_text) in CLEAR_BOXES.items()
    },
)


class WebhookForm(forms.ModelForm, ClearBoxes):  # type: ignore[misc,valid-type]
    """Define or change a webhook.

    ``user`` saves it, and needs permission for each change. ``preview_url`` answers the button “Try it on the last
    events”; without one there is no button. If ``is_trial``, the form is tried and not saved.
    """

    object_types = ModelsField(ContentType.objects.none(), label=gettext_lazy("Models"), required=False)
    custom_events = forms.MultipleChoiceField(
        required=False,
        widget=forms.CheckboxSelectMultiple,
        label=gettext_lazy("Custom events"),
        help_text=gettext_lazy("Events that code of this site sends. They do not depend on the selected models."),
    )
    forget_previous_secret = forms.BooleanField(
        required=False, label=gettext_lazy("Stop signing with the previous secret now")
    )
    opened = OpenedField(required=False)

    field_order = FIELD_ORDER

    class Media:
        css: ClassVar = {"all": ["rq_webhooks/form.css"]}
        js = ("rq_webhooks/conditions.js", "rq_webhooks/models.js")

    class Meta:
        model = Webhook
        fields = "__all__"
        field_classes = {
            "conditions": ConditionsField,
            "static_data": JSONTextField,
            "changed_fields": FieldNamesField,
            "excluded_usernames": ListField,
            **dict.fromkeys(CREDENTIAL_FIELDS, WriteOnlyField),
        }
        widgets = {
            # Browsers refuse templates in an input of type "url".
            "payload_url": forms.TextInput(
                {"autocomplete": "off", "spellcheck": "false", "placeholder": "https://cmdb.example.com/hooks"}
            ),
            "description": forms.Textarea({"rows": 2}),
            "on_created": FirstActionWidget,
            "conditions": ConditionsWidget(CODE | {"rows": 6, "data-wh-conditions": ""}),
            "changed_fields": forms.TextInput,
            "excluded_usernames": forms.Textarea(TEXT),
            "serializer": SuggestingInput,
            "content_type": SuggestingInput,
            "additional_headers": forms.Textarea(CODE),
            "body_template": forms.Textarea(CODE | {"rows": 6}),
            "static_data": forms.Textarea(CODE),
            **dict.fromkeys(CREDENTIAL_FIELDS, forms.PasswordInput({"autocomplete": "new-password"})),
            "secret_headers": forms.Textarea(TEXT | {"autocomplete": "off"}),
        }
        help_texts = dict.fromkeys(ACTION_FIELDS, "") | {  # the boxes have one label for all three
            "excluded_usernames": gettext_lazy(
                "Changes by these users are not sent. Enter the user of a receiver that writes back. One name a line."
            )
        }

    def __init__(
        self,
        data: Any = None,
        files: Any = None,
        *,
        user: Any,
        preview_url: str = "",
        is_trial: bool = False,
        initial: Any = None,
        instance: Webhook | None = None,
        **kwargs: Any,
    ) -> None:
        self.user, self.is_trial = user, is_trial
        if instance is None or instance.pk is None:
            initial = initial_values() | (initial or {})
        # Named arguments: Django's error reports hide ``data``, but not ``*args``.
        super().__init__(data, files, initial=initial, instance=instance, **kwargs)
        self.stored = settings_of(self.instance) if self.instance.pk else {}
        self.stored_secrets = {name: getattr(self.instance, name) for name in CREDENTIAL_FIELDS}
        self.stored_tags = secret_tags(self.instance) if self.instance.pk else {}
        self.opened_settings = json.dumps(self.stored | self.stored_tags)
        self.fields["opened"].initial = self.opened_settings
        if preview_url and "conditions" in self.fields:
            self.fields["conditions"].widget.attrs["data-url"] = preview_url
        if "name" in self.fields:  # to browsers, the form looks like one of a person with a new password
            self.fields["name"].widget.attrs["autocomplete"] = "off"
        for name in ACTION_FIELDS.keys() & self.fields.keys():
            self.fields[name].widget.attrs["aria-describedby"] = ACTIONS_LABEL
        # Remember "enabled" as it was when the form was opened: a worker may disable the webhook before the save.
        has_initial = self.add_initial_prefix("enabled") in self.data
        if self.instance.pk and "enabled" in self.fields and (has_initial or not self.is_bound):
            self.fields["enabled"].show_hidden_initial = True
        self._offer_choices()
        self._describe_secrets()
        for name in unused_fields(self.instance):
            self.fields.pop(name, None)
        self._show_fixed()
        for name, values in {"serializer": registry.serializer_names(), "content_type": MediaType.values}.items():
            if name in self.fields:
                self.fields[name].widget.suggestions = values

    def _offer_choices(self) -> None:
        """Offer registered models and events. The webhook's own stay visible even if they are no longer registered."""
        models: Any = self.fields["object_types"]
        registered = registered_object_types()
        models.queryset, models.choices = registered, _grouped_by_app(registered)
        if not self.instance.pk and self.is_trial:
            models.queryset = ContentType.objects.all()  # the trial of the filters does not know the stored webhook
        elif self.instance.pk and (kept := self._unregistered_types(registered)):
            models.queryset = registered | ContentType.objects.filter(pk__in=[one.pk for one in kept])
            boxes = [(one.pk, _("%(name)s (not registered)") % {"name": label_of(one)}) for one in kept]
            models.choices = [(_("Not registered"), boxes), *models.choices]
            models.help_text = _(
                "If a model is not registered, nothing of it is sent. It stays with the webhook until you uncheck it "
                "and save."
            )
        events: Any = self.fields["custom_events"]
        known = registry.custom_events(registry.reserved_for(self.instance.identifier))
        unknown = [name for name in self.instance.custom_events if name not in known]
        gone = [(name, _("%(name)s (no longer registered)") % {"name": name}) for name in unknown]
        events.choices = [(name, f"{label} ({name})") for name, label in known.items()] + gone

    def _unregistered_types(self, registered: QuerySet[ContentType]) -> list[ContentType]:
        """The models of the stored webhook that are not among these."""
        own = self.instance.object_types.exclude(pk__in=registered.values("pk"))
        return list(own.order_by("app_label", "model"))

    def _describe_secrets(self) -> None:
        """Say whether secrets are stored and usable, without showing them."""
        for name in self.stored_secrets.keys() & self.fields.keys():  # the form of a viewer has neither
            stored, text = self.stored_secrets[name], _("No value is stored.")
            if stored.problem:
                text = _("A value is stored, but nothing is sent: %(problem)s. Leave this empty to keep it.")
            elif stored:
                text = _("A value is stored. Leave this empty to keep it.")
            shown = text % {"problem": stored.problem}
            self.fields[name].help_text += f" {shown} {_('The value is never shown again.')}"
        if until := self.instance.previous_secret_until:
            text = _("It signs together with the new one until %(time)s.") % {"time": exact_time(until)}
            self.fields["forget_previous_secret"].help_text = text

    def _show_fixed(self) -> None:
        """Show the settings that only code changes."""
        reserved = registry.reserved_for(self.instance.identifier) if self.instance.pk else None
        if reserved is None:
            return
        for name in self.fields.keys() & {"identifier", *reserved.fixed}:
            self.fields[name].disabled, self.fields[name].help_text = True, reserved.remedy

    @property
    def changed_settings(self) -> set[str]:
        """The fields of the webhook that this form changes."""
        changed = {name.removeprefix("clear_").removeprefix("forget_") for name in self.changed_data}
        return {name for name in changed if not is_posted_back(self.cleaned_data.get(name), self.stored.get(name))}

    def _merge(self, cleaned: dict[str, Any]) -> dict[str, ValidationError]:
        """The settings that another user changed since the form was opened: its hidden field has earlier ones.

        Fields that the user of this form left alone now show the stored values. A second save is on purpose.
        """
        found = {}
        for name, opened in changed_since(self.data.get(self.add_prefix("opened"), ""), self.stored).items():
            entered = as_setting(cleaned[name]) if name in cleaned else None
            if name not in self.fields or (name in cleaned and is_same(entered, self.stored[name])):
                continue
            text = _(
                "This was changed while the form was open. The stored value is %(value)s. Save again to replace it "
                "with yours."
            )
            if name in cleaned and is_same(entered, opened):
                text = _(
                    "This was changed while the form was open. The field now shows the stored value, %(value)s. Save "
                    "again to keep it."
                )
                self._show_stored(name)
                stored = self.stored[name]
                cleaned[name] = ContentType.objects.filter(pk__in=stored) if name == "object_types" else stored
            found[name] = ValidationError(text, code="changed", params={"value": self._words(name)})
        return found

    def _merge_secrets(self, cleaned: dict[str, Any]) -> dict[str, ValidationError]:
        """The secrets that this form replaces or clears, and that another user changed since it was opened."""
        found = {}
        for name in changed_secrets(self.data.get(self.add_prefix("opened"), ""), self.stored_tags):
            if cleaned.get(f"clear_{name}"):
                text = _("Another value was stored while the form was open. Save again to clear it.")
                found[f"clear_{name}"] = ValidationError(text, code="changed")
            elif cleaned.get(name):
                text = _(
                    "Another value was stored while the form was open. Nothing was saved: to replace it, enter yours "
                    "again."
                )
                found[name] = ValidationError(text, code="changed")
        return found

    def _show_stored(self, name: str) -> None:
        """Fill a field with the stored value, as if the user had posted it."""
        data: Any = self.data.copy()  # type: ignore[attr-defined]
        self.data = data
        key, value = self.add_prefix(name), self.fields[name].prepare_value(self.stored[name])
        if isinstance(value, list):
            values = [*map(str, value)]
            data.setlist(key, values) if hasattr(data, "setlist") else data.update({key: values})
        elif value is False:
            data.pop(key, None)  # a box that is not ticked
        else:
            data[key] = "on" if value is True else "" if value is None else str(value)

    def _words(self, name: str) -> str:
        """A stored setting in words."""
        value = self.stored[name]
        if isinstance(value, bool):
            return _("on") if value else _("off")
        if name == "object_types":
            value = sorted(map(label_of, ContentType.objects.filter(pk__in=value)))
        if isinstance(value, list):
            value = ", ".join(map(str, value))
        shown = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value or "")
        return f"“{shown}”" if shown else _("empty")

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        conflicts = {} if self.is_trial else self._merge(cleaned) | self._merge_secrets(cleaned)
        self.instance.new_object_types = list(cleaned.get("object_types") or [])
        if not any(cleaned.get(name) for name in (*ACTION_FIELDS, "custom_events")):
            self.add_error("on_created", ValidationError(NO_ACTION, code="required"))
        self._check_permissions()
        for name, stored in self.stored_secrets.items():
            if name not in self.fields:
                continue
            entered: Secret = cleaned.get(name) or Secret()
            if not cleaned.get(f"clear_{name}"):
                cleaned[name] = entered or stored
            elif entered:
                self.add_error(f"clear_{name}", _("Either enter a new value or clear the stored one, not both."))
            else:
                cleaned[name] = Secret()
            # Django would keep the stored value if the posted form has no such field.
            setattr(self.instance, name, cleaned.get(name, stored))
        for name, conflict in conflicts.items():
            self.add_error(name, conflict)
        return cleaned

    def _check_permissions(self) -> None:
        """Refuse models that the user may not view, and the stored secret headers for another receiver."""
        stored = Webhook.objects.get(pk=self.instance.pk) if self.instance.pk else None
        changed, values = self.changed_settings, dict(self.cleaned_data)
        if "enabled" not in changed:
            values.pop("enabled", None)  # a worker may have disabled it since the form was opened
        chosen = self.instance.new_object_types
        for name, reason in refusals(self.user, stored, values, chosen, changed & {*CREDENTIAL_FIELDS}).items():
            self.add_error(name, reason)

    def _post_clean(self) -> None:
        super()._post_clean()
        if not self.errors or self.is_trial:
            return
        # The page does not show entered secrets again: a user who corrects another field would lose them.
        for name in self.stored_secrets:
            if name in self.changed_data and name not in self.errors:
                self.add_error(name, _("Enter it again: nothing was saved, and the entered value is not shown."))

    def save(self, commit: bool = True) -> Webhook:
        """Save by ``save_webhook``, and raise its exceptions. With ``commit=False``, save later by calling it again."""
        webhook: Webhook = super().save(commit=False)
        if not commit:
            return webhook
        changed = self.changed_settings if webhook.pk else self.cleaned_data.keys()
        values = {name: self.cleaned_data[name] for name in SETTINGS if name in changed}
        chosen = values.pop("object_types", None)
        if "previous_secret" in changed:
            values["forget_previous_secret"] = True
        save_webhook(webhook, values, chosen, self.user, opened=self.opened_settings, is_checked=True)
        return webhook

    def enabled_note(self) -> str:
        """After the save: what to say if the webhook was enabled or disabled while the form was open; empty if not."""
        webhook, name = self.instance, {"name": self.instance}
        if webhook.enabled == self.cleaned_data["enabled"]:
            return ""
        if webhook.enabled:
            text = _("“%(name)s” was enabled while its form was open. It stays enabled: change that if needed.")
            return text % name
        if webhook.disabled_reason:
            text = _(
                "“%(name)s” was disabled while its form was open: %(reason)s It stays disabled: change that if needed."
            )
            return text % (name | {"reason": sentence(why_disabled(webhook))})
        return _("“%(name)s” was disabled while its form was open. It stays disabled: change that if needed.") % name


def initial_values(original: Webhook | None = None) -> dict[str, Any]:
    """The first values of the form for a new webhook: all actions, or the settings of ``original`` without its
    secrets."""
    if original is None:
        return dict.fromkeys(ACTION_FIELDS, True)
    name = _("%(name)s (copy)") % {"name": original.name}
    return model_to_dict(original, exclude=["id", *SECRET_FIELDS]) | {"name": name[:150]}


def unused_fields(webhook: Webhook) -> set[str]:
    """The fields that offer nothing for this webhook: nothing is registered, there is nothing to clear, or only code
    changes the secret."""
    reserved = registry.reserved_for(webhook.identifier)
    secrets = {*CREDENTIAL_FIELDS}.intersection(reserved.fixed if reserved else ())
    uses = {
        "custom_events": registry.custom_events() or webhook.custom_events,
        "serializer": registry.serializer_names() or webhook.serializer,
        **{f"clear_{name}": getattr(webhook, name) for name in CREDENTIAL_FIELDS},
        "forget_previous_secret": webhook.previous_secret and webhook.previous_secret_until,
        "opened": webhook.pk,
        **dict.fromkeys([*secrets, *(f"clear_{name}" for name in secrets)]),
    }
    return {name for name, use in uses.items() if not use}


def _grouped_by_app(object_types: Iterable[ContentType]) -> list[tuple[str, list[tuple[int, str]]]]:
    """Choices for registered models in a group for each app, in alphabetical order."""
    groups: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for object_type in object_types:
        meta: Any = object_type.model_class()._meta  # type: ignore[union-attr]
        groups[str(meta.app_config.verbose_name)].append((capfirst(str(meta.verbose_name_plural)), object_type.pk))
    return [(app, [(pk, name) for name, pk in sorted(models)]) for app, models in sorted(groups.items())]
