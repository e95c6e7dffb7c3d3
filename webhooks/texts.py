"""Text from elsewhere, made such that every database takes it."""

from __future__ import annotations


def clean(text: str, length: int | None = None) -> str:
    """Without NUL and lone surrogates, and no longer than ``length`` characters."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:length]
