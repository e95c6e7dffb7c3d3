"""Health of the site: whether changes are recorded, and whether they are delivered.

``urls`` answers load balancers and probes, ``plugin`` is a check for django-health-check.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from django.db import Error

from webhooks.ground.conf import conf
from webhooks.ground.db import fetch_all, is_postgresql
from webhooks.ground.db.session import statement_limit
from webhooks.insight.alarms import Level, Problem
from webhooks.insight.status import latest_problems
from webhooks.insight.wording import in_english
from webhooks.models import Undispatched
from webhooks.models.permissions import Operator

OPERATOR = Operator("health")

# The name of the problem that the database, or a table, is missing. The others are those of the status page.
DATABASE = "database"

# One alarm may be about several webhooks. All others are served.
OF_WEBHOOKS = (Problem.NOT_REGISTERED,)

# Seconds that the database may take for one statement: a migration may have locked a table.
STATEMENT_SECONDS = 2

# Seconds that a request waits for another one that asks the database. If that hangs, no others hang with it.
TURN_SECONDS = 5

_recording, _delivery = threading.Lock(), threading.Lock()


def problems_of_recording() -> list[str]:
    """The problems that keep this process from recording changes: the database is away, read-only or not migrated."""
    return _in_turn(_recording, _read_recording)


def problems_of_delivery() -> list[str]:
    """The names of the errors of the whole site, such as "no_worker", up to 5 s old. A webhook that fails is none: its
    receiver does."""
    return _in_turn(_delivery, _read_delivery)


def _in_turn(turn: threading.Lock, read: Callable[[], list[str]]) -> list[str]:
    if not turn.acquire(timeout=TURN_SECONDS):
        return [DATABASE]
    try:
        return read()
    except Error:
        return [DATABASE]
    finally:
        turn.release()


def _read_recording() -> list[str]:
    using = Undispatched.objects.db
    with statement_limit(using, STATEMENT_SECONDS):
        if conf.enabled:
            Undispatched.objects.exists()
        else:
            fetch_all(using, "SELECT 1")  # there may be no tables yet
        is_read_only = is_postgresql(using) and fetch_all(using, "SHOW transaction_read_only") == [("on",)]
    return [DATABASE] if is_read_only else []


def _read_delivery() -> list[str]:
    with in_english():  # the texts of alarms are kept by language, and a request chooses its own
        alarms = latest_problems(OPERATOR, STATEMENT_SECONDS)
    errors = [alarm for alarm in alarms if alarm.level == Level.ERROR and alarm.problem not in OF_WEBHOOKS]
    return sorted({alarm.problem.value for alarm in errors if not alarm.webhook_id})
