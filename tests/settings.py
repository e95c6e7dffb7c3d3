"""The example project's settings, plus an app of awkward models. Worker processes that tests start use them too.

Outside of pytest's own process, DATABASE_URL and REDIS_URL say which servers to use, and TEST_WEBHOOKS (JSON)
is laid over the setting WEBHOOKS, and TEST_RQ_QUEUES over RQ_QUEUES.
"""

import json
import os
import tempfile

import django

os.environ.setdefault("EXAMPLE_DATA_DIR", os.path.join(tempfile.gettempdir(), "webhooks-tests"))

from project.settings import *  # noqa: F403
from project.settings import INSTALLED_APPS, LOGGING, REST_FRAMEWORK, RQ_QUEUES, WEBHOOKS

INSTALLED_APPS = [*INSTALLED_APPS, "drf_spectacular", "taggit", "tests.testapp", "tests.hosts"]
REST_FRAMEWORK = {**REST_FRAMEWORK, "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema"}
WEBHOOKS = {
    **WEBHOOKS,
    "ENABLED": os.environ.get("WEBHOOKS_ENABLED", "1") == "1",
    "MODELS": [*WEBHOOKS["MODELS"], "testapp.*"],
    **json.loads(os.environ.get("TEST_WEBHOOKS", "{}")),
}
SILENCED_SYSTEM_CHECKS = ["webhooks.I001"]  # some models of the testapp have no serializer on purpose
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"  # a login writes no session to the database
ALLOWED_HOSTS = ["*"]
LOGGING = {**LOGGING, "root": {"handlers": ["console"], "level": os.environ.get("LOG_LEVEL", "INFO")}}
USE_TZ = os.environ.get("TEST_USE_TZ", "1") == "1"
TIME_ZONE = "UTC" if USE_TZ else "Asia/Kathmandu"  # so that no naive time passes for UTC

if "REDIS_URL" not in os.environ:
    # Until the tests have started a server of their own: never the Redis that happens to run on this machine.
    RQ_QUEUES = {name: {"URL": "redis://127.0.0.1:1/0"} for name in RQ_QUEUES}
RQ_QUEUES.update(json.loads(os.environ.get("TEST_RQ_QUEUES", "{}")))

# Django 6.1 has MAILERS in the place of EMAIL_BACKEND, which pytest-django sets.
MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}
ADMINS = ["admin@example.org"] if django.VERSION >= (6, 0) else [("Admin", "admin@example.org")]
