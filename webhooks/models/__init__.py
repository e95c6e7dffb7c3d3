"""The tables of the app: webhooks, events, deliveries and their attempts."""

from webhooks.models.delivery import Attempt, Delivery, State, Sweep
from webhooks.models.event import Action, Event
from webhooks.models.webhook import ContentType, Method, Webhook

__all__ = ["Action", "Attempt", "ContentType", "Delivery", "Event", "Method", "State", "Sweep", "Webhook"]
