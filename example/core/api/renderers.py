from typing import Any

from rest_framework.renderers import BrowsableAPIRenderer


class FormlessBrowsableAPIRenderer(BrowsableAPIRenderer):
    """The browsable API with its raw JSON editor only: HTML forms cannot show nested objects."""

    def render_form_for_serializer(self, serializer: Any) -> str:
        return ""
