"""Reasons of skips as sentences, for pages and responses, in the language of the reader."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from django.utils.text import capfirst
from django.utils.translation import gettext as _

from webhooks.conditions import CHANGES
from webhooks.models import Skip, Webhook
from webhooks.models.skip import Rule
from webhooks.models.webhook import DisabledReason
from webhooks.operations.wording import exact_time, sentence


def skip_reason(skip: Skip, shows_actual: bool) -> str:
    """The reason as a sentence. ``shows_actual`` adds the value that a condition found, which is data of the object."""
    detail = skip.shown_detail(shows_actual)
    match skip.rule:
        case Rule.CONDITION:
            return _describe_condition(detail)
        case Rule.CHANGED_FIELDS:
            return _("Only %(changed)s changed, and none of %(wanted)s.") % {
                "changed": _listed(detail["changed"]),
                "wanted": _listed(detail["wanted"]),
            }
        case Rule.NO_CHANGE:
            return _("The update changed nothing.")
        case Rule.IGNORED_USER:
            return _("Changes by %(user)s are ignored.") % {"user": skip.username}
        case Rule.LOOP_PROTECTION:
            return (
                _(
                    "Loop protection: depth %(depth)s of a chain of changes that webhooks caused; MAX_DEPTH allows "
                    "%(limit)s."
                )
                % detail
            )
    since = datetime.fromisoformat(detail["since"]) if detail["since"] else None
    reason = detail.get("reason", "")
    return was_disabled(since, detail["by"], str(DisabledReason(reason).label) if reason in DisabledReason else reason)


def why_disabled(webhook: Webhook) -> str:
    """Why a webhook was disabled automatically; empty if it was not."""
    if webhook.disabled_reason != DisabledReason.FAILING or webhook.failing_since is None:
        return str(webhook.get_disabled_reason_display())
    text = _("every attempt since %(time)s failed, the last one with: %(reason)s")
    return text % {"time": exact_time(webhook.failing_since), "reason": webhook.last_failure}


def was_disabled(since: datetime | None, user: str, reason: str) -> str:
    """A sentence with the time, and the reason or the user. It leaves out each that is empty."""
    values = {"time": exact_time(since) if since else "", "user": user, "reason": reason}
    if reason:
        text = _("The webhook was disabled: %(reason)s")
        if since:
            text = _("The webhook was disabled at %(time)s: %(reason)s")
        return sentence(text % values)
    match bool(since), bool(user):
        case True, True:
            text = _("The webhook was disabled at %(time)s by %(user)s.")
        case True, False:
            text = _("The webhook was disabled at %(time)s.")
        case False, True:
            text = _("The webhook was disabled by %(user)s.")
        case _:
            text = _("The webhook was disabled.")
    return text % values


def _describe_condition(detail: dict[str, Any]) -> str:
    if "path" not in detail:
        return _("The conditions cannot be judged: %(problem)s.") % detail
    operator = detail["operator"]
    negated = "not " if "negate" in detail else ""
    wanted = f"{negated}{operator}" if operator in CHANGES else f"{negated}{operator} {_json(detail['expected'])}"
    values = {"place": detail.get("place", ""), "path": detail["path"] or _("a condition"), "wanted": wanted}
    text = _("The condition wants %(path)s %(wanted)s.")
    if "place" in detail:
        text = _("The condition at %(place)s wants %(path)s %(wanted)s.")
    found = ""
    if "problem" in detail:
        found = sentence(capfirst(detail["problem"]))
    elif "actual" in detail:
        found = _("It was %(value)s.") % {"value": _json(detail["actual"])}
    return f"{text % values} {found}".strip()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _listed(names: Any) -> str:
    return ", ".join(names) or _("nothing") if isinstance(names, list) else names  # the beginning of a long text
