"""The HTTP requests of deliveries as they were sent, and the responses."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _

from webhooks.ground.db import execute_safely, insert_rows_sql
from webhooks.ground.text.redaction import REDACTED
from webhooks.models.columns import EMPTY, USERNAME_LENGTH, HexField, WriteDBManager, alters_data
from webhooks.models.delivery import Delivery

URL_LENGTH = 2000  # characters of a URL that are stored: a template can make longer ones


# The headers of nearly every request, each as one letter. The table is a part of the stored rows: add to it, and change
# no letter. A value of None is the id of the delivery, and "" one that follows the letter.
_LETTERS: dict[str, tuple[str, str | None]] = {
    "a": ("Content-Type", "application/json"),
    "b": ("User-Agent", "django-rq-webhooks"),
    "c": ("webhook-id", None),
    "d": ("webhook-timestamp", ""),
    "e": ("webhook-signature", REDACTED),
    "f": ("X-Hook-Signature", REDACTED),
    "g": ("X-Webhook-Depth", "1"),
}
_BY_HEADER = {header: letter for letter, header in _LETTERS.items()}
_ESCAPES = {"\\": "\\\\", "\n": "\\n", ":": "\\c"}


def pack_headers(headers: Mapping[str, str], pk: str) -> str:
    """Headers as one short text: a line for each, with its letter, or else as ``name:value``. ``pk`` is the id of the
    delivery."""
    lines = []
    for header in headers.items():
        letter = _BY_HEADER.get(header)
        if not letter or not header[1]:
            name, value = header
            if value == pk and (name, None) in _BY_HEADER:
                letter = _BY_HEADER[name, None]
            elif value.isdecimal() and (name, "") in _BY_HEADER:
                letter = _BY_HEADER[name, ""] + value
            else:
                letter = f"{_escaped(name, ':')}:{_escaped(value)}"
        lines.append(letter)
    return "\n".join(lines)


def unpack_headers(packed: str, delivery: uuid.UUID) -> dict[str, str]:
    """The headers of ``pack_headers``, in their order."""
    headers = {}
    for line in packed.split("\n") if packed else ():
        name, colon, value = line.partition(":")
        if colon:
            headers[_unescaped(name)] = _unescaped(value)
        else:
            name, usual = _LETTERS[line[0]]
            headers[name] = str(delivery) if usual is None else usual or line[1:]
    return headers


def _escaped(text: str, *also: str) -> str:
    if text.isalnum():
        return text
    for character in ("\\", "\n", *also):
        text = text.replace(character, _ESCAPES[character])
    return text


def _unescaped(text: str) -> str:
    meant = {escape[1]: character for character, escape in _ESCAPES.items()}
    return re.sub(r"\\(.)", lambda found: meant[found[1]], text) if "\\" in text else text


class BodyKind(models.TextChoices):
    """The source of a request's body. Only those in ``STORED_BODIES`` are stored: the event gives the others again."""

    PAYLOAD = "payload", _("the payload as JSON")
    FORM = "form", _("the payload as a form")
    TEMPLATE = "template", _("the body template")
    STATIC = "static", _("the payload with static data")


STORED_BODIES = {BodyKind.TEMPLATE, BodyKind.STATIC}


class AttemptManager(WriteDBManager["Attempt"]):
    @alters_data
    def insert(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows, each with the same columns, in one statement. Raises IntegrityError if one is there already,
        and the transaction goes on."""
        execute_safely(self.db, insert_rows_sql(self.db, list(rows[0]), "rq_webhooks_attempt"), [json.dumps(rows)])


class Attempt(models.Model):
    """One HTTP request of a Delivery as it was sent, and the response.

    The columns of the request are empty if none could be built.
    """

    pk = models.CompositePrimaryKey("delivery_id", "number")
    delivery = models.ForeignKey(
        Delivery, on_delete=models.CASCADE, related_name="attempts", db_constraint=False, db_index=False
    )
    number = models.PositiveIntegerField(_("number"))
    started_at = models.DateTimeField(_("started at"))
    duration_ms = models.PositiveIntegerField(_("duration in ms"), help_text=_("Milliseconds."))
    method = models.CharField(_("method"), max_length=10, **EMPTY)
    url = models.CharField(_("URL"), max_length=URL_LENGTH, **EMPTY)
    packed_headers = models.TextField(**EMPTY, help_text="See ``request_headers``.")
    body_kind = models.CharField(max_length=10, choices=BodyKind.choices, **EMPTY)
    body_sha256 = HexField(max_length=64, **EMPTY, help_text=_("SHA-256 of the sent body, in hexadecimal."))
    succeeded = models.BooleanField()
    reason = models.TextField(_("reason"), **EMPTY, help_text=_("Why it failed."))
    error_kind = models.CharField(_("error kind"), max_length=30, **EMPTY, help_text=_("The kind of the failure."))
    status = models.PositiveSmallIntegerField(
        _("status"), null=True, blank=True, help_text=_("The HTTP status, if there was a response.")
    )
    packed_response_headers = models.TextField(**EMPTY, help_text="See ``response_headers``.")
    response_body = models.TextField(**EMPTY, help_text=_("The beginning of the body."))
    worker = models.CharField(_("worker"), max_length=100, **EMPTY)
    requested_by = models.CharField(
        _("requested by"),
        max_length=USERNAME_LENGTH,
        **EMPTY,
        help_text=_("Who asked to send it again. Empty: the worker sent it by itself."),
    )

    objects = AttemptManager()

    class Meta:
        verbose_name, verbose_name_plural = _("attempt"), _("attempts")
        base_manager_name = "objects"
        default_permissions = ()
        ordering = ["delivery", "number"]

    def __str__(self) -> str:
        return f"attempt {self.number}"

    @property
    def request_headers(self) -> dict[str, str]:
        """The headers of the request. Values of secret headers and signatures are redacted."""
        return unpack_headers(self.packed_headers, self.delivery_id)

    @request_headers.setter
    def request_headers(self, headers: Mapping[str, str]) -> None:
        self.packed_headers = pack_headers(headers, str(self.delivery_id))

    @property
    def response_headers(self) -> dict[str, str]:
        return unpack_headers(self.packed_response_headers, self.delivery_id)

    @response_headers.setter
    def response_headers(self, headers: Mapping[str, str]) -> None:
        self.packed_response_headers = pack_headers(headers, str(self.delivery_id))


class Body(models.Model):
    """A request body from a template. Attempts of one delivery with equal bodies share it."""

    pk = models.CompositePrimaryKey("delivery_id", "sha256")
    delivery = models.ForeignKey(
        Delivery, on_delete=models.CASCADE, related_name="bodies", db_constraint=False, db_index=False
    )
    sha256 = HexField(max_length=64)
    content = models.BinaryField(help_text="Compressed by zlib.")

    objects = WriteDBManager()

    class Meta:
        base_manager_name = "objects"
        default_permissions = ()

    def __str__(self) -> str:
        return self.sha256
