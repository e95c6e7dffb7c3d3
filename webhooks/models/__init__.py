"""Webhook, Event, Delivery, Attempt: the rows that are the truth; and who sweeps."""

from webhooks.models.delivery import Attempt, Delivery
from webhooks.models.event import Action, Event
from webhooks.models.querysets import State
from webhooks.models.sweep import Sweep
from webhooks.models.webhook import ContentType, Method, Webhook

__all__ = ["Action", "Attempt", "ContentType", "Delivery", "Event", "Method", "State", "Sweep", "Webhook"]
