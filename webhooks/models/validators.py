"""Validators of single columns of a webhook. ``operations.validation`` judges it as a whole."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from webhooks.ground.text import HEADER_NAME, one_line
from webhooks.models.columns import USERNAME_LENGTH

MAX_USERNAMES = 100

# RFC 9110, 8.3.1: type and subtype, then any parameters that can be written in a header.
check_media_type = RegexValidator(
    rf"\A{HEADER_NAME}/{HEADER_NAME}([ \t]*;[ \t]*[\x21-\x7e][\x20-\x7e]*)?\Z",
    gettext_lazy("Enter a content type, such as application/json."),
)

check_identifier = RegexValidator(
    r"\A[a-z][a-z0-9_-]*\Z",
    gettext_lazy("Begin with a small letter, and go on with small letters, digits, “-” and “_”."),
)


def check_visible(value: str) -> None:
    """Refuse invisible characters. They can make a name look like another one."""
    if (shown := one_line(value)) != value:
        raise ValidationError(_("Contains invisible characters: %(text)s") % {"text": shown})


def check_usernames(value: Any) -> None:
    if not is_list_of_names(value) or len(set(value)) != len(value):
        raise ValidationError(_("Enter a list of user names, each of them once."))
    if len(value) > MAX_USERNAMES:
        too_many = _("Enter at most %(most)d names. There are %(count)d.")
        raise ValidationError(too_many % {"most": MAX_USERNAMES, "count": len(value)})
    if invalid := [name for name in value if len(name) > USERNAME_LENGTH or not name.isprintable()]:
        shown = one_line(invalid[0][:USERNAME_LENGTH])
        raise ValidationError(_("No user can have this name: %(name)s") % {"name": shown})


def is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and name.strip() for name in value)
