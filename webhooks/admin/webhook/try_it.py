"""“Try it” on the page of a webhook: its HTML, and how it searches for objects."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin.exceptions import NotRegistered
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from webhooks.admin.display import part
from webhooks.forms import WebhookForm
from webhooks.models import Webhook
from webhooks.pages import try_it


def panel(
    request: HttpRequest, url: str, webhook: Webhook | None = None, form: WebhookForm | None = None
) -> SafeString:
    """The controls, and below them the result of the posted ``form``. ``webhook`` is the stored one."""
    posted = request.POST if form else None
    return part(request, try_it.TEMPLATE, try_it.panel(request.user, url, _searcher(request), webhook, form, posted))


def _searcher(request: HttpRequest) -> Any:
    """Searches as the model's own admin pages do."""

    def search(model: type[Any], rows: QuerySet[Any], term: str) -> QuerySet[Any]:
        try:
            own_admin = admin.site.get_model_admin(model)
        except NotRegistered:
            return rows.none()
        if not own_admin.get_search_fields(request):
            return rows.none()
        found, _may_repeat = own_admin.get_search_results(request, rows, term)
        return rows.filter(pk__in=found.values("pk"))  # a host's own search may add objects that the user may not view

    return search
