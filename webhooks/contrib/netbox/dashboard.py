"""The widget “Webhooks” for NetBox's dashboard: what is wrong, what waits, and the way to the status page."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from extras.dashboard.utils import register_widget
from extras.dashboard.widgets import DashboardWidget

from webhooks.ground import text as texts
from webhooks.insight.status import problems_to_show
from webhooks.models import permissions

# The widget names so many problems, the worst ones.
MAX_NAMED = 5


@register_widget
class WebhooksWidget(DashboardWidget):
    default_title = _("Webhooks")  # as NetBox's own: it needs plain text
    description = _("Show what is wrong with webhooks, and the way to the status page.")
    width, height = 4, 3

    def render(self, request: HttpRequest) -> SafeString:
        context: dict[str, Any] = {"may_view": permissions.may_view_deliveries(request.user)}
        if context["may_view"]:
            problems = problems_to_show(request.user)
            context |= {
                "problems": problems[:MAX_NAMED],
                "more": len(problems[MAX_NAMED:]),
                "may_ask_why": permissions.may_view_webhooks(request.user),
            }
        shown = render_to_string("rq_webhooks/netbox/widget.html", context)
        return mark_safe(texts.escape_invisible(shown))  # noqa: S308 # nosec B308 B703 # the template has escaped it
