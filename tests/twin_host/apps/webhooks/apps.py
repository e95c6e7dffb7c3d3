from django.apps import AppConfig, apps
from django.db.models.signals import post_save


class WebhooksConfig(AppConfig):
    name = "tests.twin_host.apps.webhooks"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from tests.twin_host.apps.webhooks.models import KINDS, Draft, Webhook

        KINDS.append("generic")
        if apps.is_installed("webhooks"):
            import webhooks

            webhooks.unregister(Draft)
            post_save.connect(number, sender=Webhook)


def number(sender, instance, **kwargs):
    sender.objects.filter(pk=instance.pk).update(name=f"{instance.name}, number {instance.pk}")
