"""Health of the site: whether changes are recorded, and whether they are delivered.

``urls`` answers load balancers and probes, ``plugin`` is a check for django-health-check.
"""

from __future__ import annotations

from django.db import Error

from webhooks.insight.alarms import Level
from webhooks.insight.status import latest_problems
from webhooks.models import Undispatched
from webhooks.permissions import Operator

OPERATOR = Operator("health")

# The name of the problem that the database, or a table, is missing. The others are those of the status page.
DATABASE = "database"


def problems_of_recording() -> list[str]:
    """The problems that keep this process from recording changes: the database is away, or not migrated."""
    try:
        Undispatched.objects.exists()
    except Error:
        return [DATABASE]
    return []


def problems_of_delivery() -> list[str]:
    """The names of the errors of the whole site, such as "no_worker", up to 5 s old. A webhook that fails is none: its
    receiver does."""
    try:
        alarms = latest_problems(OPERATOR)
    except Error:
        return [DATABASE]
    return sorted({alarm.problem.value for alarm in alarms if alarm.level == Level.ERROR and not alarm.webhook_id})
