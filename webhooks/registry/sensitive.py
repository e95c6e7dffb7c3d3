"""Which fields are left out of what is sent, because their names say that nobody is to know them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

# Looked for anywhere in a name, without what stands between its words: "auth_password", "webhookSecret", "API-Key".
PARTS = (
    "password", "passwd", "passphrase", "passcode", "secret", "token", "credential", "apikey", "accesskey", "authkey",
    "encryptionkey", "masterkey", "privatekey", "sessionkey", "sharedkey", "signingkey",
)  # fmt: skip
# Whole words of a name: shorter ones stand in many others.
WORDS = {"psk", "pwd"}
# What holds the secret itself in a model that is called after it, such as Token or APIKey.
HOLDERS = {"key", "value", "digest", "hash", "plaintext"}
# What serializers make of ``str()``, which often is the secret itself in such a model.
NAMES = frozenset({"display", "display_name"})

_BETWEEN_WORDS = re.compile(r"[^0-9A-Za-z]+|(?<=[a-z0-9])(?=[A-Z])")


# Characters of the names that are remembered: in JSON that people write, there is no end of longer ones.
REMEMBERED = 100


def is_sensitive(name: str) -> bool:
    """Whether a field of this name is left out unless somebody asks for it."""
    return _known(name) if len(name) <= REMEMBERED else _tells_of_a_secret(name)


def _tells_of_a_secret(name: str) -> bool:
    words = [word.lower() for word in _BETWEEN_WORDS.split(name)]
    joined = "".join(words)
    return any(part in joined for part in PARTS) or not WORDS.isdisjoint(words)


_known = lru_cache(maxsize=4096)(_tells_of_a_secret)  # every key of everything that is sent is looked at


def sensitive_fields(model_name: str, fields: Iterable[tuple[str, str]]) -> frozenset[str]:
    """Of a model's fields, given as their names and the names of their classes, those that are sensitive though their
    own names do not say so: encrypted ones, and in a model such as Token the key itself and what it is called."""
    holders, names = (HOLDERS, NAMES) if is_sensitive(model_name) else (set(), frozenset())
    return names | frozenset(
        name for name, kind in fields if name in holders or "encrypted" in kind.lower() or is_sensitive(kind)
    )
