"""Form fields and widgets for a webhook."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from django import forms
from django.apps import apps
from django.contrib.contenttypes.models import ContentType
from django.forms.fields import InvalidJSONInput
from django.forms.models import ModelChoiceIterator
from django.urls import reverse
from django.utils.text import capfirst

from webhooks.security.encryption import Secret, refuse_encrypted

CODE = {"class": "vLargeTextField wh-code", "spellcheck": "false"}


def model_name(content_type: ContentType) -> str:
    model = content_type.model_class()
    return capfirst(str(model._meta.verbose_name_plural if model else content_type.model))


def app_name(content_type: ContentType) -> str:
    try:
        return str(apps.get_app_config(content_type.app_label).verbose_name)
    except LookupError:
        return content_type.app_label


class GroupedByApp(ModelChoiceIterator):
    """The models in a group for each app, in alphabetical order."""

    def __iter__(self) -> Iterator[Any]:
        content_types = sorted(self.queryset, key=lambda one: (app_name(one), model_name(one)))
        for name, group in groupby(content_types, key=app_name):
            yield name, [self.choice(content_type) for content_type in group]


class ModelsWidget(forms.CheckboxSelectMultiple):
    """Checkboxes with a heading for each app. A script adds "all" and "none" to each heading."""

    template_name = "webhooks/admin/models_widget.html"

    class Media:
        css = {"all": ["webhooks/admin.css"]}
        js = ["webhooks/admin.js"]


class ModelsField(forms.ModelMultipleChoiceField):
    iterator = GroupedByApp
    widget = ModelsWidget

    def label_from_instance(self, obj: Any) -> str:
        return model_name(obj)


class SuggestingInput(forms.TextInput):
    """A text input that suggests common values."""

    template_name = "webhooks/admin/suggesting_input.html"

    def __init__(self, suggestions: list[str], attrs: dict[str, Any] | None = None) -> None:
        super().__init__(attrs)
        self.suggestions = suggestions

    def get_context(self, name: str, value: Any, attrs: dict[str, Any] | None) -> dict[str, Any]:
        context = super().get_context(name, value, attrs)
        list_id = f"{context['widget']['attrs'].get('id', name)}_suggestions"
        context["widget"]["attrs"]["list"] = list_id
        return context | {"list_id": list_id, "suggestions": self.suggestions}


class ListField(forms.CharField):
    """A list of names, edited as text with one name a line."""

    widget: Any = forms.Textarea(attrs={"class": "vLargeTextField", "rows": 3, "spellcheck": "false"})
    separator = "\n"

    def prepare_value(self, value: Any) -> Any:
        return self.separator.join(map(str, value)) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        lines = (super().to_python(value) or "").splitlines()
        return [line.strip() for line in lines if line.strip()]

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool((initial or []) != self.to_python(data))


class FieldNamesField(ListField):
    """A list of names, edited as text with commas or spaces between the names. Repetitions are dropped."""

    widget = forms.TextInput(attrs={"class": "vTextField"})
    separator = ", "

    def to_python(self, value: Any) -> Any:
        text = forms.CharField.to_python(self, value) or ""
        return list(dict.fromkeys(text.replace(",", " ").split()))


class ConditionsWidget(forms.Textarea):
    class Media:
        js = ["webhooks/conditions.js"]

    def __init__(self) -> None:
        super().__init__(CODE | {"rows": 6, "data-wh-conditions": ""})

    def get_context(self, name: str, value: Any, attrs: dict[str, Any] | None) -> dict[str, Any]:
        return super().get_context(name, value, (attrs or {}) | {"data-url": reverse("admin:webhooks_webhook_try")})


class ShallowDecoder(json.JSONDecoder):
    """Treat JSON that is nested too deeply for Python as invalid."""

    def decode(self, s: str, *args: Any) -> Any:
        try:
            value = super().decode(s, *args)
            json.dumps(value, indent=2)
        except RecursionError:
            raise json.JSONDecodeError("too many nested lists and objects", s, 0) from None
        return value


class ConditionsField(forms.JSONField):
    """Indented JSON text. A script replaces it by rows if they can express the conditions."""

    widget = ConditionsWidget

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(decoder=ShallowDecoder, **kwargs)

    def prepare_value(self, value: Any) -> Any:
        if value in (None, "", {}, []):
            return ""
        return value if isinstance(value, InvalidJSONInput) else json.dumps(value, ensure_ascii=False, indent=2)

    def to_python(self, value: Any) -> Any:
        try:
            return super().to_python(value)
        except forms.ValidationError as error:
            reason = error.__context__ or "it cannot be read"
            raise forms.ValidationError(f"This is not JSON: {reason}.", code="invalid") from error


class WriteOnlyField(forms.CharField):
    """Never shows the stored or the entered value. An empty input changes nothing."""

    default_validators = [refuse_encrypted]

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool(data)

    def clean(self, value: Any) -> Any:
        return Secret(super().clean(value))


class EmptyTextarea(forms.Textarea):
    def format_value(self, value: Any) -> str:
        return ""
