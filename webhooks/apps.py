from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class WebhooksConfig(AppConfig):
    name = "webhooks"
    label = "rq_webhooks"  # many projects have, or had, an app with the label "webhooks"
    verbose_name = _("Webhooks")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from webhooks import checks, hooks, registry  # noqa: F401 - importing checks registers them
        from webhooks.capture import signals
        from webhooks.conf import conf
        from webhooks.delivery import sweep
        from webhooks.delivery.runs.steps import run_ended
        from webhooks.errors import log_with_time
        from webhooks.insight import problems
        from webhooks.models.run import run_kinds
        from webhooks.operations import runs
        from webhooks.operations.kinds import RUN_KINDS
        from webhooks.workers import redis

        log_with_time()
        run_kinds.update(RUN_KINDS)
        run_ended.connect(runs.record_end)
        redis.complete_queue_settings(conf.queue)
        registry.register_listed(conf.models)
        hooks.import_listed()
        signals.connect()
        sweep.problems_due.connect(problems.look)
