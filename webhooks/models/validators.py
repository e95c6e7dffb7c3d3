"""What single fields of a webhook refuse. Each raises ValidationError, with the reason in words."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.utils.text import capfirst

from webhooks.logs import one_line
from webhooks.network import headers
from webhooks.security import signing
from webhooks.text import escape_invisible

# As in Django's own model of users, and in an Event.
USERNAME_LENGTH = 150
MOST_USERNAMES = 100

# RFC 9110, 8.3.1: type and subtype, and any parameters that can be written in a header.
_WORD = headers.NAME.pattern
_MEDIA_TYPE = rf"\A{_WORD}/{_WORD}([ \t]*;[ \t]*[\x21-\x7e][\x20-\x7e]*)?\Z"

check_media_type = RegexValidator(_MEDIA_TYPE, "Enter a content type, such as application/json.")


def check_secret(value: str) -> None:
    try:
        signing.key_of(value)
    except ValueError as error:
        raise ValidationError(capfirst(str(error))) from error


def check_headers(value: str) -> None:
    if reason := headers.problem(value):
        raise ValidationError(reason)


def check_visible(value: str) -> None:
    """Raise ValidationError for a text with characters that cannot be seen, and deceive."""
    if escape_invisible(value, breaks=True) != value:
        raise ValidationError(f"There are characters in it that cannot be seen: {one_line(value)}")


def check_usernames(value: Any) -> None:
    """Raise ValidationError for what is no list of names, each of them once."""
    is_list = isinstance(value, list) and all(isinstance(name, str) and name.strip() for name in value)
    if not is_list or len(set(value)) != len(value):
        raise ValidationError("Enter a list of user names, each of them once.")
    if len(value) > MOST_USERNAMES:
        raise ValidationError(f"There are {len(value)} names; {MOST_USERNAMES} are the most.")
    if odd := [name for name in value if len(name) > USERNAME_LENGTH or not name.isprintable()]:
        raise ValidationError(f"No user can have this name: {one_line(odd[0][:USERNAME_LENGTH])}")
