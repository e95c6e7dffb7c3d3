"""The tables of the app: webhooks, events, skips, deliveries, attempts, the queue, runs and statistics."""

from webhooks.models.attempt import Attempt, Body, BodyKind
from webhooks.models.delivery import Delivery
from webhooks.models.event import Action, Event, Undispatched
from webhooks.models.queue import QueuedDelivery, State, Sweep, Worker
from webhooks.models.run import Run, RunKind, RunState
from webhooks.models.skip import Skip
from webhooks.models.statistic import Statistic, StatisticDelta
from webhooks.models.webhook import ContentType, Method, Webhook

__all__ = [
    "Action", "Attempt", "Body", "BodyKind", "ContentType", "Delivery", "Event", "Method", "QueuedDelivery", "Run",
    "RunKind", "RunState", "Skip", "State", "Statistic", "StatisticDelta", "Sweep", "Undispatched", "Webhook", "Worker",
]  # fmt: skip
