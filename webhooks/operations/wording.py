"""Numbers and times in words, for pages, responses and commands, in the language of the reader."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.utils import timezone, translation
from django.utils.formats import date_format, number_format
from django.utils.translation import gettext, ngettext_lazy, pgettext

# The nouns of ``count_of``, for labels. In a sentence, give the whole sentence to ``ngettext``: other
# languages inflect these words.
NOUNS = {
    "byte": ngettext_lazy("%(number)s byte", "%(number)s bytes", "count"),
    "change": ngettext_lazy("%(number)s change", "%(number)s changes", "count"),
    "delivery": ngettext_lazy("%(number)s delivery", "%(number)s deliveries", "count"),
    "delivery or event": ngettext_lazy("%(number)s delivery or event", "%(number)s deliveries and events", "count"),
    "error": ngettext_lazy("%(number)s error", "%(number)s errors", "count"),
    "event": ngettext_lazy("%(number)s event", "%(number)s events", "count"),
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
    return gettext("%(names)s and %(last)s") % {"names": ", ".join(parts[:-1]), "last": parts[-1]}


def span(seconds: float) -> str:
    """A rough length of time: "42 s", "3 min", "5 h", "12 d"."""
    if seconds >= 86400:
        return gettext("%(days)d d") % {"days": round(seconds / 86400)}
    if seconds >= 3600:
        return gettext("%(hours)d h") % {"hours": round(seconds / 3600)}
    if seconds >= 60:
        return gettext("%(minutes)d min") % {"minutes": round(seconds / 60)}
    return gettext("%(seconds)d s") % {"seconds": round(max(0, seconds))}


def exact_time(moment: datetime) -> str:
    """A moment to the second, in the site's time zone."""
    local = timezone.localtime(moment) if timezone.is_aware(moment) else moment
    # Translators: a date and a time to the second, in the letters of strftime, which is faster than Django's filter.
    form = pgettext("format of a date and time", "%Y-%m-%d %H:%M:%S")
    return f"{local.strftime(form)} {local.tzname() or ''}".strip()


def clock_time(moment: datetime) -> str:
    """A moment of today as "02:11", of another day as "25 Nov 02:11"."""
    local = timezone.localtime(moment) if timezone.is_aware(moment) else moment
    if local.date() == timezone.localdate():
        # Translators: a time, in the letters of strftime.
        return local.strftime(pgettext("format of a time of today", "%H:%M"))
    # Translators: a day and a time, in the letters of Django's date filter, which translates the month.
    return date_format(local, pgettext("format of a time of another day", "j M H:i"))


def sentence(text: str) -> str:
    """The text with a full stop, if it has no other end."""
    return text if text.endswith((".", "…", "!")) else f"{text}."
