"""Problems as custom events: a webhook that chooses them sends them to a chat or an incident tool."""

from __future__ import annotations

from dataclasses import asdict

from webhooks import registry
from webhooks.capture.custom_events import record
from webhooks.hooks import Hooks, NoticedProblem, WebhookChange

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
        _send("problem_began", problem, problem.webhook_id)

    def problem_ended(self, problem: NoticedProblem) -> None:
        _send("problem_ended", problem, problem.webhook_id)

    def webhook_paused(self, webhook: WebhookChange) -> None:
        _send("webhook_paused", webhook, webhook.id)

    def webhook_resumed(self, webhook: WebhookChange) -> None:
        _send("webhook_resumed", webhook, webhook.id)

    def webhook_disabled(self, webhook: WebhookChange) -> None:
        _send("webhook_disabled", webhook, webhook.id)


def _send(name: str, subject: NoticedProblem | WebhookChange, webhook_id: int | None) -> None:
    record(f"webhooks.{name}", data=asdict(subject), without=[] if webhook_id is None else [webhook_id])
