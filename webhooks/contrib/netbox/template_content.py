"""An alarm in the bar of NetBox's home page, for users who may view deliveries."""

from __future__ import annotations

from typing import Any

from netbox.plugins import PluginTemplateExtension

from webhooks.insight.status import problems_to_show
from webhooks.models import permissions


class Alarm(PluginTemplateExtension):
    """Only on the home page: the alarms take about ten queries, and are up to 5 s old."""

    def navbar(self) -> Any:
        request = self.context["request"]
        is_home = getattr(request.resolver_match, "view_name", "") == "home"
        if not is_home or not permissions.may_view_deliveries(request.user):
            return ""
        problems = problems_to_show(request.user)
        return self.render("rq_webhooks/netbox/alarm.html", {"problems": problems}) if problems else ""


template_extensions = [Alarm]
