"""The name of the app in NetBox's setting ``PLUGINS``: there, a module must be called as its app's label.

The plugin itself is ``webhooks.contrib.netbox``.
"""

from webhooks.contrib.netbox import NetBoxConfig as config

__all__ = ["config"]
