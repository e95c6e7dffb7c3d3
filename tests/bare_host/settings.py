import os

SECRET_KEY = "only-for-this-test"
ALLOWED_HOSTS = ["testserver"]
USE_TZ = True
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "rest_framework",
    "django_rq",
    "webhooks",
    "tests.bare_host",
]
MIDDLEWARE = ["webhooks.middleware.WebhooksMiddleware"]
ROOT_URLCONF = "tests.bare_host.api"
AUTH_USER_MODEL = "bare_host.User"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["BARE_HOST_DATABASE"],
        "ATOMIC_REQUESTS": True,
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 30},
    }
}
REST_FRAMEWORK = {"DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.BasicAuthentication"]}
RQ_QUEUES = {"webhooks": {"URL": os.environ["REDIS_URL"]}}
RQ = {"WORKER_CLASS": "webhooks.workers.WebhookWorker"}
WEBHOOKS = {"ENABLED": True, "ALLOW_NETWORKS": ["127.0.0.0/8"]}
LOGGING = {
    "version": 1,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}
