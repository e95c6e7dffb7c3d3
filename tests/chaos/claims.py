"""Which worker holds which claims, by PostgreSQL's own account: each worker connects under its own name."""

from __future__ import annotations

import os
import signal
import uuid

from django.db import connection

from tests.support.waiting import until
from tests.support.workers import Worker

_WATCH = """
CREATE TABLE chaos_claim (token uuid PRIMARY KEY, worker text NOT NULL);
CREATE FUNCTION chaos_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos_claim VALUES (NEW.token, current_setting('application_name'));
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_claims AFTER INSERT ON rq_webhooks_worker FOR EACH ROW EXECUTE FUNCTION chaos_note();
"""

_UNWATCH = """
DROP TRIGGER IF EXISTS chaos_claims ON rq_webhooks_worker;
DROP FUNCTION IF EXISTS chaos_note;
DROP TABLE IF EXISTS chaos_claim;
"""


def watch() -> None:
    """From now on PostgreSQL notes who takes a claim."""
    with connection.cursor() as cursor:
        cursor.execute(_UNWATCH + _WATCH)


def unwatch() -> None:
    with connection.cursor() as cursor:
        cursor.execute(_UNWATCH)


def held(name: str) -> set[uuid.UUID]:
    """The ids of the deliveries that this worker has claimed."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT delivery_id FROM rq_webhooks_queue JOIN chaos_claim ON token = claim "
            "WHERE state = 'sending' AND worker = %s",
            [name],
        )
        return {row[0] for row in cursor.fetchall()}


def claimants() -> set[str]:
    """The names of the workers that have claimed anything so far."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT worker FROM chaos_claim")
        return {row[0] for row in cursor.fetchall()}


def kill_holder(worker: Worker, name: str) -> set[uuid.UUID]:
    """SIGKILL a worker that holds claims, and return the claims. A worker without claims lives on.

    It is frozen first, so that the rows show exactly its unfinished claims.
    """
    if not held(name):
        return set()
    os.kill(worker.pid, signal.SIGSTOP)
    until(lambda: not _is_busy(name), 5, f"the statements of {name} to end")
    mine = held(name)
    if mine:
        worker.kill()
    else:
        os.kill(worker.pid, signal.SIGCONT)
    return mine


def _is_busy(name: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_stat_activity WHERE application_name = %s AND state = 'active'", [name])
        return cursor.fetchone() is not None
