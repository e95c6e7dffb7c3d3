"""NetBox's configuration for the tests: an installation as docs/netbox.md describes it."""

import os
from pathlib import Path

from netbox.configuration_testing import *  # noqa: F403 - what NetBox's own tests use
from netbox.configuration_testing import REDIS

DATABASES = {
    "default": {
        "NAME": os.environ.get("NETBOX_DATABASE", "netbox"),
        "USER": os.environ["NETBOX_DATABASE_USER"],
        "PASSWORD": os.environ.get("NETBOX_DATABASE_PASSWORD", ""),
        "HOST": os.environ["NETBOX_DATABASE_HOST"],
        "PORT": os.environ["NETBOX_DATABASE_PORT"],
        # A database with NetBox's own tables. Its migrations take minutes.
        "TEST": {"TEMPLATE": os.environ.get("NETBOX_DATABASE_TEMPLATE")},
    }
}
# Processes that run tests side by side have databases of their own, in Redis, too.
_process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
for _number, _redis in enumerate(REDIS.values()):
    _redis |= {"PORT": int(os.environ["NETBOX_REDIS_PORT"]), "DATABASE": 2 * _process + _number}

PLUGINS = os.environ.get("NETBOX_PLUGINS", "rq_webhooks").split()
SCRIPTS_ROOT = str(Path(__file__).with_name("scripts"))
if "netbox_branching" in PLUGINS:
    from netbox_branching.utilities import DynamicSchemaDict

    DATABASES = DynamicSchemaDict(DATABASES)
    DATABASE_ROUTERS = ["netbox_branching.database.BranchAwareRouter"]
DEBUG = False
LOGGING = {"version": 1, "disable_existing_loggers": False}
