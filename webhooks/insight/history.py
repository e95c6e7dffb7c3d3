"""The history: who changed which webhook, delivery or event.

Entries are rows of Django's ``LogEntry``, which the admin shows. Without the admin, or for a user who is not a row of
``AUTH_USER_MODEL``, an entry is one line in the log. The callable in the setting HISTORY gets each entry, too; then
none is in the log. No entry has a secret: a change lists the names of fields only. Entries are in English: they are
stored, and read in many languages.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.contenttypes.models import ContentType
from django.db import models, transaction
from django.utils import translation
from django.utils.module_loading import import_string
from django.utils.text import capfirst, get_text_list

from webhooks.ground.conf import conf
from webhooks.ground.errors import about, get_logger, reraise_job_timeout
from webhooks.ground.security import url_policy
from webhooks.ground.text import username_of
from webhooks.models import Delivery, Event, Webhook
from webhooks.models.permissions import find_user
from webhooks.models.webhook import SETTINGS, TOKEN_FIELDS
from webhooks.models.webhook_secrets import CREDENTIAL_FIELDS

logger = get_logger(__name__)
if logger.level == logging.NOTSET:
    logger.setLevel(logging.INFO)  # the default level of the root logger would drop the history

ADDITION, CHANGE, DELETION = 1, 2, 3  # the numbers of LogEntry
VERBS = {ADDITION: "added", CHANGE: "changed", DELETION: "deleted"}

Message = str | list[Any]  # text, or the admin's JSON format


@dataclass(frozen=True)
class HistoryEntry:
    """An entry, as the callable in the setting HISTORY gets it."""

    user: Any
    """A user of the project, or the name of a command."""
    username: str
    verb: str
    """ "added", "changed" or "deleted"."""
    model: type[models.Model]
    pk: Any
    """The key of the row. None if the entry is about many rows, or about a test of a webhook that is not saved."""
    name: str
    """The row in words, or how many rows."""
    message: str
    """Such as "Retried." or "Changed Name and URL."."""
    webhook_id: int | None = None
    """The key of the webhook that the row is or belongs to."""
    before: Mapping[str, Any] | None = None
    """The settings of a webhook before, as JSON values and without secrets: of those, only whether there is one. None
    if it is new, or if the act changed no setting."""
    after: Mapping[str, Any] | None = None
    """The same after the act. None if the webhook was deleted."""


def record(
    user: Any, rows: Iterable[models.Model], flag: int, message: Message = "", before: Mapping[str, Any] | None = None
) -> None:
    """Add one entry for each of these rows, which are of one model. ``before`` has the former values of settings of the
    webhook, as ``field_values`` returns them, if the act changed some."""
    rows = list(rows)
    with translation.override("en"):
        log_entries = _log_entries(user)
        if log_entries and rows:
            log_entries.log_actions(user.pk, rows, flag, message)
        if conf.history or not log_entries:
            _publish([_entry_of(user, row, flag, message, before) for row in rows], bool(log_entries))


def record_summary(user: Any, model: type[models.Model], summary: str, flag: int, message: str) -> None:
    """Add one entry for many rows, or for one that is not saved. ``summary`` says how many, and which."""
    if log_entries := _log_entries(user):
        content_type, name = ContentType.objects.get_for_model(model), summary[:200]
        log_entries.create(
            user_id=user.pk, content_type=content_type, object_repr=name, action_flag=flag, change_message=message
        )
    _publish([_entry(user, model, None, summary, flag, message)], bool(log_entries))


def _entry_of(
    user: Any, row: models.Model, flag: int, message: Message, before: Mapping[str, Any] | None
) -> HistoryEntry:
    entry = _entry(user, type(row), row.pk, str(row), flag, message)
    if not conf.history or not isinstance(row, Webhook):
        return replace(entry, webhook_id=getattr(row, "webhook_id", None))
    now = shown_settings(field_values(row)) if before or flag != CHANGE else None
    past = None if now is None or flag == ADDITION else now | shown_settings(before or {})
    return replace(entry, webhook_id=row.pk, before=past, after=None if flag == DELETION else now)


def shown_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a webhook among these values, as JSON values. Of a secret, and of a text that may contain
    one, only whether it is set."""
    shown = {name: values[name] for name in SETTINGS if name in values}
    for name in shown.keys() & {*CREDENTIAL_FIELDS, *TOKEN_FIELDS}:
        shown[name] = bool(shown[name])
    if "payload_url" in shown:
        shown["payload_url"] = url_policy.redacted(shown["payload_url"])
    return shown


def _entry(user: Any, model: type[models.Model], pk: Any, name: str, flag: int, message: Message) -> HistoryEntry:
    text = message if isinstance(message, str) else " ".join(_in_words(act) for act in message)
    return HistoryEntry(user, username_of(user), VERBS[flag], model, pk, name, text)


def _in_words(act: dict[str, Any]) -> str:
    """One act in the admin's format, such as "Changed Name and URL."."""
    [(verb, details)] = act.items()
    fields = get_text_list(list(map(str, details.get("fields", ()))), "and")
    return f"{capfirst(verb)} {fields}".strip() + "."


def _publish(entries: Iterable[HistoryEntry], is_stored: bool) -> None:
    """Give entries to the callable of the project, else to the log. An error of the callable is logged, and leaves the
    transaction of the act as it is."""
    if conf.history:
        try:
            with transaction.atomic(Webhook.objects.db):
                take = import_string(conf.history)
                for entry in entries:
                    take(entry)
            return
        except Exception as error:
            reraise_job_timeout(error)
            logger.exception('WEBHOOKS["HISTORY"]: %s failed', conf.history)
    elif is_stored:
        return
    for change in entries:
        kind, details = change.model._meta.verbose_name_raw, f": {change.message}" if change.message else ""
        logger.info(
            "History: %s %s %s “%s”%s",
            change.username,
            change.verb,
            kind,
            change.name,
            details,
            extra=_about(change),
        )


def _about(entry: HistoryEntry) -> dict[str, Any]:
    """What the record of an entry is about. An entry about many rows has no key."""
    if entry.model is Webhook:
        return about(webhook=entry.name)
    if entry.model is Delivery:
        return about(delivery=entry.pk or "")
    return about(event=entry.pk if entry.model is Event else None)


def newest_of_webhooks(webhooks: Collection[int]) -> Any:
    """The 50 newest rows of LogEntry about these webhooks. Empty without the admin."""
    entries = _all_log_entries()
    if not webhooks or not entries:
        return []
    logged = entries.filter(content_type=ContentType.objects.get_for_model(Webhook), object_id__in=map(str, webhooks))
    return logged.select_related("user").order_by("-action_time")[:50]


def user_named(username: str) -> Any:
    """The user of this name. Without one, the name itself: the entry then is one line in the log."""
    return find_user(username) or username


def _log_entries(user: Any) -> Any:
    """The manager of LogEntry, or None if there is no admin or no row of this user."""
    return _all_log_entries() if isinstance(user, get_user_model()) else None


def _all_log_entries() -> Any:
    if not apps.is_installed("django.contrib.admin"):
        return None
    from django.contrib.admin.models import LogEntry

    return LogEntry.objects


def field_values(row: models.Model) -> dict[str, Any]:
    """The values of a row's fields, many-to-many fields included."""
    values = {field.name: getattr(row, field.attname) for field in row._meta.concrete_fields}
    related = {
        field.name: sorted(item.pk for item in getattr(row, field.name).all()) for field in row._meta.many_to_many
    }
    return values | related


def describe_changes(row: models.Model, before: dict[str, Any], names: Iterable[str]) -> list[Any]:
    """A message in the admin's format that lists which of these fields changed since. Empty if none did."""
    now = field_values(row)
    changed: Sequence[str] = [name for name in names if name in now and now[name] != before[name]]
    with translation.override("en"):  # as Django stores them
        labels = [capfirst(str(row._meta.get_field(name).verbose_name)) for name in changed]  # type: ignore[union-attr]
    return [{"changed": {"fields": labels}}] if labels else []
