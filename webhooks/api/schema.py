"""What drf-spectacular cannot read from views and serializers. Does nothing where it is not installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

try:
    from drf_spectacular.extensions import OpenApiSerializerFieldExtension
    from drf_spectacular.utils import extend_schema
except ImportError:

    def described(**kwargs: Any) -> Callable[[F], F]:
        return lambda view: view

else:

    def described(**kwargs: Any) -> Callable[[F], F]:
        """Describe an operation: the arguments are those of drf-spectacular's ``extend_schema``."""
        return extend_schema(**kwargs)

    class NamedChoices(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]
        """Give the choices of a field a name of ours. drf-spectacular takes the field's name, which a host may use."""

        target_class = "webhooks.api.fields.NamedChoiceField"

        def get_name(self) -> str:
            name: str = self.target.schema_name
            return name

        def map_serializer_field(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
            return {"type": "string", "enum": list(self.target.choices)}
