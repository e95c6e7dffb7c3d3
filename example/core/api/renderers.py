from typing import Any

from rest_framework.renderers import BrowsableAPIRenderer


class FormlessBrowsableAPIRenderer(BrowsableAPIRenderer):
    """The browsable API with only its JSON editor, because HTML forms cannot show nested objects."""

    def render_form_for_serializer(self, serializer: Any) -> str:
        return ""
