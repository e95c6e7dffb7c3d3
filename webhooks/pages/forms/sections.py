"""The sections of the form of a webhook: their titles, and lines about the values of their fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from textwrap import shorten

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from webhooks.ground.conf import conf
from webhooks.models import Webhook
from webhooks.models.webhook import SECTIONS
from webhooks.models.webhook_secrets import CREDENTIAL_FIELDS

# The boxes after a field that never shows its value.
BOXES = {name: [f"clear_{name}"] for name in CREDENTIAL_FIELDS}
BOXES["secret"].append("forget_previous_secret")


@dataclass(frozen=True)
class Section:
    """``name`` is one of ``models.webhook.SECTIONS``. ``summary`` says how the fields of a webhook are set. A section
    without one is always open."""

    name: str
    title: str | Promise
    summary: Callable[[Webhook], list[str]] | None = None

    @property
    def fields(self) -> list[str]:
        """Its settings in their order, each with its boxes."""
        return [field for name in SECTIONS[self.name] for field in (name, *BOXES.get(name, ()))]


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
        _("with static data") if webhook.static_data else "",
        _("with the previous state") if webhook.prechange else "",
        ngettext("%(count)s more header", "%(count)s more headers", lines) % {"count": lines} if lines else "",
        _("secret headers") if webhook.secret_headers else "",
        _("with the trace context") if webhook.send_trace else "",
    ]


def _delivery(webhook: Webhook) -> list[str]:
    order = _("changes of an object go one after the other") if webhook.ordered else _("in any order")
    return [order, _("%(seconds)s s for each attempt") % {"seconds": f"{webhook.timeout or conf.timeout:g}"}]


def _about(webhook: Webhook) -> list[str]:
    return [shorten(webhook.description or "", 60, placeholder=" …"), webhook.identifier or ""]


FORM = [
    Section("general", ""),
    Section("security", gettext_lazy("Signature and TLS"), _security),
    Section("filters", gettext_lazy("Filters"), _filters),
    Section("request", gettext_lazy("Request"), _request),
    Section("delivery", gettext_lazy("Delivery"), _delivery),
    Section("about", gettext_lazy("Description and identifier"), _about),
]
FIELD_ORDER = [name for section in FORM for name in section.fields]
