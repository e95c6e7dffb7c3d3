"""The link to the status page for the admin's index, with what is wrong: ``{% webhooks_notice %}``."""

from __future__ import annotations

from typing import Any

from django import template
from django.urls import NoReverseMatch, reverse

from webhooks import permissions
from webhooks.operations.notice import read_notice

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
    return {"url": url, "wrong": read_notice(user), "why_url": why_url if may_ask else ""}
