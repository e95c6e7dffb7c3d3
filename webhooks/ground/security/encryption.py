"""Encrypts secrets in the database, with Fernet of ``cryptography``.

The newest key encrypts, and every key decrypts. The keys are ``WEBHOOKS["ENCRYPTION_KEYS"]``, then keys derived from
``SECRET_KEY`` and ``SECRET_KEY_FALLBACKS``. So a project can start without encryption keys, and add them later.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.query_utils import DeferredAttribute
from django.utils.encoding import force_bytes
from django.utils.translation import gettext, gettext_lazy

from webhooks.ground.conf import conf
from webhooks.ground.errors import why_failed
from webhooks.ground.text.redaction import REDACTED

# Encrypted texts begin with this.
PREFIX = "fernet:"

BROKEN_KEYS = gettext_lazy(
    'WEBHOOKS["ENCRYPTION_KEYS"] is invalid: nothing can be encrypted or decrypted until it is corrected'
)
NO_KEY_FITS = gettext_lazy(
    "it cannot be decrypted: its key is no longer in the settings. Put that key back, "
    'at the end of WEBHOOKS["ENCRYPTION_KEYS"] or in SECRET_KEY_FALLBACKS, or enter the text again'
)


class Unreadable(Exception):
    """A text cannot be decrypted, or nothing can be encrypted. The message says what to do, and never has the text."""


def encrypt(text: str) -> str:
    """Raises Unreadable if the keys in the settings are invalid."""
    return PREFIX + _fernet(_current_keys()).encrypt(text.encode()).decode()


def decrypt(stored: str) -> str:
    """Returns a text that is not encrypted as it is. Raises Unreadable if no key fits."""
    return _decrypt(_current_keys(), stored) if stored.startswith(PREFIX) else stored


# Begins a veiled text. No cursor begins so.
VEIL = "~"


def veil(text: str) -> str:
    """Encrypt a short text for a URL, with ``SECRET_KEY`` alone."""
    return VEIL + _fernet((force_bytes(settings.SECRET_KEY),)).encrypt(text.encode()).decode().rstrip("=")


def unveil(text: str) -> str:
    """Returns a text that is not veiled as it is. Raises Unreadable for one that ``veil`` did not return."""
    if not text.startswith(VEIL):
        return text
    keys = tuple(map(force_bytes, (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)))
    token = text.removeprefix(VEIL)
    try:
        return _fernet(keys).decrypt(token + "=" * (-len(token) % 4)).decode()
    except (InvalidToken, ValueError):
        raise Unreadable("it was not encrypted here") from None


def is_current(stored: str) -> bool:
    """Whether it is encrypted with the newest key. Raises Unreadable if the keys in the settings are invalid."""
    newest = _current_keys()[:1]
    try:
        _decrypt(newest, stored)
    except Unreadable:
        return False
    return stored.startswith(PREFIX)


def key_names() -> list[str]:
    """Names of the keys in the settings that show none of them: two workers with the same names have the same keys."""
    names = [f"ENCRYPTION_KEYS {hashlib.sha256(key.encode()).hexdigest()[:8]}" for key in conf.encryption_keys]
    return [*names, "SECRET_KEY", *("SECRET_KEY_FALLBACKS" for _ in settings.SECRET_KEY_FALLBACKS[:1])]


def _current_keys() -> tuple[str | bytes, ...]:
    """The newest first: Fernet keys as text, then each SECRET_KEY as bytes, to derive a key from."""
    if not conf.is_valid("ENCRYPTION_KEYS"):
        raise Unreadable(BROKEN_KEYS)
    fallbacks = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return (*conf.encryption_keys, *(force_bytes(key) for key in fallbacks))


# Workers load the webhooks again for each batch. The cache spares them decrypting the same texts again.
@lru_cache(maxsize=1024)
def _decrypt(keys: Sequence[str | bytes], stored: str) -> str:
    try:
        return _fernet(keys).decrypt(stored.removeprefix(PREFIX).encode()).decode()
    except InvalidToken:
        raise Unreadable(NO_KEY_FITS) from None


@lru_cache(maxsize=16)
def _fernet(keys: Sequence[str | bytes]) -> MultiFernet:
    ciphers = []
    for key in keys:
        if isinstance(key, bytes):
            # HKDF is fast, which is safe here: Django requires a long and random SECRET_KEY.
            info = b"django-rq-webhooks: what is encrypted at rest"
            key = base64.urlsafe_b64encode(HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(key))
        ciphers.append(Fernet(key))
    return MultiFernet(ciphers)


class Secret:
    """A text that only ``reveal()`` shows. Everything else, pickling included, has it encrypted.

    It is decrypted on demand. So a row with a secret that no key decrypts can be loaded and saved, and loses nothing.
    """

    __slots__ = ("_stored", "_text")

    def __init__(self, text: str = "", *, stored: str | None = None) -> None:
        self._text: str | None = text if stored is None else None
        self._stored = stored

    def reveal(self) -> str:
        """The text. Raises Unreadable if no key fits."""
        if self._text is None:
            self._text = decrypt(self._stored or "")  # kept: a worker needs it for each request of a batch
        return self._text

    # Templates of a host, of Django and of Jinja, call nothing that has it.
    reveal.alters_data = True  # type: ignore[attr-defined]

    @property
    def stored(self) -> str:
        """The encrypted text. Raises Unreadable if the keys in the settings are invalid."""
        if self._stored is None:
            self._stored = encrypt(self._text) if self._text else ""
        return self._stored

    @property
    def problem(self) -> str:
        """Why it cannot be decrypted, or "" if it can."""
        return why_failed(self.reveal, Unreadable)

    def __bool__(self) -> bool:
        return bool(self._text if self._stored is None else self._stored)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Secret) and self._stored is not None and self._stored == other._stored:
            return True
        try:
            return self.reveal() == (other.reveal() if isinstance(other, Secret) else other)
        except Unreadable:
            return False

    __hash__ = None  # type: ignore[assignment] # the same text may be encrypted differently

    def __repr__(self) -> str:
        return REDACTED if self else ""

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Secret, stored=self.stored), ()


def _to_secret(value: Any) -> Any:
    """Convert a text, plain or encrypted, to a Secret. Returns expressions and None as they are."""
    if not isinstance(value, str):
        return value
    return Secret(stored=value) if value.startswith(PREFIX) else Secret(value)


def refuse_encrypted(value: str) -> None:
    """Refuse encrypted texts as input: a reader of the database must not be able to sign with a stored secret."""
    if value.startswith(PREFIX):
        refusal = gettext("Enter a text that does not begin with %(prefix)s, which marks encrypted texts.")
        raise ValidationError(refusal % {"prefix": PREFIX})


class _SecretAttribute(DeferredAttribute):
    """Converts an assigned text to a Secret at once, so that ``vars()`` of the instance does not show it."""

    def __set__(self, instance: models.Model, value: Any) -> None:
        instance.__dict__[self.field.attname] = _to_secret(value)


if TYPE_CHECKING:
    _TextField = models.TextField[str | Secret, Secret]
else:
    _TextField = models.TextField


class EncryptedTextField(_TextField):
    """Stores a text encrypted, and loads it as a Secret. An empty text stays empty.

    ``max_length`` counts characters of the plain text. Exports such as ``dumpdata`` have the encrypted text, and
    imports accept it. A filter finds a row only by the encrypted text.
    """

    descriptor_class = _SecretAttribute
    is_secret = True
    default_validators = [refuse_encrypted]

    def from_db_value(self, value: str | None, expression: Any, connection: Any) -> Secret | None:
        return None if value is None else Secret(stored=value)

    def to_python(self, value: Any) -> Any:
        return _to_secret(value if isinstance(value, Secret) or value is None else str(value))

    def get_prep_value(self, value: Any) -> Any:
        prepared = _to_secret(value)
        return prepared.stored if isinstance(prepared, Secret) else super().get_prep_value(prepared)

    def value_to_string(self, obj: Any) -> str:
        return str(self.get_prep_value(self.value_from_object(obj)))

    def validate(self, value: Any, model_instance: Any) -> None:
        super().validate(value, model_instance)
        try:
            value.stored  # noqa: B018 - encrypts it now, while the user can still read an error
        except Unreadable as error:
            raise ValidationError(str(error)) from error

    def run_validators(self, value: Any) -> None:
        """Validate the plain text. One that no key decrypts was validated when it was entered."""
        if not value.problem:
            super().run_validators(value.reveal())
