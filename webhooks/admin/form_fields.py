"""The fields and widgets of the form of a webhook: lists, conditions, secrets, and boxes."""

from __future__ import annotations

import json
import re
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.urls import reverse_lazy
from django.utils.translation import gettext as _

from webhooks.security.encryption import Secret, refuse_encrypted

CODE = {"class": "vLargeTextField wh-code", "spellcheck": "false"}


class ModelsWidget(forms.CheckboxSelectMultiple):
    """Checkboxes with a heading for each app. Scripts add "all" and "none" to each heading, and a filter."""

    template_name = "webhooks/admin/models_widget.html"


class FirstActionWidget(forms.CheckboxInput):
    """The first of the boxes for actions, after the text that introduces them all."""

    template_name = "webhooks/admin/first_action.html"


class ListField(forms.CharField):
    """A list of names, edited as text with one name a line."""

    widget: Any = forms.Textarea(attrs={"class": "vLargeTextField", "rows": 3, "spellcheck": "false"})
    separator, separators = "\n", r"[\r\n]"

    def prepare_value(self, value: Any) -> Any:
        return self.separator.join(map(str, value)) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        names = re.split(self.separators, super().to_python(value) or "")
        return [name.strip() for name in names if name.strip()]

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool((initial or []) != self.to_python(data))


class FieldNamesField(ListField):
    """A list of names, edited as text with commas or spaces between the names."""

    widget = forms.TextInput(attrs={"class": "vTextField"})
    separator, separators = ", ", r"[,\s]"


class ConditionsField(forms.JSONField):
    """Indented JSON text. A script replaces it by rows if they can express the conditions."""

    preview_url = reverse_lazy("admin:webhooks_webhook_condition_preview")
    widget = forms.Textarea(CODE | {"rows": 6, "data-wh-conditions": "", "data-url": preview_url})

    def bound_data(self, data: Any, initial: Any) -> Any:
        return data  # a form with errors shows the text as it was entered

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, str):
            return value
        return json.dumps(value, ensure_ascii=False, indent=2) if value else ""

    def to_python(self, value: Any) -> Any:
        try:
            return super().to_python(value.strip() if isinstance(value, str) else value)
        except (ValidationError, RecursionError) as error:
            text = _("This is not JSON: %(error)s.") % {"error": error.__context__ or error}
            raise ValidationError(text, code="invalid") from error


class WriteOnlyField(forms.CharField):
    """Never shows the stored or the entered value. An empty input changes nothing."""

    default_validators = [refuse_encrypted]

    def prepare_value(self, value: Any) -> str:
        return ""

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool(data)

    def clean(self, value: Any) -> Any:
        return Secret(super().clean(value))
