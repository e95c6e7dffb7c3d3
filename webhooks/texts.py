"""Text from elsewhere, made such that every database takes it."""

from __future__ import annotations

from collections.abc import Sequence

HIDDEN = "********"

# So many characters of a secret at the end of a text, which was cut off there, are hidden too.
FEW = 4


def clean(text: str, length: int | None = None) -> str:
    """Without NUL and lone surrogates, and no longer than ``length`` characters."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:length]


def hide(text: str, secrets: Sequence[str]) -> str:
    """The text without any of these, and without the beginning of one at its end."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    for secret in secrets:
        cut = next((size for size in range(len(secret) - 1, FEW - 1, -1) if text.endswith(secret[:size])), 0)
        if cut:
            return text[:-cut] + HIDDEN
    return text
