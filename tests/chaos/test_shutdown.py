"""SIGTERM, once and twice, while requests are under way."""

from __future__ import annotations

import signal
import time

import pytest

from tests.chaos import claims
from tests.chaos.crew import Crew
from tests.support.draining import STATE
from tests.support.figures import Figures
from tests.support.inbox import Inbox
from tests.support.makers import make_event, make_webhook
from tests.support.waiting import until
from tests.testapp.models import Label
from webhooks.models import Attempt, Delivery, State, Webhook
from webhooks.models.delivery import SUCCEEDED

pytestmark = [pytest.mark.postgresql, pytest.mark.slow]

# Seconds that a request may take to arrive on a busy machine. The next ones would go out after 6 s.
MOMENT = 4

# Seconds until supervisord kills the worker, as in supervisord.conf.example.
STOP_WAIT = 20


def fill(webhook: Webhook, count: int) -> None:
    for number in range(count):
        make_event(webhook, object_type="testapp.label", object_id=f"{webhook.pk}-{number}")


def test_a_warm_stop_claims_nothing_records_what_ends_in_time_and_hands_back_the_rest(
    crew: Crew, inbox: Inbox, figures: Figures
) -> None:
    slow = make_webhook(Label, url=inbox.url("slow/6"), timeout=30)
    hung = make_webhook(Label, url=inbox.url("hang"), timeout=60)
    fill(slow, 20)
    fill(hung, 20)
    name = crew.hire()
    worker = crew.by_name[name]
    inbox.wait_for(2, behaviour="slow/6")
    inbox.wait_for(2, behaviour="hang")
    held = len(claims.held(name))
    began, clock = time.time(), time.monotonic()
    status = worker.stop(STOP_WAIT)
    took = time.monotonic() - clock
    received = inbox.received()
    late = [one for one in received if one.at > began + MOMENT]
    done = Delivery.objects.in_states(State.SUCCEEDED).count()
    figures(
        f"SIGTERM with {held} claims, {len(received)} requests under way: exit {status} after {took:.1f} s, "
        f"{done} recorded"
    )
    assert status == 0
    assert took < STOP_WAIT
    assert held > len(received), "some of what was claimed was not sent yet"
    assert not late, "nothing is sent after the signal"
    assert done == len(inbox.received("slow/6"))
    assert Attempt.objects.count() == done, "what was cut off does not count"
    handed_back = Delivery.objects.exclude(SUCCEEDED)
    assert set(handed_back.values_list(STATE, "queued__claim", "noted_attempts")) == {(State.PENDING, None, 0)}

    hung.delete()
    Webhook.objects.update(payload_url=inbox.url())
    crew.hire()
    inbox.wait_for(20 - done, behaviour="ok")
    until(lambda: Delivery.objects.in_states(State.SUCCEEDED).count() == 20, 10, "the rest to be recorded")
    assert len(inbox.received("ok")) == 20 - done, "what was recorded is not sent again"


def test_a_second_signal_exits_at_once_and_loses_nothing(crew: Crew, inbox: Inbox, figures: Figures) -> None:
    webhook = make_webhook(Label, url=inbox.url("slow/30"), timeout=60)
    fill(webhook, 20)
    name = crew.hire(LEASE=3)
    worker = crew.by_name[name]
    inbox.wait_for(2)
    worker.process.send_signal(signal.SIGTERM)
    until(lambda: "warm shut down" in worker.text, 20, "the warm shut down")
    time.sleep(1.2)  # rq counts two signals within a second as one
    worker.process.send_signal(signal.SIGTERM)
    clock = time.monotonic()
    worker.process.wait(60)
    took = time.monotonic() - clock
    assert "cold shut down" in worker.text
    left = Delivery.objects.in_states(State.SENDING).count()
    under_way = len(inbox.received())
    figures(
        f"{under_way} requests under way, exit {took:.2f} s after the second signal, {left} claims left to their lease"
    )
    Webhook.objects.update(payload_url=inbox.url())
    crew.hire()
    until(lambda: Delivery.objects.in_states(State.SUCCEEDED).count() == 20, 20, "everything to be delivered")
    assert len({one.headers["webhook-id"] for one in inbox.received("ok")}) == 20
    assert len(inbox.received("ok")) == 20
    assert left, "it does not wait for what is under way"
