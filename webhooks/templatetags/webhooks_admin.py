"""The addresses of links in Django's admin: ``{{ link|address }}``."""

from __future__ import annotations

from urllib.parse import urlencode

from django import template
from django.urls import reverse

from webhooks.pages.links import Link

register = template.Library()


@register.filter
def address(link: Link) -> str:
    """The address that a link opens or posts to."""
    match link.model:
        case "status":
            return reverse("webhooks_backend_status")
        case "why":
            url = reverse("webhooks_why")
            return f"{url}?{urlencode(link.filters)}"
        case "database":
            return "#wh-database"
    act = link.act or ("changelist" if link.key is None else "change")
    url = reverse(f"admin:rq_webhooks_{link.model}_{act}", args=[] if link.key is None else [link.key])
    return f"{url}?{urlencode(link.filters)}" if link.filters else url
