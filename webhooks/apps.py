from django.apps import AppConfig


class WebhooksConfig(AppConfig):
    name = "webhooks"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from webhooks import checks, receivers, redis_access, registry  # noqa: F401 - importing checks registers them
        from webhooks.conf import conf

        redis_access.fill_in(conf.queue)
        registry.register_listed(conf.models)
        receivers.connect()
