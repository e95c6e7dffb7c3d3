"""Figures that tests measured. The end of the run prints them."""

from __future__ import annotations

from collections.abc import Callable

Figures = Callable[[str], None]

MEASURED: list[str] = []
