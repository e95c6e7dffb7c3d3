"""The tests' settings, with the URLs for monitoring."""

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS, WEBHOOKS

INSTALLED_APPS = [*INSTALLED_APPS, "health_check"]
ROOT_URLCONF = "tests.contrib.urls"
WEBHOOKS = {**WEBHOOKS, "METRICS_TOKEN": "the token"}
