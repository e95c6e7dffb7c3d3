"""The process that sends: it claims Deliveries, sends them many at once, and hands the outcomes to ``delivery``.

worker         the class of workers for rqworker, which also works without a job
database       the same without Redis, for ``webhooks_worker``
jobs           wake-ups: the job of rq, and its flag in Redis
slices         how a worker works for a few seconds at a time
status         what workers tell of themselves
redis          connections that survive an outage of Redis
runner         the loop: claim, dispatch, collect outcomes, sweep
compose        a Delivery -> a request: URL, headers and body
sender         the thread that sends, in the turns of ``fair_queue``
network        one request to a checked address: an Outcome
receiver_rate  the rate that a receiver accepts, learned
breaker        faults of our own, which count no attempt
mails          e-mails to the operators
one_core       keeps the threads of a worker on one core

Only this package knows rq, django_rq and redis.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import django
from django.apps import apps

if TYPE_CHECKING:
    from webhooks.workers.worker import WebhookWorker

__all__ = ["WebhookWorker"]

# rq's SpawnWorker runs each job in a new process, which has no models before Django is set up.
if "RQ_JOB_ID" in os.environ and not (apps.ready or apps.loading):
    django.setup()


def __getattr__(name: str) -> Any:
    # Lazily: a save only needs `jobs`, while the worker class imports the whole delivery.
    if name == "WebhookWorker":
        from webhooks.workers.worker import WebhookWorker

        return WebhookWorker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
