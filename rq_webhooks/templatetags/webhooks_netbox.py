"""The pages' filters and tags, where Django looks for them: ``{% load webhooks_netbox %}``."""

from webhooks.contrib.netbox.pages.links import register

__all__ = ["register"]
