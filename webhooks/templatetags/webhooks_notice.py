"""The link to the status page for the admin's index, with the problems: ``{% webhooks_notice %}``.

It takes four small queries of rows that an index finds, and none to Redis. The status page looks at more.
"""

from __future__ import annotations

from typing import Any

from django import template
from django.db.models import Q
from django.urls import NoReverseMatch, reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webhooks import permissions
from webhooks.conf import conf
from webhooks.db import DatabaseNow, index_plans
from webhooks.models import Delivery, Event, Sweep
from webhooks.models.webhook_states import IS_PAUSED
from webhooks.operations.wording import number

# A worker of the shipped class sweeps every few seconds. After this many without a sweep, none is alive.
LATE = 30

IN_TROUBLE = IS_PAUSED | Q(enabled=True, failures_in_a_row__gt=0) | (Q(enabled=False) & ~Q(disabled_reason=""))

register = template.Library()


@register.inclusion_tag("webhooks/admin/notice.html", takes_context=True)
def webhooks_notice(context: dict[str, Any]) -> dict[str, Any]:
    """Empty for users without permission for deliveries, and for hosts that do not include ``webhooks.urls``."""
    user = getattr(context.get("request"), "user", None)
    if user is None or not permissions.may_view_deliveries(user):
        return {}
    try:
        url, why_url = reverse("webhooks_backend_status"), reverse("webhooks_why")
    except NoReverseMatch:
        return {}
    may_ask = permissions.may_view_webhooks(user)
    return {"url": url, "wrong": find_problems(user), "why_url": why_url if may_ask else ""}


def find_problems(user: Any) -> list[str]:
    """The problems, in a few words each, as far as the user may see them. Empty if there are none."""
    if not conf.enabled:
        return [_("webhooks are turned off")]
    found = []
    # Without any sweep, no worker ever ran: that is no news on a new site.
    if Sweep.objects.filter(pk=1, swept_at__lt=DatabaseNow(-LATE)).exists():
        found.append(_("no worker seems to be running"))
    troubled = permissions.visible_webhooks(user).filter(IN_TROUBLE).count()
    if troubled:
        text = ngettext(
            "%(count)s webhook is paused, failing or disabled",
            "%(count)s webhooks are paused, failing or disabled",
            troubled,
        )
        found.append(text % {"count": number(troubled)})
    with index_plans(Delivery.objects.db):
        if permissions.visible_queue(user).failed().order_by("failed_at").values("pk")[:1]:
            found.append(_("deliveries failed"))
        if permissions.visible_events(user, Event.objects.failed()).order_by("timestamp").values("pk")[:1]:
            found.append(_("events failed"))
    return found
