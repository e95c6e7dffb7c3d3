"""The only package that knows rq, django_rq and redis: the worker class, the wake-up job, and what Redis reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from webhooks.workers.worker import WebhookWorker

__all__ = ["WebhookWorker"]


def __getattr__(name: str) -> Any:
    # Lazily: whoever wakes a worker needs `jobs` alone, and the worker class imports all of the delivery.
    if name == "WebhookWorker":
        from webhooks.workers.worker import WebhookWorker

        return WebhookWorker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
