"""The app as a plugin of NetBox: ``PLUGINS = ["rq_webhooks"]``. docs/netbox.md is its page for users.

``NetBoxConfig`` takes the place of the app's own configuration, so that NetBox treats the models as a plugin's.
"""

from typing import Any

from django.conf import settings
from django.utils.translation import gettext_lazy as _
from netbox.plugins import PluginConfig

from webhooks import __version__
from webhooks.apps import WebhooksConfig

PLUGIN = "rq_webhooks"
"""The key of the settings in ``PLUGINS_CONFIG``."""


class PluginName(PluginConfig):
    """For NetBox's GraphQL, which looks for a configuration with the name in ``PLUGINS``."""

    name = PLUGIN
    label = "rq_webhooks_plugin"
    verbose_name = _("Webhooks")

    def ready(self) -> None:
        """Without the resources, which ``NetBoxConfig`` has."""


class NetBoxConfig(WebhooksConfig, PluginConfig):
    base_url = "webhooks"
    description = _("Reliable webhooks for every change")
    version = __version__
    author = "The authors of django-rq-webhooks"
    min_version, max_version = "4.6.0", "4.7.99"
    django_apps = [f"{__name__}.PluginName"]
    middleware = ["webhooks.middleware.WebhooksMiddleware"]
    default_settings: dict[str, Any] = {
        "ENABLED": True,
        "MODELS": ["*"],
        "QUEUE": "default",
        "BATCH_REQUESTS": True,
        "HOOKS": ["webhooks.contrib.netbox.payloads.NetBoxContext"],
        "HISTORY": f"{__name__}.history.record",
    }

    def ready(self) -> None:
        # Not before the models are loaded. Importing the dashboard registers its widget.
        from webhooks.contrib.netbox import (  # noqa: F401
            actors,
            checks,
            dashboard,
            features,
            grants,
            notifications,
            originals,
            payloads,
            worker,
        )
        from webhooks.contrib.netbox.pages import object_tab
        from webhooks.ground.registry.framework import set_framework
        from webhooks.management import imports

        settings.WEBHOOKS = settings.PLUGINS_CONFIG[PLUGIN]
        notifications.register_event_types()
        notifications.list_hook(settings.WEBHOOKS)
        imports.local_sources.append(originals.SOURCE)
        set_framework(payloads.NetBox())
        features.install()
        WebhooksConfig.ready(self)
        PluginConfig.ready(self)
        for part in (actors, checks, payloads, object_tab):
            part.connect()
        grants.register()
        worker.use()
