"""A worker with 64 file descriptors, of which names that hang would take all."""

from __future__ import annotations

from pathlib import Path

from tests.support.inbox import Inbox
from tests.support.makers import make_event, make_webhook
from tests.support.short_of_descriptors import LIMIT
from tests.support.waiting import until
from tests.support.workers import Workers
from tests.testapp.models import Thing
from webhooks.models import Attempt
from webhooks.workers import jobs

WORKER = "tests.support.short_of_descriptors.ShortOfDescriptorsWorker"


def test_a_worker_with_few_descriptors_delivers_while_names_hang(workers: Workers, inbox: Inbox) -> None:
    """To 60 receivers that answer in 50 ms, among 6 whose names hang."""
    good = [
        make_webhook(Thing, url=inbox.url("slow/0.05").replace("127.0.0.1", f"receiver{number}.example"))
        for number in range(60)
    ]
    bad = [make_webhook(Thing, url=f"http://receiver.domain{number}.hangs.example/", timeout=1) for number in range(6)]
    for number in range(5):
        make_event(*good, *bad, object_id=str(number))
    worker = workers.start(WORKER, PAUSE_AFTER=1000)
    most = 0

    def are_sent() -> bool:
        nonlocal most
        most = max(most, len(list(Path(f"/proc/{worker.pid}/fd").iterdir())))
        return len(inbox.received()) >= 300

    worker.wait_until_listening()
    jobs.wake_up()
    until(are_sent, 60, "300 requests", every=0.02)
    until(lambda: worker.text.count("the name did not resolve within 1 s") >= 6, 30, "lookups that hung")
    until(lambda: Attempt.objects.count() >= 300, 30, "300 attempts")
    assert set(Attempt.objects.values_list("error_kind", flat=True)) == {""}
    assert most <= LIMIT - 8
    assert "Too many open files" not in worker.text
