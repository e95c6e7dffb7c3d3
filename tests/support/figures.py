"""What a test measured, shown at the end of the run."""

from __future__ import annotations

from collections.abc import Callable

Figures = Callable[[str], None]

MEASURED: list[str] = []
