"""Skips: changes that a webhook did not want, and the rules that refused them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from django.db import models
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from webhooks.ground.db import delete_sql, execute_safely, insert_rows_sql
from webhooks.ground.text import NAME_LENGTH
from webhooks.ground.text.json_text import dumps, short_json
from webhooks.models.columns import (
    EMPTY,
    REQUEST_ID_LENGTH,
    USERNAME_LENGTH,
    WriteDBManager,
    alters_data,
    default,
    json_parts,
)
from webhooks.models.ids import new_id

# Characters of the JSON text of one value in ``Skip.detail``.
VALUE_LENGTH = 200


class Rule(models.TextChoices):
    """The rules that refuse changes. Each comment lists the keys of ``Skip.detail``, optional ones in brackets.

    ``reason`` is a sentence about a skip, with its ``user`` and the detail. It is empty if ``skip_reason`` writes it.
    ``edit`` is what to change in the webhook. It is empty if no filter of the webhook refuses the change.
    """

    reason: Promise | str
    edit: Promise | str

    def __new__(cls, value: str, reason: Promise | str = "", edit: Promise | str = "") -> Rule:
        member = str.__new__(cls, value)
        member._value_, member.reason, member.edit = value, reason, edit
        return member

    # fmt: off
    CONDITION = (  # path, operator, expected, (place, negate, actual, problem)
        "condition", "",
        _("If it should be sent, change the conditions of the webhook."),
        _("a condition"),
    )
    CHANGED_FIELDS = (  # wanted, changed
        "changed_fields", _("Only %(changed)s changed, and none of %(wanted)s."),
        _("If it should be sent, add a field to “only if these fields changed” of the webhook."),
        _("no wanted field changed"),
    )
    NO_CHANGE = (
        "no_change", _("The update changed nothing."),
        _("If it should be sent, clear “skip updates that change nothing” of the webhook."),
        _("nothing changed"),
    )
    IGNORED_USER = (
        "ignored_user", _("Changes by %(user)s are ignored."),
        _("If it should be sent, remove %(user)s from the ignored users of the webhook."),
        _("the user is ignored"),
    )
    LOOP_PROTECTION = (  # depth, limit
        "loop_protection",
        _("Loop protection: depth %(depth)s of a chain of changes that webhooks caused; MAX_DEPTH allows %(limit)s."),
        "",
        _("loop protection"),
    )
    DISABLED = (  # since, by, (reason)
        "disabled", "", "",
        _("the webhook was disabled"),
    )
    # fmt: on

    @classmethod
    def filters(cls) -> set[Rule]:
        """The rules that an edit of a webhook can make wrong."""
        return {rule for rule in cls if rule.edit}


@dataclass(frozen=True)
class Refusal:
    """Why a webhook does not want a change. ``detail`` is JSON text."""

    rule: Rule
    detail: str = "{}"

    @classmethod
    def because(cls, rule: Rule, **detail: Any) -> Refusal:
        """With each value of the detail cut to ``VALUE_LENGTH``."""
        return cls(rule, dumps({name: short_json(value, VALUE_LENGTH) for name, value in detail.items()}))


class Skip(models.Model):
    """One change that a webhook did not want. Its id sorts by time."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # Without a constraint in the database: it would lock the row of the webhook, and saves would wait for its edits.
    webhook = models.ForeignKey(
        "rq_webhooks.Webhook",
        on_delete=models.CASCADE,
        related_name="skips",
        db_constraint=False,
        db_index=False,
        verbose_name=_("webhook"),
    )
    timestamp = models.DateTimeField(_("timestamp"), default=timezone.now, db_default=models.functions.Now())
    action = models.CharField(_("action"), max_length=100, **EMPTY)
    object_type = models.CharField(_("object type"), max_length=200, **EMPTY)
    object_id = models.CharField(_("object id"), max_length=255, **EMPTY)
    object_repr = models.CharField(
        _("object name"), max_length=NAME_LENGTH, **EMPTY, help_text=_("Empty if the object was not read.")
    )
    username = models.CharField(_("username"), max_length=USERNAME_LENGTH, **EMPTY)
    request_id = models.CharField(_("request id"), max_length=REQUEST_ID_LENGTH, **EMPTY)
    rule = models.CharField(_("rule"), max_length=20, choices=Rule.choices, **EMPTY)
    detail = models.TextField(
        _("detail"), **default("{}"), help_text=_("What the rule wanted and what it found, as JSON text.")
    )
    counted = models.BooleanField(**default(False), editable=False, help_text=_("Whether the statistics count it."))

    objects = WriteDBManager()

    class Meta:
        base_manager_name = "objects"
        default_permissions = ("view",)
        verbose_name, verbose_name_plural = _("skipped change"), _("skipped changes")
        ordering = ["-pk"]
        indexes = [
            # With these conditions they are not for a look-up by id, see docs/worker.md.
            models.Index(
                fields=["webhook", "id"], name="rq_webhooks_skip_of_webhook", condition=models.Q(webhook__isnull=False)
            ),
            models.Index(
                fields=["object_type", "object_id", "id"],
                name="rq_webhooks_skip_object",
                condition=models.Q(object_type__isnull=False),
            ),
            models.Index(fields=["id"], name="rq_webhooks_skip_uncounted", condition=models.Q(counted=False)),
        ]

    def __str__(self) -> str:
        return f"{self.object_type} {self.object_id} {self.action}"

    def shown_detail(self, shows_actual: bool) -> dict[str, Any]:
        """The detail of the rule. The actual value of a condition is data of the object, which not all users see."""
        detail: dict[str, Any] = json.loads(self.detail)
        return detail if shows_actual else {name: value for name, value in detail.items() if name != "actual"}

    @classmethod
    @alters_data
    def store_all(cls, skips: Iterable[Skip], using: str) -> None:
        """Insert skips, or replace those with the same ids. An error leaves the open transaction usable."""
        columns = [str(column.column) for column in cls._meta.local_concrete_fields]
        replaced = ", ".join(f"{name} = EXCLUDED.{name}" for name in columns if name != "id")
        statement = f"{insert_rows_sql(using, columns, 'rq_webhooks_skip')} ON CONFLICT (id) DO UPDATE SET {replaced}"
        for rows in json_parts(skips, using):
            execute_safely(using, statement, [rows])

    @classmethod
    @alters_data
    def delete_all(cls, ids: Collection[uuid.UUID], using: str) -> None:
        """Delete skips by their ids. An error leaves the open transaction usable."""
        execute_safely(using, *delete_sql(using, "rq_webhooks_skip", "id", ids, "uuid"))
