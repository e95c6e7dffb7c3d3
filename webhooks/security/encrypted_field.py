"""A field of a model whose text stands in the database encrypted, and is seen nowhere by accident."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.query_utils import DeferredAttribute

from webhooks.security.encryption import PREFIX, Secret, Unreadable

if TYPE_CHECKING:
    _TextField = models.TextField[str | Secret, Secret]
else:
    _TextField = models.TextField


class _Hiding(DeferredAttribute):
    """What is assigned becomes a Secret at once: no repr of the instance's attributes has it in clear."""

    def __set__(self, instance: models.Model, value: Any) -> None:
        instance.__dict__[self.field.attname] = as_secret(value)


def as_secret(value: Any) -> Any:
    """A text as a Secret, what is encrypted included; expressions and None as they are."""
    if not isinstance(value, str):
        return value
    return Secret(stored=value) if value.startswith(PREFIX) else Secret(value)


def refuse_encrypted(value: str) -> None:
    """Whoever copied something out of the database must not be able to sign with it."""
    if value.startswith(PREFIX):
        raise ValidationError(f"A text that begins with {PREFIX} would be taken for an encrypted one.")


class EncryptedTextField(_TextField):
    """Takes a text and gives a Secret. An empty text is stored as it is; others can only be compared with themselves,
    as stored. Exports (``dumpdata``) have them encrypted, and imports take them like that.

    ``max_length`` counts characters of the text, not of what is stored.
    """

    descriptor_class = _Hiding
    default_validators = [refuse_encrypted]

    def from_db_value(self, value: str | None, expression: Any, connection: Any) -> Secret | None:
        return None if value is None else Secret(stored=value)

    def to_python(self, value: Any) -> Any:
        return as_secret(value if isinstance(value, Secret) or value is None else str(value))

    def get_prep_value(self, value: Any) -> Any:
        prepared = as_secret(value)
        return prepared.stored if isinstance(prepared, Secret) else super().get_prep_value(prepared)

    def value_to_string(self, obj: Any) -> str:
        return str(self.get_prep_value(self.value_from_object(obj)))

    def validate(self, value: Any, model_instance: Any) -> None:
        super().validate(value, model_instance)
        try:
            value.stored  # noqa: B018 - it is encrypted now, while there is somebody to tell that this cannot be done
        except Unreadable as error:
            raise ValidationError(str(error)) from error

    def run_validators(self, value: Any) -> None:
        """Judge the text; one that cannot be read was judged when it was entered."""
        if not value.problem:
            super().run_validators(value.reveal())
