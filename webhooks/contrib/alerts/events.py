"""Problems as custom events: a webhook that chooses them sends them to a chat or an incident tool."""

from __future__ import annotations

from dataclasses import asdict

from webhooks.capture.custom_events import record
from webhooks.ground import registry
from webhooks.hooks import Hooks, NoticedProblem, WebhookChange
from webhooks.insight.alarms import Problem
from webhooks.models import Webhook

EVENTS = {
    "webhooks.problem_began": "A problem of the webhooks began",
    "webhooks.problem_ended": "A problem of the webhooks is over",
    "webhooks.webhook_paused": "A webhook was paused",
    "webhooks.webhook_resumed": "A webhook gets its deliveries again",
    "webhooks.webhook_disabled": "A webhook was disabled",
}

for _name, _label in EVENTS.items():
    registry.register_event(_name, _label)


class Events(Hooks):
    """Sends the events. A webhook gets none about itself: it would fail, too, and each failure is no news."""

    def problem_began(self, problem: NoticedProblem) -> None:
        if not _is_echo(problem):
            _send("problem_began", problem, problem.webhook_id)

    def problem_ended(self, problem: NoticedProblem) -> None:
        if not _is_echo(problem):
            _send("problem_ended", problem, problem.webhook_id)

    def webhook_paused(self, webhook: WebhookChange) -> None:
        _send("webhook_paused", webhook, webhook.id)

    def webhook_resumed(self, webhook: WebhookChange) -> None:
        _send("webhook_resumed", webhook, webhook.id)

    def webhook_disabled(self, webhook: WebhookChange) -> None:
        _send("webhook_disabled", webhook, webhook.id)


def _is_echo(problem: NoticedProblem) -> bool:
    """Whether an attempt of a webhook failed that sends such events, and will be tried again. Two of them would send
    each other's failures for ever. If it goes on, the webhook is paused, which is another problem."""
    if problem.problem != Problem.FAILING or problem.webhook_id is None:
        return False
    chosen = Webhook.objects.filter(pk=problem.webhook_id).values_list("custom_events", flat=True).first()
    return any(name in EVENTS for name in chosen or ())


def _send(name: str, subject: NoticedProblem | WebhookChange, webhook_id: int | None) -> None:
    record(f"webhooks.{name}", data=asdict(subject), without=[] if webhook_id is None else [webhook_id])
