"""Fields that REST framework does not have: model labels, secrets, and choices with names for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, tzinfo
from difflib import get_close_matches
from typing import Any, ClassVar, NoReturn, TypeVar

from django.apps import apps
from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers
from rest_framework.exceptions import ValidationError

from webhooks.ground import registry
from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.registry import label_of
from webhooks.ground.security.encryption import Secret, refuse_encrypted
from webhooks.insight.alarms import Level, Problem
from webhooks.insight.why import Cause, Target
from webhooks.models import RunState, State
from webhooks.models.skip import Rule
from webhooks.models.webhook import Method
from webhooks.models.webhook_states import DisabledReason
from webhooks.operations.kinds import RUN_KINDS

if apps.is_installed("drf_spectacular"):  # a host that only happens to have it need not wait for it
    from drf_spectacular.utils import OpenApiParameter, extend_schema_field
    from drf_spectacular.utils import extend_schema as extend_schema
    from drf_spectacular.utils import extend_schema_view as extend_schema_view
else:

    def extend_schema(*args: Any, **kwargs: Any) -> Callable[[Any], Any]:  # type: ignore[misc]
        return lambda described: described

    extend_schema_field = extend_schema_view = extend_schema  # type: ignore[assignment]
    OpenApiParameter = None  # type: ignore[assignment,misc]


def header(name: str, description: Any, *, of_response: bool = False, max_length: int | None = None) -> Any:
    """A header of a request or of a response, for the OpenAPI document."""
    schema = {"type": "string"} | ({"maxLength": max_length} if max_length else {})
    if OpenApiParameter is None:
        return None  # nothing reads it
    return OpenApiParameter(name, schema, "header", description=description, response=of_response)


Row = TypeVar("Row", bound=models.Model)

UNKNOWN = {
    "field": _("There is no field of this name."),
    "filter": _("There is no filter of this name."),
    "query parameter": _("There is no query parameter of this name."),
}


def refuse_unknown(given: Collection[str], known: Collection[str], kind: str) -> None:
    """Raise ValidationError for unknown names, so that no misspelt name is ignored. ``kind`` is one of ``UNKNOWN``."""
    problems = {}
    for name in sorted(set(given) - set(known))[:10]:
        if nearest := get_close_matches(name, known, n=1):
            hint = gettext("Did you mean %(name)s?") % {"name": nearest[0]}
        else:
            hint = gettext("Known are: %(names)s.") % {"names": ", ".join(known) or gettext("none")}
        problems[name] = [f"{UNKNOWN[kind]} {hint}"]
    if problems:
        raise ValidationError(problems)


class MomentField(serializers.DateTimeField):
    """A time that has an offset from UTC, even if ``USE_TZ`` is off: REST framework would then read and write some
    times in UTC and others in ``TIME_ZONE``. Refuses a time that has no equivalent in UTC."""

    def default_timezone(self) -> tzinfo:
        return super().default_timezone() or timezone.get_default_timezone()

    def enforce_timezone(self, value: datetime) -> datetime:
        try:
            return super().enforce_timezone(value)
        except OverflowError:
            self.fail("overflow")


class ObjectTypesField(serializers.ListField):
    """Content types as labels, such as ``["dcim.site"]``. It accepts registered models, and the models of the
    stored webhook."""

    child = serializers.CharField()
    default_error_messages = {
        "not_a_list": _('Must be a list of labels, such as ["dcim.site"].'),
        "not_registered": _(
            "Not registered: {refused}. Choose from: {registered}. To send another model, add it to the setting "
            'WEBHOOKS["MODELS"] or call webhooks.register() for it.'
        ),
    }

    def to_internal_value(self, data: Any) -> list[ContentType]:
        labels = {label.lower() for label in super().to_internal_value(data)}
        webhook = self.parent.instance
        try:
            return registry.object_types_of(labels, webhook.object_types.all() if webhook else ())
        except registry.Unregistered as error:
            registered = ", ".join(registry.registered_models()) or "none"
            self.fail("not_registered", refused=", ".join(error.labels), registered=registered)

    def to_representation(self, data: Any) -> list[str]:
        return sorted(map(label_of, data.all()))


class TextListField(serializers.ListField):
    """A list of texts. The model validates each of them."""

    child = serializers.CharField()

    def run_child_validation(self, data: Any) -> Any:
        return data


class SecretField(serializers.CharField):
    """Write-only. If it is missing, the stored secret stays; ``""`` clears it."""

    def __init__(self, **kwargs: Any) -> None:
        style = {"input_type": "password"}
        super().__init__(
            required=False, allow_blank=True, write_only=True, style=style, validators=[refuse_encrypted], **kwargs
        )

    def run_validation(self, data: Any = serializers.empty) -> Any:
        return Secret(super().run_validation(data.reveal() if isinstance(data, Secret) else data))


@extend_schema_field({"type": "boolean"})
class IsSetField(serializers.ReadOnlyField):
    """Whether a secret is stored."""

    def to_representation(self, value: Any) -> bool:
        return bool(value)


# Choices with names for the OpenAPI document: drf-spectacular's own may be the names of a host's choices.


class NamesChoices(serializers.Field):
    """A field of choices that names them if it refuses a value."""

    default_error_messages = {"invalid_choice": _("“{input}” is not one of these: {choices}.")}
    choices: Any

    def fail(self, key: str, **values: Any) -> NoReturn:
        super().fail(key, choices=", ".join(filter(None, map(str, self.choices))), **values)


class ChoiceField(NamesChoices, serializers.ChoiceField):
    pass


class MultipleChoiceField(NamesChoices, serializers.MultipleChoiceField):
    pass


class NamedChoiceField(ChoiceField):
    """A field with all choices of its kind, unless it gets some of them."""

    every: ClassVar[Sequence[Any]]

    def __init__(self, choices: Sequence[Any] = (), **kwargs: Any) -> None:
        super().__init__(choices or self.every, **kwargs)


def _named(name: str, choices: Sequence[Any]) -> type[NamedChoiceField]:
    field = type(name, (NamedChoiceField,), {"every": choices})
    return extend_schema_field({"type": "string", "enum": list(field().choices)}, component_name=name)(field)


MethodField = _named("RqWebhookMethod", Method.choices)
StateField = _named("RqWebhookDeliveryState", State.choices)
DisabledReasonField = _named("RqWebhookDisabledReason", ["", *DisabledReason.values])  # empty unless it was disabled
ErrorKindField = _named("RqWebhookErrorKind", ["", *ErrorKind])  # empty without an error
RuleField = _named("RqWebhookSkipRule", Rule.choices)
LevelField = _named("RqWebhookLevel", list(Level))
ProblemField = _named("RqWebhookProblem", list(Problem))
CauseField = _named("RqWebhookCause", Cause.choices)
TargetField = _named("RqWebhookTarget", Target.choices)
RunKindField = _named("RqWebhookRunKind", [(kind.name, kind.label) for kind in RUN_KINDS.values()])
RunStateField = _named("RqWebhookRunState", RunState.choices)


# The classes below name their components in the documents of drf-spectacular and drf-yasg: ``FiguresSerializer`` is
# ``RqWebhookFigures``, because a host may have its own. (The documents would show docstrings here.)


def _ref_name(serializer: type[Any]) -> str:
    return f"RqWebhook{serializer.__name__.removeprefix('Webhook').removesuffix('Serializer')}"


# Each time has an offset.
class RowSerializer(serializers.ModelSerializer[Row]):
    serializer_field_mapping = {
        **serializers.ModelSerializer.serializer_field_mapping,
        models.DateTimeField: MomentField,
    }

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "Meta" in vars(cls) and "ref_name" not in vars(cls.Meta):
            cls.Meta.ref_name = _ref_name(cls)


# Shows rows, and takes none.
class ReadOnlySerializer(RowSerializer[Row]):
    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.Meta.read_only_fields = cls.Meta.fields


class NamedSerializer(serializers.Serializer[Any]):
    Meta: ClassVar[Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.Meta = type("Meta", (), {"ref_name": _ref_name(cls)})
