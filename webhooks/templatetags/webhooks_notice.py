"""The link to the status page for the admin's index, with the problems that the page has: ``{% webhooks_notice %}``."""

from __future__ import annotations

from typing import Any

from django import template
from django.urls import NoReverseMatch, reverse

from webhooks.insight.status import problems_to_show
from webhooks.models import permissions

# The index names so many problems, the worst ones.
MAX_NAMED = 3

register = template.Library()


@register.inclusion_tag("rq_webhooks/admin/notice.html", takes_context=True)
def webhooks_notice(context: dict[str, Any]) -> dict[str, Any]:
    """Empty for users without permission for deliveries, for hosts that do not include ``webhooks.urls``, and the
    second time on a page: a host's own template of the index may have it, too."""
    request = context.get("request")
    user = getattr(request, "user", None)
    if user is None or not permissions.may_view_deliveries(user) or hasattr(request, "_has_webhooks_notice"):
        return {}
    try:
        url, why_url = reverse("webhooks_backend_status"), reverse("webhooks_why")
    except NoReverseMatch:
        return {}
    request._has_webhooks_notice = True  # type: ignore[union-attr]
    problems, may_ask = problems_to_show(user), permissions.may_view_webhooks(user)
    return {
        "url": url,
        "wrong": [alarm.text for alarm in problems[:MAX_NAMED]],
        "more": len(problems[MAX_NAMED:]),
        "why_url": why_url if may_ask else "",
    }
