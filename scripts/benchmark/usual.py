"""The baseline that people use: one RQ job for each delivery, on rq's own workers, with no bookkeeping."""

from __future__ import annotations

import itertools

import django_rq
from rq import Queue

from scripts.benchmark import usual_job
from scripts.benchmark.lab import Lab
from scripts.benchmark.mailbox import Received
from tests.workers import STOCK

FORKING, SIMPLE = STOCK, "rq.worker.SimpleWorker"


def the_usual_way(lab: Lab, count: int, worker_class: str = FORKING) -> Received:
    """Deliver so many of the sample; what waits is enqueued before the worker starts."""
    lab.forget_redis()
    mailbox = lab.mailbox()
    queue: Queue = django_rq.get_queue("webhooks", commit_mode="auto")
    for request in itertools.islice(itertools.cycle(lab.sample), count):
        queue.enqueue(usual_job.post, mailbox.url, request.headers, request.body, result_ttl=0)
    with lab.workers(worker_class):
        return mailbox.wait_for(count, seconds=60 + count)
