"""To come."""

from typing import Any

urlpatterns: list[Any] = []
