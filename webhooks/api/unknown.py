"""Refuse what a request says and no part of the API knows: a misspelt name must not be passed over."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches

from rest_framework.exceptions import ValidationError

# How many unknown names an answer explains.
MOST = 10


def refuse_unknown(given: Collection[str], known: Collection[str], kind: str) -> None:
    """Raise ValidationError for the names in ``given`` that are not ``known``. ``kind`` says what they name."""
    unknown = sorted(set(given) - set(known))[:MOST]
    if unknown:
        raise ValidationError({name: [_explanation(name, known, kind)] for name in unknown})


def _explanation(name: str, known: Collection[str], kind: str) -> str:
    nearest = get_close_matches(name, known, n=1)
    hint = f"Did you mean {nearest[0]}?" if nearest else f"Known are: {', '.join(known) or 'none'}."
    return f"There is no {kind} of this name. {hint}"
