"""Enable, disable, pause and resume webhooks, and send a test: buttons of the list, and of the page of one."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from netbox.object_actions import ObjectAction
from netbox.views.generic.base import BaseMultiObjectView, BaseObjectView
from utilities.permissions import get_permission_for_model
from utilities.views import GetReturnURLMixin, register_model_view

from webhooks.contrib.netbox.pages.base import PermittedRows
from webhooks.contrib.netbox.pages.display import show
from webhooks.contrib.netbox.pages.long_lists import keys_of
from webhooks.contrib.netbox.pages.webhook_filters import WebhookFilterSet
from webhooks.models import Webhook, permissions
from webhooks.operations.webhooks import PING_REFUSED, PING_WAITS, PINGED, ping
from webhooks.pages.acts import SWITCHES, Switch

ICONS = {"enable": "toggle-switch", "disable": "toggle-switch-off-outline", "pause": "pause", "resume": "play"}


class ChangingView(GetReturnURLMixin, PermittedRows):
    queryset = Webhook.objects.all()

    def get_required_permission(self) -> str:
        return str(get_permission_for_model(Webhook, "change"))


class SelectedSwitchView(ChangingView, BaseMultiObjectView):
    """Presses a switch for the selected rows of the list, or for all that match its filters."""

    switch: Any = None

    def post(self, request: HttpRequest) -> HttpResponse:
        chosen = permissions.visible_webhooks(request.user)
        if request.POST.get("_all"):
            chosen = WebhookFilterSet(request.GET, chosen, request=request).qs
        else:
            chosen = chosen.filter(pk__in=list(keys_of(Webhook, request)))
        show(request, *self.switch.press(chosen, request.user))
        return redirect(self.get_return_url(request))


class SwitchView(ChangingView, BaseObjectView):
    """Presses a switch for one webhook."""

    switch: Any = None

    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        webhook = get_object_or_404(self.queryset, pk=pk)
        show(request, *self.switch.press(Webhook.objects.filter(pk=pk), request.user))
        return redirect(self.get_return_url(request, webhook))


@register_model_view(Webhook, "ping")
class PingView(ChangingView, BaseObjectView):
    """Sends a test event to the webhook."""

    def post(self, request: HttpRequest, pk: int) -> HttpResponse:
        webhook = get_object_or_404(self.queryset, pk=pk)
        if not webhook.enabled:
            messages.warning(request, PING_REFUSED)
            return redirect(self.get_return_url(request, webhook))
        event = ping(webhook, request.user)
        if webhook.paused_at:
            messages.warning(request, PING_WAITS)
        messages.success(request, PINGED % {"name": webhook.name, "id": event.pk})
        return redirect(self.get_return_url(request, webhook))


def _register(switch: Switch) -> type[ObjectAction]:
    """Register the pages of a switch. Returns its button below the list."""
    name = f"bulk_{switch.name}"
    of_many = type(f"{switch.name.title()}SelectedView", (SelectedSwitchView,), {"switch": switch})
    of_one = type(f"{switch.name.title()}View", (SwitchView,), {"switch": switch})
    register_model_view(Webhook, name, path=switch.name, detail=False)(of_many)
    register_model_view(Webhook, switch.name)(of_one)

    def get_context(cls: Any, context: Any, model: Any) -> dict[str, Any]:
        return {"icon": ICONS[switch.name], "hint": switch.action_label}

    attributes = {
        "name": name,
        "label": switch.button,
        "multi": True,
        "permissions_required": {"change"},
        "template_name": "rq_webhooks/netbox/switch_button.html",
        "get_context": classmethod(get_context),
    }
    return type(f"{switch.name.title()}Selected", (ObjectAction,), attributes)


SWITCH_ACTIONS = tuple(map(_register, SWITCHES.values()))
