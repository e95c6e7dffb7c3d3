"""NetBox's configuration for its own tests, with its dummy plugins. The app is there in the run with webhooks."""

import os

from tests.netbox.configuration import *  # noqa: F403

PLUGINS = ["netbox.tests.dummy_plugin", "netbox.tests.dummy_plugin_b"]
if os.environ.get("EVERYWHERE_ENABLED") == "1":
    PLUGINS.append("rq_webhooks")
SCRIPTS_ROOT = os.path.join(os.environ["NETBOX_ROOT"], "scripts")
LOGGING = {"version": 1, "disable_existing_loggers": True}
