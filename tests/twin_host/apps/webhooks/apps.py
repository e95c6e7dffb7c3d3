from django.apps import AppConfig, apps


class WebhooksConfig(AppConfig):
    name = "tests.twin_host.apps.webhooks"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        if apps.is_installed("webhooks"):
            import webhooks

            webhooks.register("webhooks.Webhook", serializer="tests.twin_host.apps.webhooks.api.WebhookSerializer")
