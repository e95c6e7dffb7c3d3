"""The tables of the app, each with its queryset and its states.

webhook, webhook_states  what an admin defines; enabled, paused, probed, disabled
webhook_secrets          the secrets of a webhook, and the overlap of two
event, skip              a committed change; a change that a webhook did not want
delivery, attempt        an event for one webhook; one HTTP request
queue                    a narrow row for each delivery that is not finished or has failed; claims
lanes                    the locks of objects, and the next delivery of each
worker                   workers with their leases and transactions; the last sweep
run                      actions on many rows
partitions               the partitions of the history on PostgreSQL
filters                  the filters of deliveries, events and skips, declared once; choosing rows by them
statistic                counts and times by minute and hour, and totals
validators               the rules for single columns of a webhook
ids                      ids that begin with a time
columns                  options and managers that the tables share
permissions              who may see and change which rows

The SQL of a table is in the module of its model. ``lanes`` has the SQL that keeps deliveries in order.
"""

from webhooks.models.attempt import Attempt, Body, BodyKind
from webhooks.models.delivery import Delivery
from webhooks.models.event import Action, Event, Undispatched
from webhooks.models.queue import QueuedDelivery, State
from webhooks.models.run import Run, RunState
from webhooks.models.skip import Skip
from webhooks.models.statistic import Statistic, StatisticDelta, StatisticTotal
from webhooks.models.webhook import MediaType, Method, Webhook
from webhooks.models.worker import Sweep, Worker

__all__ = [
    "Action", "Attempt", "Body", "BodyKind", "Delivery", "Event", "MediaType", "Method", "QueuedDelivery", "Run",
    "RunState", "Skip", "State", "Statistic", "StatisticDelta", "StatisticTotal", "Sweep", "Undispatched", "Webhook",
    "Worker",
]  # fmt: skip
