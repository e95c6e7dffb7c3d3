"""Encrypts what must not stand in the database in clear, with Fernet of ``cryptography``.

The newest key encrypts, every key decrypts: those of ``WEBHOOKS["ENCRYPTION_KEYS"]`` first, then the ones derived from
``SECRET_KEY`` and ``SECRET_KEY_FALLBACKS``. So a project may begin without keys of its own, and get some later.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.utils.encoding import force_bytes

from webhooks.conf import conf
from webhooks.text import REDACTED

# What is encrypted begins with this, so that nothing else is taken for it.
PREFIX = "fernet:"

BROKEN_KEYS = 'WEBHOOKS["ENCRYPTION_KEYS"] cannot be used, so nothing is encrypted or decrypted until it is corrected'
NO_KEY_FITS = (
    "it cannot be decrypted, for it was encrypted with a key that is no longer in the settings. Put that key back, "
    'at the end of WEBHOOKS["ENCRYPTION_KEYS"] or in SECRET_KEY_FALLBACKS, or enter the text again'
)


class Unreadable(Exception):
    """What is encrypted cannot be read, or nothing can be encrypted. Says what to do; never has the text in it."""


def encrypt(text: str) -> str:
    """Raises Unreadable where the keys cannot be used."""
    return PREFIX + _box(_keys()).encrypt(text.encode()).decode()


def decrypt(stored: str) -> str:
    """The text; what is not encrypted is its own. Raises Unreadable where no key fits."""
    return _decrypt(_keys(), stored) if stored.startswith(PREFIX) else stored


def is_current(stored: str) -> bool:
    """Whether it is encrypted, and with the newest key. Raises Unreadable where the keys cannot be used."""
    newest = _box(_keys()[:1])
    try:
        newest.decrypt(_token(stored))
    except InvalidToken:
        return False
    return stored.startswith(PREFIX)


def _keys() -> tuple[str | bytes, ...]:
    """The newest first. A text is a Fernet key; bytes are a SECRET_KEY, from which one is derived."""
    if not conf.is_valid("ENCRYPTION_KEYS"):
        raise Unreadable(BROKEN_KEYS)
    fallbacks = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return (*conf.encryption_keys, *(force_bytes(key) for key in fallbacks))


# Webhooks are read again for each batch that a worker takes: what was read a moment ago need not be decrypted again.
@lru_cache(maxsize=1024)
def _decrypt(keys: Sequence[str | bytes], stored: str) -> str:
    try:
        return _box(keys).decrypt(_token(stored)).decode()
    except InvalidToken:
        raise Unreadable(NO_KEY_FITS) from None


def _token(stored: str) -> bytes:
    return stored.removeprefix(PREFIX).encode()


@lru_cache(maxsize=16)
def _box(keys: Sequence[str | bytes]) -> MultiFernet:
    return MultiFernet([Fernet(key if isinstance(key, str) else _derived(key)) for key in keys])


def _derived(secret_key: bytes) -> bytes:
    # HKDF and not a slow function: Django demands that SECRET_KEY is long and random.
    derivation = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"django-rq-webhooks: what is encrypted at rest")
    return base64.urlsafe_b64encode(derivation.derive(secret_key))


class Secret:
    """A text that is not to be seen: only ``reveal()`` gives it. It is kept, pickled and exported encrypted.

    It is decrypted when it is asked for and not before, so that a row whose secret cannot be read can be read itself,
    and saved, and loses nothing.
    """

    __slots__ = ("_stored", "_text")

    def __init__(self, text: str = "", *, stored: str | None = None) -> None:
        self._text: str | None = text if stored is None else None
        self._stored = stored

    def reveal(self) -> str:
        """The text. Raises Unreadable where no key fits."""
        if self._text is None:
            self._text = decrypt(self._stored or "")  # a worker asks again for each request of a batch
        return self._text

    @property
    def stored(self) -> str:
        """What the database keeps. Raises Unreadable where the keys cannot be used."""
        if self._stored is None:
            self._stored = encrypt(self._text) if self._text else ""
        return self._stored

    @property
    def problem(self) -> str:
        """Why it cannot be read; empty if it can."""
        try:
            self.reveal()
        except Unreadable as error:
            return str(error)
        return ""

    def __bool__(self) -> bool:
        return bool(self._text if self._stored is None else self._stored)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str | Secret):
            return NotImplemented
        if isinstance(other, Secret) and self._stored is not None and self._stored == other._stored:
            return True
        texts = [one if isinstance(one, str) else one.reveal() for one in (self, other) if _can_be_read(one)]
        return len(texts) == 2 and hmac.compare_digest(*(text.encode("utf-8", "surrogatepass") for text in texts))

    __hash__ = None  # type: ignore[assignment] # equal ones may be encrypted differently

    def __repr__(self) -> str:
        return REDACTED if self else ""

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_stored, (self.stored,)


def _can_be_read(one: str | Secret) -> bool:
    return isinstance(one, str) or not one.problem


def _from_stored(stored: str) -> Secret:
    return Secret(stored=stored)
