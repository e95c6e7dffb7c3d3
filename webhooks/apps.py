from collections.abc import Callable

from django.apps import AppConfig, apps
from django.utils.translation import gettext_lazy as _


class WebhooksConfig(AppConfig):
    name = "webhooks"
    label = "rq_webhooks"  # many projects have, or had, an app with the label "webhooks"
    verbose_name = _("Webhooks")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from webhooks import hooks
        from webhooks.capture import signals
        from webhooks.delivery import sweep, wake_up
        from webhooks.delivery.runs.steps import run_ended
        from webhooks.ground import registry
        from webhooks.ground.conf import conf
        from webhooks.ground.db.django_internals import route_reads
        from webhooks.ground.errors import log_with_time
        from webhooks.insight import problems
        from webhooks.management import checks  # noqa: F401 - importing checks registers them
        from webhooks.models.run import run_kinds
        from webhooks.models.webhook import find_errors
        from webhooks.operations import runs, validation
        from webhooks.operations.kinds import RUN_KINDS
        from webhooks.workers import jobs, mails, redis

        log_with_time()
        run_kinds.update(RUN_KINDS)
        find_errors.append(validation.find_errors)
        run_ended.connect(runs.record_end)
        redis.complete_queue_settings(conf.queue)
        hooks.own["webhook_disabled"] = [hooks.Hook("webhooks.workers.mails.mail_disabled", mails.mail_disabled)]
        hooks.import_listed()
        route_reads()
        wake_up.wanted.connect(jobs.wake_up)
        signals.connect()
        sweep.problems_due.connect(problems.look)
        # A pattern imports serializers. They may read what apps prepare in their ready(), for example choices.
        self._when_all_are_ready(lambda: registry.register_listed(conf.models))

    def _when_all_are_ready(self, act: Callable[[], None]) -> None:
        """Call ``act`` after the ``ready()`` of the last app. Django has no signal for that."""
        last = [*apps.get_app_configs()][-1]
        if last is self or apps.ready:
            act()
            return
        be_ready = last.ready

        def be_ready_and_act() -> None:
            be_ready()
            act()

        last.ready = be_ready_and_act  # type: ignore[method-assign]
