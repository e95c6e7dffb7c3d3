"""The only package that knows rq, django_rq and redis: the worker class, the wake-up job, and the state of Redis."""

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
