from django.apps import AppConfig


class WebhooksConfig(AppConfig):
    name = "webhooks"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from webhooks import checks, receivers, registry  # noqa: F401 - importing the checks registers them
        from webhooks.conf import conf

        registry.register_listed(conf.models)
        receivers.connect()
