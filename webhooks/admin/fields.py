"""The fields and widgets of the form that defines a webhook."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from django import forms
from django.apps import apps
from django.contrib.contenttypes.models import ContentType
from django.db.models import QuerySet
from django.forms.fields import InvalidJSONInput
from django.forms.models import ModelChoiceIterator
from django.urls import reverse
from django.utils.text import capfirst

from webhooks.security.encryption import Secret, refuse_encrypted

CODE = {"class": "vLargeTextField wh-code", "spellcheck": "false"}


def model_name(content_type: ContentType) -> str:
    model = content_type.model_class()
    return capfirst(str(model._meta.verbose_name_plural if model else content_type.model))


def app_name(label: str) -> str:
    try:
        return str(apps.get_app_config(label).verbose_name)
    except LookupError:
        return label


class ByApp(ModelChoiceIterator):
    """The choices in groups, one for each app, each in alphabetical order."""

    def __iter__(self) -> Iterator[Any]:
        queryset: QuerySet[ContentType] = self.queryset
        by_app = sorted(queryset, key=lambda one: (app_name(one.app_label), model_name(one)))
        for label, content_types in groupby(by_app, key=lambda one: app_name(one.app_label)):
            yield label, [self.choice(content_type) for content_type in content_types]


class ModelsWidget(forms.CheckboxSelectMultiple):
    """Checkboxes under a heading for each app. A script adds "all" and "none" to each heading."""

    template_name = "webhooks/admin/models_widget.html"

    class Media:
        css = {"all": ["webhooks/admin.css"]}
        js = ["webhooks/admin.js"]


class ModelsField(forms.ModelMultipleChoiceField):
    iterator = ByApp
    widget = ModelsWidget

    def label_from_instance(self, obj: Any) -> str:
        return model_name(obj)


class SuggestingInput(forms.TextInput):
    """Free text, with the usual values to pick from."""

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
    """A list of names, written as one text."""

    between: str

    def prepare_value(self, value: Any) -> Any:
        return self.between.join(map(str, value)) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        return self.split(super().to_python(value) or "")

    def split(self, text: str) -> list[str]:
        raise NotImplementedError

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool((initial or []) != self.to_python(data))


class NamesField(ListField):
    """Names with commas or spaces between them, each of them once."""

    between = ", "

    def split(self, text: str) -> list[str]:
        return list(dict.fromkeys(text.replace(",", " ").split()))


class LinesField(ListField):
    """A name in each line. One that stands there twice is told, not dropped."""

    widget = forms.Textarea(attrs={"class": "vLargeTextField", "rows": 3, "spellcheck": "false"})
    between = "\n"

    def split(self, text: str) -> list[str]:
        return [name.strip() for name in text.splitlines() if name.strip()]


class ConditionsWidget(forms.Textarea):
    class Media:
        js = ["webhooks/conditions.js"]

    def __init__(self) -> None:
        super().__init__(CODE | {"rows": 6, "data-wh-conditions": ""})

    def get_context(self, name: str, value: Any, attrs: dict[str, Any] | None) -> dict[str, Any]:
        return super().get_context(name, value, (attrs or {}) | {"data-url": reverse("admin:webhooks_webhook_try")})


class Shallow(json.JSONDecoder):
    """What is nested too deeply to be read, or to be written again, is as wrong as what is no JSON."""

    def decode(self, s: str, *args: Any) -> Any:
        try:
            value = super().decode(s, *args)
            json.dumps(value, indent=2)
        except RecursionError:
            raise json.JSONDecodeError("too many lists and objects in each other", s, 0) from None
        return value


class ConditionsField(forms.JSONField):
    """JSON text, indented for those who read it. A script shows rows in its place, where they can express it."""

    widget = ConditionsWidget

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(decoder=Shallow, **kwargs)

    def prepare_value(self, value: Any) -> Any:
        if value in (None, "", {}, []):
            return ""
        if isinstance(value, InvalidJSONInput):
            return value
        return json.dumps(value, ensure_ascii=False, indent=2)

    def to_python(self, value: Any) -> Any:
        try:
            return super().to_python(value)
        except forms.ValidationError as error:
            raise forms.ValidationError(f"This is no JSON: {_problem(value)}.", code="invalid") from error


def _problem(text: str) -> str:
    try:
        json.loads(text, cls=Shallow)
    except ValueError as error:
        return str(error)
    return "it cannot be read"


class WriteOnly(forms.CharField):
    """What is stored is never shown, nor what was entered, and an empty input changes nothing."""

    default_validators = [refuse_encrypted]

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool(data)

    def clean(self, value: Any) -> Any:
        return Secret(super().clean(value))


class SecretField(WriteOnly):
    widget = forms.PasswordInput(attrs={"class": "vTextField", "autocomplete": "new-password"}, render_value=False)


class EmptyTextarea(forms.Textarea):
    def format_value(self, value: Any) -> str:
        return ""


class SecretLinesField(WriteOnly):
    widget = EmptyTextarea(attrs={"class": "vLargeTextField", "rows": 3, "autocomplete": "off", "spellcheck": "false"})
