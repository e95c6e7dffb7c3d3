"""Alarms: the problems that the status page, the page of a webhook, the REST API and ``webhooks_status`` report.

Each alarm names the problem, the object and the way out. What follows from one cause is folded under it.

alarm     the value: level, problem, texts, and since when
site      the workers, Redis, our own proxy and network, the database
webhook   one webhook: disabled, paused, failing, lanes that are blocked, deliveries that are due or failed, silence
causes    which alarm follows from which
"""

from webhooks.insight.alarms.alarm import Alarm, Level, Problem
from webhooks.insight.alarms.causes import find_alarms
from webhooks.insight.alarms.webhook import silent_alarms, webhook_alarms

__all__ = ["Alarm", "Level", "Problem", "find_alarms", "silent_alarms", "webhook_alarms"]
