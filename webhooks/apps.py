from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class WebhooksConfig(AppConfig):
    name = "webhooks"
    label = "rq_webhooks"  # many projects have, or had, an app with the label "webhooks"
    verbose_name = _("Webhooks")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from webhooks import checks, registry  # noqa: F401 - importing checks registers them
        from webhooks.capture import signals
        from webhooks.conf import conf
        from webhooks.delivery import sweep
        from webhooks.errors import log_with_time
        from webhooks.insight import problems
        from webhooks.operations import runs  # noqa: F401 - importing them completes what workers can do
        from webhooks.workers import redis

        log_with_time()
        redis.complete_queue_settings(conf.queue)
        registry.register_listed(conf.models)
        signals.connect()
        sweep.looks_for_problems.append(problems.look)
