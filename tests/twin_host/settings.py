import os

SECRET_KEY = "only-for-this-test"
ALLOWED_HOSTS = ["testserver"]
USE_TZ = True
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "tests.twin_host.apps.webhooks",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]
ROOT_URLCONF = "tests.twin_host.urls"
STATIC_URL = "static/"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["TWIN_HOST_DATABASE"],
        "ATOMIC_REQUESTS": True,
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 30},
    }
}
LOGGING = {
    "version": 1,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}

if os.environ.get("TWIN_HOST_HAS_THE_APP"):
    INSTALLED_APPS = ["webhooks", *INSTALLED_APPS, "rest_framework", "django_rq"]
    MIDDLEWARE = [*MIDDLEWARE, "webhooks.middleware.WebhooksMiddleware"]
    RQ_QUEUES = {"webhooks": {"URL": os.environ["REDIS_URL"]}}
    RQ = {"WORKER_CLASS": "webhooks.workers.WebhookWorker"}
    WEBHOOKS = {"ENABLED": True, "MODELS": ["webhooks.*"], "ALLOW_NETWORKS": ["127.0.0.0/8"]}
