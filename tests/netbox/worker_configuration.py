"""The configuration of the worker in test_worker.py, which may send to a receiver on this machine."""

from tests.netbox.configuration import *  # noqa: F403

PLUGINS_CONFIG = {"rq_webhooks": {"ALLOW_NETWORKS": ["127.0.0.0/8"]}}
