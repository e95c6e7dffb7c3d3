"""The menu. NetBox leaves out the entries that a user may not open."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _
from netbox.plugins import PluginMenu, PluginMenuButton, PluginMenuItem

from webhooks.contrib.netbox import PLUGIN


def _item(page: str, text: object, model: str, buttons: tuple[PluginMenuButton, ...] = ()) -> PluginMenuItem:
    return PluginMenuItem(
        link=f"plugins:{PLUGIN}:{page}", link_text=text, permissions=[f"rq_webhooks.view_{model}"], buttons=buttons
    )


_add_webhook = PluginMenuButton(
    link=f"plugins:{PLUGIN}:webhook_add",
    title=_("Add"),
    icon_class="mdi mdi-plus-thick",
    permissions=["rq_webhooks.add_webhook"],
)

menu = PluginMenu(
    label=_("Webhooks"),
    icon_class="mdi mdi-webhook",
    groups=(
        (
            _("Webhooks"),
            (
                _item("status_entry", _("Status"), "delivery"),
                _item("webhook_list", _("Webhooks"), "webhook", (_add_webhook,)),
                _item("why", _("Why didn't it fire?"), "webhook"),
            ),
        ),
        (
            _("History"),
            (
                _item("delivery_list", _("Deliveries"), "delivery"),
                _item("event_list", _("Events"), "event"),
                _item("skip_list", _("Skipped changes"), "skip"),
                _item("run_list", _("Runs"), "run"),
            ),
        ),
    ),
)
