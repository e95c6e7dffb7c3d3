"""The sections of the form of a webhook, in the order of a first-time user. Each title says how its fields are set."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from webhooks.conf import conf
from webhooks.models import Webhook
from webhooks.models.webhook import ACTION_FIELDS

HEADERS = ("additional_headers", "secret_headers", "clear_secret_headers")

# These never show their values, so a section does not open for them. Its line says whether they are set.
WRITE_ONLY = {"secret", "secret_headers"}

Fieldset = tuple[Any, dict[str, Any]]


@dataclass(frozen=True)
class Section:
    """``summary`` says how the fields of a webhook are set. A section without one is always open."""

    title: str | Promise
    fields: Sequence[str | tuple[str, ...]]
    summary: Callable[[Webhook], list[str]] | None = None


def _security(webhook: Webhook) -> list[str]:
    return [
        _("requests are signed") if webhook.secret else _("requests are not signed"),
        _("TLS certificates are verified") if webhook.ssl_verification else _("TLS certificates are not verified"),
        _("with a CA file") if webhook.ca_file_path else "",
    ]


def _filters(webhook: Webhook) -> list[str]:
    fields, users = webhook.changed_fields or [], webhook.excluded_usernames or []
    found = [
        _("changes that match conditions") if webhook.conditions else "",
        _("updates of %(fields)s") % {"fields": ", ".join(map(str, fields))} if fields else "",
        _("no updates that change nothing") if webhook.only_changes else "",
        _("no changes by %(users)s") % {"users": ", ".join(map(str, users))} if users else "",
    ]
    return found if any(found) else [_("every change of these models is sent")]


def _request(webhook: Webhook) -> list[str]:
    lines = len((webhook.additional_headers or "").strip().splitlines())
    body = _("the body from a template") if webhook.body_template else _("the whole payload")
    return [
        webhook.http_method,
        webhook.content_type,
        body,
        _("serializer %(name)s") % {"name": webhook.serializer} if webhook.serializer else "",
        _("with the previous state") if webhook.prechange else "",
        ngettext("%(count)s more header", "%(count)s more headers", lines) % {"count": lines} if lines else "",
        _("secret headers") if webhook.secret_headers else "",
    ]


def _delivery(webhook: Webhook) -> list[str]:
    order = _("changes of an object go one after the other") if webhook.ordered else _("in any order")
    return [order, _("%(seconds)s s for each attempt") % {"seconds": f"{webhook.timeout or conf.timeout:g}"}]


SECTIONS = [
    Section("", ["name", "payload_url", "object_types", tuple(ACTION_FIELDS), "custom_events", "enabled"]),
    Section(
        gettext_lazy("Signature and TLS"),
        ["secret", "clear_secret", "forget_previous_secret", "ssl_verification", "ca_file_path"],
        _security,
    ),
    Section(
        gettext_lazy("Filters"), ["conditions", "changed_fields", "only_changes", "excluded_usernames"], _filters
    ),
    Section(
        gettext_lazy("Request"),
        ["http_method", "content_type", "body_template", *HEADERS, "serializer", "prechange"],
        _request,
    ),
    Section(gettext_lazy("Delivery"), ["ordered", "timeout"], _delivery),
]  # fmt: skip


def fieldsets(left_out: Collection[str], url: str) -> list[Fieldset]:
    """All sections, closed, without the fields of ``left_out``. ``url`` is the field that shows the URL."""
    found = []
    for section in SECTIONS:
        names = [url if name == "payload_url" else name for name in section.fields if name not in left_out]
        options = {"fields": names, "classes": ["collapse"] if section.summary else []}
        found.append((section.title or None, options))
    return found


def describe(sections: Sequence[Fieldset], webhook: Webhook) -> list[Fieldset]:
    """The sections with a line about the values of the webhook in each title. A section with a value that is not the
    default is open."""
    by_title = {section.title: section for section in SECTIONS if section.summary}
    found: list[Fieldset] = []
    for title, options in sections:
        if section := by_title.get(title):
            shown = capfirst(", ".join(part for part in section.summary(webhook) if part))  # type: ignore[misc]
            if any(_is_changed(webhook, name) for name in options["fields"]):
                options = options | {"classes": []}
            title = format_html('{} <span class="wh-summary">{}</span>', title, shown)
        found.append((title, options))
    return found


def _is_changed(webhook: Webhook, name: str | tuple[str, ...]) -> bool:
    """Whether a field shows a value that is not its default."""
    column: Any = {field.name: field for field in Webhook._meta.fields}.get(name)  # type: ignore[arg-type]
    if column is None or name in WRITE_ONLY:
        return False
    return (getattr(webhook, column.name) or None) != (column.get_default() or None)
