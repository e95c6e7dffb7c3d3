"""The links and buttons of the core's pages, with addresses in NetBox: ``{% load webhooks_netbox %}``.

``{% buttons links %}``          a row of buttons: some open a page, some post with a CSRF token
``{% buttons links "sm" %}``     the same, small, for tables and alerts
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlencode

from django import template
from django.urls import NoReverseMatch, reverse
from utilities.views import get_action_url

from webhooks.contrib.netbox import PLUGIN
from webhooks.ground import registry
from webhooks.models import Action, Event, permissions
from webhooks.pages.links import Link

register = template.Library()


def address(link: Link) -> str:
    """The address that a link opens or posts to."""
    act = link.act or ("list" if link.key is None else "")
    is_one_page = link.model in ("status", "why")
    url = page_url(
        f"{link.model}_{act}" if act and not is_one_page else link.model, *([] if link.key is None else [link.key])
    )
    return f"{url}?{urlencode(link.filters, doseq=True)}" if link.filters else url


def page_url(name: str, *args: Any) -> str:
    """The address of a page of the plugin, such as "delivery_list"."""
    return reverse(f"plugins:{PLUGIN}:{name}", args=args)


def object_url(event: Event, user: Any) -> str:
    """NetBox's page of an event's object. Empty if it is deleted, has no page, or the user may not view it."""
    registration = registry.registration_by_label(event.object_type)
    if registration is None or event.action == Action.DELETED:
        return ""
    if not permissions.may_view_object(user, event.object_type, event.object_id):
        return ""
    try:
        return str(get_action_url(registration.model, kwargs={"pk": event.object_id}))
    except NoReverseMatch:
        return ""


@register.inclusion_tag("rq_webhooks/netbox/buttons.html", takes_context=True)
def buttons(context: Any, links: Iterable[Link] | Link | None, size: str = "") -> dict[str, Any]:
    """A row of buttons. A dangerous one asks first. ``size`` is one of Bootstrap's, such as "sm".

    A button returns to this page, or to ``return_url`` of the context.
    """
    row = [links] if isinstance(links, Link) else list(links or ())
    named = [(link, f"wh-{link.model}-{link.act}-{link.key}") for link in row]
    return_url = context.get("return_url") or context["request"].get_full_path()
    return {"links": named, "size": size, "return_url": return_url, "address_of": address}
