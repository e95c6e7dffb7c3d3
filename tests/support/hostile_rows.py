"""Rows with hostile text in every column that other people can write."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.urls import reverse
from django.utils import timezone
from rq import Queue, Worker

from dcim.models import Site
from tests.support.makers import make_attempt, make_site_delivery, make_site_event, make_webhook
from users.models import User
from webhooks.insight import history
from webhooks.models import Delivery, Event, State, Webhook

MARK = "wicked"
CORPUS = {
    "script": f"<script>{MARK}()</script>",
    "end of a script": f"</script><script>{MARK}()</script>",
    "end of a text area": f"</textarea></pre></title></style><svg onload={MARK}()>",
    "image": f"<img src=x onerror={MARK}()>",
    "attribute": f'" onmouseover="{MARK}()" x=\'',
    "other attribute": f"' autofocus onfocus='{MARK}()",
    "comment": f"--><iframe src=javascript:{MARK}()></iframe><!--",
    "entity": f"&lt;script&gt;{MARK}()&lt;/script&gt;&#x202e;",
    "template": f"{{{{ 7|add:7000000 }}}}{{% debug %}}{{# {MARK} #}}",
    "address": f"javascript:{MARK}()",
    "direction": f"\u202e{MARK}\u2066\u2069\u202d\u200f",
    "controls": f"\x1b[31m{MARK}\x07\x08\x7f\x85\x9b",
    "breaks": f"{MARK}\n2026-01-01 00:00:00,000 ERROR root: {MARK}\r\n\u2028\u2029\x0b\x0c",
    "byte order mark": f"\ufeff{MARK}",
    "half a pair": f"\\ud800{MARK}\\udc00",
    "format": f"%s %(x)s {{0}} {{x!r}} {MARK}",
    "long": MARK * 500,
}

# Several texts at once, as many as fit into a name: each costs forty pages.
TOGETHER = {
    "markup": "".join(CORPUS[name] for name in ("end of a text area", "attribute", "other attribute")),
    "more markup": "".join(CORPUS[name] for name in ("end of a script", "comment", "image")),
    "text": "".join(CORPUS[name] for name in ("address", "entity", "template", "format")),
    "unseen": "".join(CORPUS[name] for name in ("direction", "controls", "breaks", "byte order mark", "half a pair")),
    "long": CORPUS["long"],
}


def fill(text: str, redis: Any) -> Webhook:
    """Create rows in every state, with the text in each column that users or receivers can write."""
    user = User.objects.create_user(text[:150], is_staff=True)
    webhook = make_webhook(
        Site, name=text[:150], url=f"http://127.0.0.1/{text}"[:500], additional_headers=f"X-A: {text}",
        body_template=text, disabled_reason="failing", failing_since=timezone.now(), last_failure=text,
        last_failure_at=timezone.now(), failures_in_a_row=3, enabled=False,
    )  # fmt: skip
    Webhook.objects.filter(pk=webhook.pk).update(excluded_usernames=[text])
    paused = make_webhook(Site, name=f"paused {text}"[:150])
    Webhook.objects.filter(pk=paused.pk).update(
        probe_at=timezone.now(), failures_in_a_row=11, last_failure=text, last_failure_at=timezone.now()
    )
    told = json.dumps({text: [text, {text: text}]})
    for state in State:
        event = make_site_event(
            f"{state} {text}"[:200], text[:200], object_type=f"dcim.{text}"[:150], data=told,
            snapshots=f'{{"prechange":null,"postchange":{told}}}', request=told, username=text[:150],
            request_id=text[:200],
        )  # fmt: skip
        delivery = make_site_delivery(webhook, state, event, reason=text)
        make_attempt(
            delivery, url=text[:2000], reason=text, response_headers={text: text, "X": text}, response_body=text,
            worker=text[:100],
        )  # fmt: skip
        for row in (event, delivery, webhook):
            history.record(user, [row], CHANGE, text)
    make_site_event(text[:200], text[:200], data="", error=f"Traceback\n{text}")
    register_worker(text, redis)
    LogEntry.objects.create(
        user=User.objects.get(email="admin"), content_type=ContentType.objects.get_for_model(Webhook),
        object_id=str(webhook.pk), object_repr=text[:200], action_flag=CHANGE, change_message=text,
    )  # fmt: skip
    return webhook


def register_worker(text: str, redis: Any) -> None:
    """Register a worker with hostile values, as anyone with access to Redis could."""
    worker = Worker([Queue("webhooks", connection=redis)], name=uuid4().hex, connection=redis)
    worker.register_birth()
    key = f"rq:worker:{text}"
    redis.hset(key, mapping=redis.hgetall(worker.key))
    redis.hset(
        key, mapping={"queues": f"webhooks,{text}", "hostname": text, "state": text, "pid": text, "current_job": text}
    )
    redis.sadd("rq:workers", key)


RUNS = ("recover", "backfill", "recover_skipped")


def pages(of_each_row: bool = True) -> list[str]:
    """The addresses of all kinds of pages of the app: each webhook and delivery, and the events of failures.

    Without ``of_each_row``, only disabled webhooks and failed deliveries: one of each for each text.
    """
    webhooks, deliveries = Webhook.objects.order_by("pk"), Delivery.objects.order_by("pk")
    if not of_each_row:
        webhooks, deliveries = webhooks.filter(enabled=False), deliveries.failed()
    failed = list(Delivery.objects.failed())
    of_failed = [delivery.event for delivery in failed]
    rows = [*webhooks, *deliveries, *of_failed, *Event.objects.failed()]
    with_history = [*webhooks, *failed, *of_failed]
    return [
        reverse("admin:index"), reverse("admin:app_list", args=["rq_webhooks"]), reverse("webhooks_backend_status"),
        reverse("admin:rq_webhooks_webhook_add"),
        *(reverse(f"admin:rq_webhooks_{model}_changelist") for model in ("webhook", "delivery", "event")),
        *(reverse(f"admin:rq_webhooks_{row._meta.model_name}_change", args=[row.pk]) for row in rows),
        *(reverse(f"admin:rq_webhooks_{row._meta.model_name}_history", args=[row.pk]) for row in with_history),
        *(reverse("admin:rq_webhooks_webhook_delete", args=[webhook.pk]) for webhook in webhooks),
        *(
            f"{reverse(f'admin:rq_webhooks_webhook_{run}', args=[webhook.pk])}?hours=24"
            for webhook in webhooks
            for run in RUNS
        ),
        *(f"{reverse('webhooks_why')}?webhook={webhook.pk}" for webhook in webhooks),
        *(f"{reverse('webhooks_why')}?event={event.pk}" for event in of_failed),
    ]  # fmt: skip
