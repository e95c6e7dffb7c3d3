"""Numbers, times and the reasons of skips in words, in the language of the reader."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from django.utils import timezone, translation
from django.utils.formats import date_format, number_format
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import ngettext_lazy, pgettext

from webhooks.capture.conditions import WITHOUT_VALUE
from webhooks.ground import registry
from webhooks.ground.conf import conf
from webhooks.ground.db import to_utc
from webhooks.models import Skip, Webhook
from webhooks.models.permissions.redaction import last_failure
from webhooks.models.skip import Rule
from webhooks.models.webhook_states import DisabledReason

# The nouns of ``count_of``, for labels. In a sentence, give the whole sentence to ``ngettext``: other
# languages inflect these words.
NOUNS = {
    "byte": ngettext_lazy("%(number)s byte", "%(number)s bytes", "count"),
    "change": ngettext_lazy("%(number)s change", "%(number)s changes", "count"),
    "delivery": ngettext_lazy("%(number)s delivery", "%(number)s deliveries", "count"),
    "delivery or event": ngettext_lazy("%(number)s delivery or event", "%(number)s deliveries and events", "count"),
    "error": ngettext_lazy("%(number)s error", "%(number)s errors", "count"),
    "event": ngettext_lazy("%(number)s event", "%(number)s events", "count"),
    "object": ngettext_lazy("%(number)s object", "%(number)s objects", "count"),
    "other": ngettext_lazy("%(number)s other", "%(number)s others", "count"),
    "run": ngettext_lazy("%(number)s run", "%(number)s runs", "count"),
    "skipped change": ngettext_lazy("%(number)s skipped change", "%(number)s skipped changes", "count"),
    "warning": ngettext_lazy("%(number)s warning", "%(number)s warnings", "count"),
    "webhook": ngettext_lazy("%(number)s webhook", "%(number)s webhooks", "count"),
}


def in_english() -> translation.override:
    """For text that is stored: its readers have many languages. A context manager, and a decorator."""
    return translation.override("en")


def number(count: int, cap: int | None = None) -> str:
    """A count as text. A count above its cap is shown as "10,000+"."""
    shown = number_format(count if cap is None else min(count, cap), use_l10n=True, force_grouping=True)
    return f"{shown}+" if cap is not None and count > cap else shown


def count_of(count: int, noun: str, cap: int | None = None) -> str:
    """ "1 webhook", "12 webhooks". ``noun`` is one of ``NOUNS``."""
    return NOUNS[noun] % {"count": count, "number": number(count, cap)}


def listed(names: Sequence[str], count: int) -> str:
    """The first names of ``count`` things: "CMDB, IPAM and 2 others"."""
    parts = [*names, count_of(count - len(names), "other")] if count > len(names) else list(names)
    if len(parts) < 2:
        return "".join(parts)
    return _("%(names)s and %(last)s") % {"names": ", ".join(parts[:-1]), "last": parts[-1]}


def span(seconds: float) -> str:
    """A rough length of time: "42 s", "3 min", "5 h", "12 d"."""
    if seconds >= 86400:
        return _("%(days)d d") % {"days": round(seconds / 86400)}
    if seconds >= 3600:
        return _("%(hours)d h") % {"hours": round(seconds / 3600)}
    if seconds >= 60:
        return _("%(minutes)d min") % {"minutes": round(seconds / 60)}
    return _("%(seconds)d s") % {"seconds": round(max(0, seconds))}


def exact_time(moment: datetime | None) -> str:
    """A moment to the second, in the site's time zone. None is an unknown one."""
    if moment is None:
        return _("an unknown time")
    local = local_time(to_utc(moment))
    # Translators: a date and a time to the second, in the letters of strftime, which is faster than Django's filter.
    form = pgettext("format of a date and time", "%Y-%m-%d %H:%M:%S")
    return f"{local.strftime(form)} {local.tzname()}"


def clock_time(moment: datetime) -> str:
    """A moment of today as "02:11", of another day as "25 Nov 02:11"."""
    local = local_time(moment)
    if local.date() == local_time(timezone.now()).date():
        # Translators: a time, in the letters of strftime.
        return local.strftime(pgettext("format of a time of today", "%H:%M"))
    # Translators: a day and a time, in the letters of Django's date filter, which translates the month.
    return date_format(local, pgettext("format of a time of another day", "j M H:i"))


def local_time(moment: datetime) -> datetime:
    """In the site's time zone. A naive moment is in it already."""
    return timezone.localtime(moment) if timezone.is_aware(moment) else moment


def sentence(text: str) -> str:
    """The text with a full stop, if it has no other end."""
    return text if text.endswith((".", "…", "!", "?")) else f"{text}."


def skip_reason(skip: Skip, shows_actual: bool) -> str:
    """The reason as a sentence. ``shows_actual`` adds the value that a condition found, which is data of the object."""
    try:
        return _reason(skip, skip.shown_detail(shows_actual))
    except (KeyError, ValueError):  # a newer version stored it
        return _("Another version of the app stored the reason: %(rule)s.") % {"rule": skip.rule}


def _reason(skip: Skip, detail: dict[str, Any]) -> str:
    match skip.rule:
        case Rule.CONDITION:
            return _describe_condition(detail)
        case Rule.DISABLED:
            since = datetime.fromisoformat(detail["since"]) if detail["since"] else None
            reason = detail.get("reason", "")
            known = str(DisabledReason(reason).label) if reason in DisabledReason else reason
            return was_disabled(since, detail["by"], known)
    values = {name: _joined(value) for name, value in detail.items()}
    return str(Rule(skip.rule).reason) % {"user": skip.username, **values}


def why_disabled(webhook: Webhook) -> str:
    """Why a webhook was disabled automatically; empty if it was not."""
    if webhook.disabled_reason != DisabledReason.FAILING or webhook.failing_since is None:
        return str(webhook.get_disabled_reason_display())
    text = _("every attempt since %(time)s failed, the last one with: %(reason)s")
    return text % {"time": exact_time(webhook.failing_since), "reason": last_failure(webhook)}


def registration_remedy(models: Collection[str], events: Collection[str] = ()) -> str:
    """How to register these models and custom events of a webhook again, or to do without them."""
    return f"{how_to_register(models, events)} {_('If it should not be sent, remove it from the webhook.')}"


def how_to_register(models: Collection[str], events: Collection[str] = ()) -> str:
    """How to register these models and custom events."""
    known = [label for label in models if registry.is_model(label)]
    searched = {label: registry.missing_serializer_paths(label, conf.models) for label in known}
    sentences = []
    for label, paths in searched.items():
        if paths:
            text = _("Define the serializer of %(model)s, %(paths)s, or name it in webhooks.register(…, serializer=…).")
            sentences.append(text % {"model": label, "paths": _(" or ").join(paths)})
    if not all(searched.values()):
        sentences.append(_('Name it in the setting WEBHOOKS["MODELS"], or call webhooks.register() for it.'))
    if events:
        sentences.append(_("Call webhooks.register_event() for it."))
    if sentences:
        sentences.append(_("Then restart the site and the workers."))
    if gone := [label for label in models if label not in searched]:
        sentences.append(_("This site has no model %(models)s.") % {"models": ", ".join(gone)})
    return " ".join(sentences)


def was_disabled(since: datetime | None, user: str, reason: str) -> str:
    """A sentence with the time, and the reason or the user if one is known."""
    text = _("The webhook was disabled at %(time)s.")
    if reason:
        text = _("The webhook was disabled at %(time)s: %(reason)s")
    elif user:
        text = _("The webhook was disabled at %(time)s by %(user)s.")
    return text % {"time": exact_time(since), "user": user, "reason": sentence(reason)}


def _describe_condition(detail: dict[str, Any]) -> str:
    if "path" not in detail:
        return _("The conditions cannot be judged: %(problem)s.") % detail
    operator = detail["operator"]
    negated = "not " if "negate" in detail else ""
    wanted = f"{negated}{operator}" if operator in WITHOUT_VALUE else f"{negated}{operator} {_json(detail['expected'])}"
    values = {"place": detail.get("place", ""), "path": detail["path"] or _("a condition"), "wanted": wanted}
    text = _("The condition wants %(path)s %(wanted)s.")
    if "place" in detail:
        text = _("The condition at %(place)s wants %(path)s %(wanted)s.")
    words = ""
    if "problem" in detail:
        words = sentence(capfirst(detail["problem"]))
    elif "actual" in detail:
        words = _("It was %(value)s.") % {"value": _json(detail["actual"])}
    return f"{text % values} {words}".strip()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _joined(names: Any) -> str:
    return ", ".join(names) or _("nothing") if isinstance(names, list) else names  # the beginning of a long text
