"""“Why didn't it fire?”: a page that asks about an object, an event, a delivery, a request or a webhook."""

from __future__ import annotations

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from webhooks import permissions
from webhooks.admin.display import page
from webhooks.insight.why_page import read_why_page


@require_safe
def show(request: HttpRequest) -> HttpResponse:
    """The form, and below it the answer to the question in the address."""
    if not permissions.may_view_webhooks(request.user):
        raise PermissionDenied
    shown = read_why_page(request.GET.dict(), request.user)
    context = {**admin.site.each_context(request), "title": _("Why didn't it fire?"), "shown": shown}
    return page(request, "rq_webhooks/admin/why.html", context)
