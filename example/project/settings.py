"""Settings of the example project. These environment variables change them:

DATABASE_URL, DISABLE_SERVER_SIDE_CURSORS (for a pooler in transaction mode), REDIS_URL, EXAMPLE_DATA_DIR,
SECRET_KEY, DEBUG, ALLOWED_HOSTS, CSRF_TRUSTED_ORIGINS, LOG_LEVEL, WEBHOOKS_ENABLED,
WEBHOOKS_RETRY_SCHEDULE (seconds between the attempts of a failing delivery: "5,300,1800").
"""

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dj_database_url

from project.environment import env_bool, env_list

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(os.environ.get("EXAMPLE_DATA_DIR", BASE_DIR / "var"))

DEBUG = env_bool("DEBUG", False)
SECRET_KEY = os.environ.get("SECRET_KEY", "insecure-key-for-the-example-only-set-SECRET_KEY-anywhere-else")
ALLOWED_HOSTS = env_list("ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env_list("CSRF_TRUSTED_ORIGINS", [])

INSTALLED_APPS = [
    "core",
    "users",
    "tenancy",
    "dcim",
    "ipam",
    "circuits",
    "virtualization",
    "webhooks",  # before the admin: its index then shows what is wrong
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "rest_framework.authtoken",
    "django_filters",
    "django_rq",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "webhooks.middleware.WebhooksMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "project.urls"
WSGI_APPLICATION = "project.wsgi.application"
ASGI_APPLICATION = "project.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "project" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

# The changes of a request and their webhook Events are committed together or not at all.
database: dict[str, Any] = dict(
    dj_database_url.config(
        default=f"sqlite:///{quote(str(DATA_DIR / 'db.sqlite3'))}",
        conn_max_age=60,
        conn_health_checks=True,
        disable_server_side_cursors=env_bool("DISABLE_SERVER_SIDE_CURSORS", False),
    )
)
database["ATOMIC_REQUESTS"] = True
if database["ENGINE"] == "django.db.backends.sqlite3":
    Path(database["NAME"]).parent.mkdir(parents=True, exist_ok=True)
    # If a transaction reads first and writes later, another writer makes it fail at once ("database is
    # locked"). An IMMEDIATE transaction waits for the other writer, up to `timeout` seconds.
    database["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 30,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
DATABASES = {"default": database}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_USER_MODEL = "users.User"

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "/static/"
# Serve static files from the apps, so that gunicorn needs no collectstatic.
WHITENOISE_USE_FINDERS = True

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rest_framework.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.DjangoModelPermissions"],
    "DEFAULT_VERSIONING_CLASS": "rest_framework.versioning.AcceptHeaderVersioning",
    "DEFAULT_VERSION": "1.0",
    "ALLOWED_VERSIONS": ["1.0"],
    "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.LimitOffsetPagination",
    "PAGE_SIZE": 50,
    "DEFAULT_FILTER_BACKENDS": [
        "core.api.filters.InventoryFilterBackend",
        "rest_framework.filters.SearchFilter",
        "rest_framework.filters.OrderingFilter",
    ],
    "SEARCH_PARAM": "q",
    "COERCE_DECIMAL_TO_STRING": False,
}

REDIS_URL = os.environ.get("REDIS_URL")
RQ_CONNECTION: dict[str, Any] = (
    {"URL": REDIS_URL} if REDIS_URL else {"HOST": "localhost", "PORT": 6379, "DB": 0}
)
RQ_QUEUES = {name: {**RQ_CONNECTION, "DEFAULT_TIMEOUT": 360} for name in ("webhooks", "default")}
RQ = {"WORKER_CLASS": "webhooks.workers.WebhookWorker"}

WEBHOOKS: dict[str, Any] = {
    "ENABLED": env_bool("WEBHOOKS_ENABLED", True),
    "MODELS": ["dcim.*", "ipam.*", "tenancy.*", "circuits.*", "virtualization.*"],
    # Only for the demo, where the receiver runs on this machine. Servers on loopback often trust all callers.
    "ALLOW_NETWORKS": ["127.0.0.0/8", "::1/128"],
}
if "WEBHOOKS_RETRY_SCHEDULE" in os.environ:
    WEBHOOKS["RETRY_SCHEDULE"] = [float(wait) for wait in env_list("WEBHOOKS_RETRY_SCHEDULE", [])]

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["console"], "level": os.environ.get("LOG_LEVEL", "INFO")},
    "loggers": {"django": {"handlers": ["console"], "level": "INFO", "propagate": False}},
}
