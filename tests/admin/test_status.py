"""The status page: causes with their buttons, figures, tables, permissions, retry and resume."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from rq import Queue, Worker
from rq.suspension import suspend
from rq.utils import now, utcformat

from dcim.models import Site
from tests.support.admin_pages import DELIVERIES, EVENTS, RETRY_ALL, STATUS, WEBHOOKS, do, messages_after, page, staff
from tests.support.draining import STATE
from tests.support.makers import make_site_deliveries, make_site_delivery, make_site_event, make_webhook
from tests.support.servers import free_port
from tests.support.sessions import session
from users.models import User
from webhooks.admin import base
from webhooks.ground.error_kinds import ErrorKind
from webhooks.insight import counts, overview
from webhooks.insight import status as backend
from webhooks.insight.statistics import Recent, Times
from webhooks.models import Delivery, Event, Run, State, StatisticDelta, Sweep, Webhook
from webhooks.models.event import LARGE_FIELDS
from webhooks.models.statistic import DURATION
from webhooks.models.webhook_secrets import SECRET_FIELDS
from webhooks.operations import runs
from webhooks.operations.webhooks import delete_webhooks
from webhooks.pages import status as status_page
from webhooks.templatetags.webhooks_display import EMPTY, duration, rate
from webhooks.workers.breaker import Fault
from webhooks.workers.status import CLASS_FIELD, FAULTS_FIELD, faults_as_json

pytestmark = pytest.mark.one_database


def act_of(webhook: Webhook, act: str) -> str:
    return reverse(f"admin:rq_webhooks_webhook_{act}", args=[webhook.pk])


def acts(webhook: Webhook, delivery: Delivery, run: Run) -> list[str]:
    """The addresses of the buttons of the page."""
    of_webhook = [act_of(webhook, act) for act in ("enable", "resume", "ping")]
    return [do("retry", delivery), RETRY_ALL, *of_webhook, reverse("admin:rq_webhooks_run_cancel", args=[run.pk])]


def found(client: Client) -> list[str]:
    return [one.text for one in client.get(STATUS).context["shown"].status.alarms]


class TestPage:
    def test_its_address_is_fixed(self, webhook: Webhook) -> None:
        assert STATUS == "/admin/webhook-backend-status/"

    def test_it_shows_failed_deliveries_and_events_with_errors(self, admin_client: Client, webhook: Webhook) -> None:
        delivery = make_site_delivery(webhook, event=make_site_event(12, "AMS1"))
        make_site_delivery(webhook, State.WAITING)
        make_site_event(3, "odd", data="", error="Traceback:\nKeyError: 'rack'")
        shown = page(admin_client, STATUS)
        link = reverse("admin:rq_webhooks_delivery_change", args=[delivery.pk])
        for text in (link, "AMS1", "HTTP 503 Service Unavailable", "CMDB", "KeyError: &#x27;rack&#x27;", "odd"):
            assert text in shown

    def test_failed_deliveries_are_grouped_by_webhook_and_reason(self, admin_client: Client, webhook: Webhook) -> None:
        dns = make_webhook(Site, name="DNS")
        for one, kind, count in ((webhook, "http_401", 5), (webhook, "refused", 1), (dns, "http_401", 2)):
            make_site_deliveries(one, count, error_kind=kind)
        groups = admin_client.get(STATUS).context["shown"].groups
        assert [(one.webhook.name, one.found.kind, one.found.count, len(one.newest)) for one in groups] == [
            ("CMDB", "http_401", 5, 3),
            ("DNS", "http_401", 2, 2),
            ("CMDB", "refused", 1, 1),
        ]
        shown = " ".join(re.sub("<[^>]+>", "", page(admin_client, STATUS)).split())
        assert "HTTP 401 Unauthorized · CMDB · 5" in shown
        assert "connection refused · CMDB · 1" in shown
        assert f"{DELIVERIES}?state=failed&amp;webhook={dns.pk}&amp;error_kind=http_401" in page(admin_client, STATUS)

    def test_webhooks_come_in_the_order_of_their_trouble_and_the_healthy_ones_are_folded(
        self, admin_client: Client, webhook: Webhook
    ) -> None:
        for number in range(10):
            make_webhook(Site, name=f"healthy {number}")
        make_webhook(Site, name="Zabbix", paused_at=timezone.now())
        make_site_delivery(Webhook.objects.get(name="Zabbix"), State.WAITING)
        make_site_delivery(webhook)
        found = admin_client.get(STATUS).context["shown"]
        shown, folded = ([one.webhook.name for one in rows] for rows in (found.webhooks, found.folded_webhooks))
        assert shown[:2] == ["Zabbix", "CMDB"]
        assert (len(shown), len(folded)) == (status_page.FEWEST, 4)
        assert "4 more without a problem" in page(admin_client, STATUS)

    def test_of_many_webhooks_and_reasons_the_worst_are_shown(self, admin_client: Client, webhook: Webhook) -> None:
        for number in range(status_page.MOST_ROWS + 2):
            make_site_deliveries(make_webhook(Site, name=f"broken {number}"), 1)
        shown = page(admin_client, STATUS)
        assert "3 more webhooks" in shown
        assert f"and {status_page.MOST_ROWS + 2 - status_page.MAX_FOLDED} more" in shown
        assert f"{status_page.MOST_ROWS + 2 - status_page.MAX_GROUPS} more reasons" in shown

    def test_a_worker_has_the_name_of_the_class_that_runs(
        self, admin_client: Client, webhook: Webhook, redis: Any
    ) -> None:
        for name, path in (("own", "project.workers.OwnWorker"), ("stock", "")):
            worker = Worker([Queue("webhooks", connection=redis)], name=name, connection=redis)
            worker.register_birth()
            redis.hset(worker.key, mapping={CLASS_FIELD: path} if path else {"queues": "webhooks"})
        shown = words_of(page(admin_client, STATUS), "wh-workers")
        assert "webhooks OwnWorker" in shown
        assert "webhooks rq's stock worker" in shown

    @pytest.mark.cost
    def test_the_number_of_queries_does_not_grow(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_deliveries(webhook, 1)
        page(admin_client, STATUS)
        few = self.statements(admin_client)
        for number in range(10):
            make_site_deliveries(make_webhook(Site, enabled=bool(number % 2)), 3)
            make_site_event(number, error="KeyError")
        assert len(self.statements(admin_client)) == len(few) <= 26

    def test_it_reads_no_long_columns_and_no_secrets(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_delivery(webhook)
        make_site_event(1, data="", error="KeyError")
        read = "".join(sql.partition(" FROM ")[0] for sql in self.statements(admin_client) if "object_repr" in sql)
        assert '"rq_webhooks_event"."object_repr"' in read
        for name in LARGE_FIELDS:
            assert f'"rq_webhooks_event"."{name}",' not in read
        for name in SECRET_FIELDS:
            assert f'"rq_webhooks_webhook"."{name}",' not in read

    @pytest.mark.cost
    def test_counts_have_a_limit(self, admin_client: Client, webhook: Webhook) -> None:
        counting = [sql for sql in self.statements(admin_client) if "COUNT(" in sql]
        assert all(sql.count("COUNT(") <= sql.count("LIMIT 501") + sql.count("LIMIT 10001") for sql in counting)

    def statements(self, client: Client) -> list[str]:
        with CaptureQueriesContext(connection) as captured:
            page(client, STATUS)
        return [one["sql"] for one in captured if "webhooks_" in one["sql"]]

    def test_capped_counts_are_marked(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in (counts, overview, status_page):
            monkeypatch.setattr(module, "TOTAL_CAP", 2, raising=False)
            monkeypatch.setattr(module, "EACH_CAP", 2, raising=False)
        make_site_deliveries(webhook, 5)
        shown = page(admin_client, STATUS)
        assert f"Pending {EMPTY} Failed 2+" in words_of(shown, "wh-figures")
        assert "2+" in words_of(shown, "wh-webhooks")
        assert "CMDB · 2+" in words_of(shown, "wh-failed")

    def test_an_open_run_shows_its_progress_and_the_time_that_is_left(
        self, admin_client: Client, webhook: Webhook
    ) -> None:
        minute_ago = timezone.now() - timedelta(minutes=1)
        Run.objects.create(kind="retry", requested_by="admin", total=120, done=60, created=minute_ago)
        shown = page(admin_client, STATUS)
        assert "60 of 120" in shown
        assert "1/s, about 1 min left" in shown

    def test_many_webhooks_link_to_their_list(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(overview, "MAX_WEBHOOKS", 1)
        make_webhook(Site, name="Zabbix")
        shown = page(admin_client, STATUS)
        assert "the list of webhooks" in shown
        assert "Zabbix" not in shown

    def test_it_says_when_webhooks_are_turned_off(
        self, admin_client: Client, webhook: Webhook, webhooks_settings: Any
    ) -> None:
        webhooks_settings(ENABLED=False)
        assert "Webhooks are turned off" in found(admin_client)[0]

    def test_without_redis_it_comes_promptly_and_shows_the_error(
        self, admin_client: Client, webhook: Webhook, settings: Any
    ) -> None:
        settings.RQ_QUEUES = {"webhooks": {"URL": f"redis://user:pass@127.0.0.1:{free_port()}/3"}}
        make_site_delivery(webhook, event=make_site_event(12, "AMS1"))
        began = timezone.now()
        shown = page(admin_client, STATUS)
        assert (timezone.now() - began).total_seconds() < 3
        assert "Redis cannot be used" in shown
        assert "AMS1" in shown
        assert "pass" not in shown.split("Redis cannot be used")[1].split("</section>")[0].replace("password", "")

    def test_a_queue_that_is_not_in_the_settings_is_named(
        self, admin_client: Client, webhook: Webhook, webhooks_settings: Any
    ) -> None:
        webhooks_settings(QUEUE="nowhere")
        assert "RQ_QUEUES has no queue &quot;nowhere&quot;" in page(admin_client, STATUS)

    def test_it_links_to_django_rq(self, admin_client: Client, webhook: Webhook) -> None:
        assert f'href="{reverse("django_rq:home")}"' in page(admin_client, STATUS)


def test_the_app_and_its_lists_link_to_the_status_page(admin_client: Client) -> None:
    status = reverse("webhooks_backend_status")
    for address in (WEBHOOKS, DELIVERIES, EVENTS, reverse("admin:app_list", args=["rq_webhooks"])):
        assert f'href="{status}"' in page(admin_client, address)
    assert f'href="{status}"' in page(staff("view_webhook", "view_delivery"), WEBHOOKS)
    assert status not in page(staff("view_webhook"), WEBHOOKS)


class TestPermissions:
    def test_anonymous_users_must_log_in(self, webhook: Webhook) -> None:
        response = Client().get(STATUS)
        assert (response.status_code, response["Location"]) == (302, f"/admin/login/?next={STATUS}")

    def test_it_needs_permission_to_view_deliveries(self, webhook: Webhook) -> None:
        assert staff("view_webhook").get(STATUS).status_code == 403

    def test_viewers_see_no_retry_buttons(self, webhook: Webhook) -> None:
        delivery = make_site_delivery(webhook)
        shown = page(staff("view_delivery"), STATUS)
        assert "HTTP 503" in shown
        assert RETRY_ALL not in shown
        assert do("retry", delivery) not in shown
        assert reverse("admin:rq_webhooks_webhook_change", args=[webhook.pk]) not in shown

    def test_viewing_does_not_imply_acting(self, webhook: Webhook) -> None:
        delivery, run = make_site_delivery(webhook), Run.objects.create(kind="retry")
        client = staff("view_delivery", "view_webhook", "view_run")
        for address in acts(webhook, delivery, run):
            assert client.post(address).status_code == 403, address
        delivery.refresh_from_db()
        assert delivery.state == State.FAILED

    def test_get_requests_change_nothing(self, admin_client: Client, webhook: Webhook) -> None:
        delivery = make_site_delivery(webhook)
        for address in acts(webhook, delivery, Run.objects.create(kind="retry")):
            assert admin_client.get(address).status_code == (200 if address == RETRY_ALL else 405), address
        delivery.refresh_from_db()
        assert delivery.state == State.FAILED


class TestRetry:
    def test_one_is_retried_by_its_button(self, admin_client: Client, webhook: Webhook) -> None:
        one, other = make_site_deliveries(webhook, 2)
        assert messages_after(admin_client, do("retry", one), next=STATUS) == ["1 delivery will be sent again."]
        assert list(Delivery.objects.failed()) == [other]
        assert LogEntry.objects.get().object_id == str(one.pk)

    def test_a_group_is_retried_and_no_other(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_deliveries(webhook, 2, error_kind="http_401")
        other = make_site_delivery(webhook, error_kind="refused")
        messages = messages_after(admin_client, f"{RETRY_ALL}&webhook={webhook.pk}&error_kind=http_401", next=STATUS)
        assert messages == ["2 deliveries will be sent again."]
        assert list(Delivery.objects.failed()) == [other]

    def test_a_group_of_an_unknown_kind_offers_no_retry(self, admin_client: Client, webhook: Webhook) -> None:
        """For example while the site still runs the last release."""
        make_site_delivery(webhook, error_kind="of_tomorrow")
        shown = page(admin_client, STATUS)
        assert "of_tomorrow" in shown
        assert 'error_kind=of_tomorrow" aria-label' not in shown
        assert "of_tomorrow" in page(admin_client, DELIVERIES)

    def test_many_are_retried_by_a_run_after_a_page_that_asks_with_the_true_number(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(runs, "AT_ONCE", 3)
        make_site_deliveries(webhook, 5, error_kind="http_401")
        make_site_delivery(webhook, error_kind="refused")
        assert ">Retry 6…</button>" in page(admin_client, STATUS)
        with monkeypatch.context() as capped:
            for module in (counts, overview, status_page):
                capped.setattr(module, "EACH_CAP", 2)
            assert ">Retry all…</button>" in page(admin_client, STATUS), "3 is only a cap"
        few = f"{RETRY_ALL}&webhook={webhook.pk}&error_kind=http_401"
        response = admin_client.post(few, {"next": STATUS}, follow=True)
        assert '<h1 id="wh-question">Retry 5 deliveries of CMDB?</h1>' in response.content.decode()
        assert not Run.objects.exists()
        admin_client.post(f"{response.request['PATH_INFO']}?{response.request['QUERY_STRING']}")
        assert Run.objects.get().filters == {"state": ["failed"], "webhook": webhook.pk, "error_kind": "http_401"}

    def test_all_are_retried(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_deliveries(webhook, 3)
        assert messages_after(admin_client, RETRY_ALL, next=STATUS) == ["3 deliveries will be sent again."]
        assert not Delivery.objects.failed().exists()

    def test_all_of_one_webhook_are_retried(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_deliveries(webhook, 2)
        other = make_site_delivery(make_webhook(Site))
        messages = messages_after(admin_client, f"{RETRY_ALL}&webhook={webhook.pk}", next=STATUS)
        assert messages == ["2 deliveries will be sent again."]
        assert list(Delivery.objects.failed()) == [other]

    def test_a_deleted_webhook_does_not_mean_all(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_delivery(webhook)
        for gone in ("webhook=999", "webhook=nonsense", "webhook=999&error_kind=http_401"):
            assert admin_client.post(f"{RETRY_ALL}&{gone}", {"next": STATUS}).status_code in (302, 404)
        assert Delivery.objects.failed().exists()

    def test_failed_deliveries_of_a_deleted_webhook_are_hidden_and_not_retried(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("webhooks.operations.webhooks.MAX_ROWS", 2)
        left = make_site_deliveries(webhook, 5)[-1]
        delete_webhooks(Webhook.objects.filter(pk=webhook.pk))
        shown = page(admin_client, STATUS)
        assert "1 webhook is being deleted" in shown
        assert "will not be retried" not in shown
        assert messages_after(admin_client, RETRY_ALL, next=STATUS) == ["0 deliveries will be sent again."]
        assert messages_after(admin_client, do("retry", left)) == [
            "Skipped 1: only failed, discarded or pending deliveries can be retried, and none of a deleted webhook."
        ]
        assert set(Delivery.objects.values_list(STATE, flat=True)) == {State.FAILED}

    def test_a_paused_webhook_is_resumed(self, admin_client: Client, webhook: Webhook) -> None:
        Webhook.objects.update(probe_at=timezone.now() + timedelta(hours=1), failures_in_a_row=20)
        shown = page(admin_client, STATUS)
        assert ">Resume</button>" in shown
        assert messages_after(admin_client, act_of(webhook, "resume")) == ["1 webhook resumed."]
        webhook.refresh_from_db()
        assert not webhook.is_paused


class TestStatistics:
    def test_the_attempts_of_a_day_are_shown_for_each_webhook_and_in_all(
        self, admin_client: Client, webhook: Webhook
    ) -> None:
        make_webhook(Site, name="idle")
        now = int(timezone.now().timestamp())
        counts = {
            1200: {"webhook_id": webhook.pk, "error_kind": "", "attempted": 990, "duration_100": 990, "delay_250": 990},
            120: {"webhook_id": webhook.pk, "error_kind": "refused", "attempted": 10, "duration_more": 10},
        }
        for ago, row in counts.items():
            StatisticDelta.objects.create(start=(now - ago) // 60 * 60, counts=json.dumps([row]))
        shown = page(admin_client, STATUS)
        figures = words_of(shown, "wh-figures")
        assert "Now 2.0/min 24 h 99 % p50 / p95 75 ms / 98 ms Change to request 242 ms" in figures
        assert "Attempts in 24 hours: 1,000" in figures
        assert "990 succeeded, 10 failed" in shown.split('<svg class="wh-chart"')[1].split(">")[0]
        busy, idle = shown.split('id="wh-webhooks"')[1].split("<tbody>")[1].split("</tr>")[:2]
        assert "99 % 75 ms / 98 ms" in words(busy)
        assert f"idle enabled {EMPTY} {EMPTY}" in words(idle)
        assert "990 succeeded, 10 failed" in busy
        found = admin_client.get(STATUS).context["overview"].hours
        assert sum(succeeded for _, (succeeded, _) in found.busy) == 990

    def test_skipped_changes_are_counted(self, admin_client: Client, webhook: Webhook) -> None:
        now = int(timezone.now().timestamp()) // 60 * 60
        rows = [{"webhook_id": webhook.pk, "error_kind": "", "skipped": 1200}]
        StatisticDelta.objects.create(start=now, counts=json.dumps(rows))
        assert "Skipped changes: 1,200" in page(admin_client, STATUS)

    @pytest.mark.parametrize(
        ("counts", "text"),
        [
            ({}, EMPTY),
            ({"duration_10": 1}, "5 ms"),
            ({"duration_2500": 1}, "1.8 s"),
            ({"duration_30000": 1}, "20 s"),
            ({"duration_more": 1}, "over 30 s"),
        ],
    )
    def test_times_are_readable(self, counts: dict[str, int], text: str) -> None:
        assert duration(Times(DURATION, Counter(counts)), 0.5) == text

    @pytest.mark.parametrize(("attempts", "text"), [(0, "0"), (1, "0.2"), (49, "9.8"), (207, "41"), (8000, "1,600")])
    def test_rates_are_readable(self, attempts: int, text: str) -> None:
        recent = Recent()
        recent.minutes.add("", {"attempted": attempts})
        assert rate(recent.per_minute) == text

    def test_a_user_without_permission_for_webhooks_sees_none(self, webhook: Webhook) -> None:
        assert "Attempts in 24 hours" in page(staff("view_delivery", "view_webhook"), STATUS)
        assert "Attempts in 24 hours" not in page(staff("view_delivery"), STATUS)


REFUSED = {"failures_in_a_row": 3, "error_kind": "refused", "last_failure": "connection refused"}
FUTURE = timezone.now() + timedelta(days=1)
BETWEEN = {"due_at": FUTURE, "failures": 1}


@pytest.mark.parametrize(
    ("columns", "deliveries", "words", "labels"),
    [
        (
            REFUSED, [(State.PENDING, BETWEEN)],
            ["connection refused", "1 not sent yet", "Nothing listens at https://cmdb.example", "Start the receiver"],
            ["See request", "Send test", "Open webhook"],
        ),
        (
            REFUSED | {"error_kind": "http_401", "last_failure": "HTTP 401 Unauthorized", "probe_at": FUTURE},
            [(State.PENDING, BETWEEN), (State.FAILED, {})],
            ["is paused after 3 failed attempts: HTTP 401", "1 failed", "next probe", "Compare the secret",
             "admin@example.com: Changed Secret."],
            ["See request", "Send test", "Resume", "Retry 1", "Open webhook"],
        ),
        (
            REFUSED | {"error_kind": "tls_certificate", "last_failure": "self-signed certificate"},
            [(State.PENDING, BETWEEN)],
            ["self-signed certificate", "does not trust the certificate", "Renew the certificate"],
            ["See request", "Send test", "Open webhook"],
        ),
        (
            {"enabled": False, "disabled_reason": "gone", "error_kind": "http_410"},
            [(State.PENDING, {})],
            ["was disabled automatically: the receiver answered 410 Gone", "1 not sent yet", "enter the new URL"],
            ["Enable", "Open webhook"],
        ),
        (
            {"paused_at": timezone.now(), "paused_by": "jstretch"}, [(State.PENDING, {}), (State.WAITING, {})],
            ["was paused by jstretch", "2 not sent yet", "Resume it"], ["Resume", "Open webhook"],
        ),
        (
            {}, [(State.PENDING, BETWEEN | {"failing_since": timezone.now()}), (State.WAITING, {})],
            ["the first delivery of 1 object fails", "1 not sent yet", "its page says why"], ["See request"],
        ),
    ],
    ids=["receiver down", "401", "TLS", "410", "paused", "behind a head"],
)  # fmt: skip
@pytest.mark.usefixtures("serving")
def test_each_cause_has_one_box_with_its_words_and_buttons(
    admin_client: Client,
    webhook: Webhook,
    columns: dict[str, Any],
    deliveries: list[tuple[State, dict[str, Any]]],
    words: list[str],
    labels: list[str],
) -> None:
    began = {"failing_since": timezone.now(), "last_failure_at": timezone.now()} if "error_kind" in columns else {}
    Webhook.objects.filter(pk=webhook.pk).update(payload_url="https://cmdb.example/hook", **began | columns)
    make_webhook(Site, name="healthy")
    for state, more in deliveries:
        make_site_delivery(webhook, state, make_site_event(state), **more)
    boss = User.objects.get(email="admin@example.com")
    LogEntry.objects.log_actions(boss.pk, [webhook], CHANGE, [{"changed": {"fields": ["Secret"]}}])
    found = admin_client.get(STATUS).context["shown"]
    [box] = found.boxes
    shown = words_of(page(admin_client, STATUS), "wh-problems")
    assert [text for text in words if text not in shown] == []
    assert [button.label for button in (*box.links, *filter(None, [box.page]))] == labels
    assert found.webhooks[0].webhook.name == "CMDB"


@pytest.mark.usefixtures("serving")
def test_an_event_that_failed_names_its_error_and_links_to_it(admin_client: Client, webhook: Webhook) -> None:
    event = make_site_event(3, "odd", data="", error="Traceback:\nKeyError: 'rack'")
    [box] = admin_client.get(STATUS).context["shown"].boxes
    assert box.alarm.text == "1 event failed, so nothing was sent. The newest: odd, KeyError: 'rack'"
    assert (box.links[0].label, base.address(box.links[0])) == (
        "See the error", reverse("admin:rq_webhooks_event_change", args=[event.pk])
    )  # fmt: skip


def test_without_a_worker_what_waits_is_folded_and_the_time_of_the_last_sweep_is_named(
    admin_client: Client, webhook: Webhook
) -> None:
    swept_at = timezone.now() - timedelta(minutes=6)
    Sweep.objects.update_or_create(pk=1, defaults={"swept_at": swept_at})
    make_site_delivery(webhook, State.PENDING)
    [box] = admin_client.get(STATUS).context["shown"].boxes
    assert (box.alarm.level, box.alarm.since, box.folded) == ("error", swept_at, "1 webhook waits because of this")
    assert "python manage.py rqworker webhooks" in page(admin_client, STATUS)


def test_buttons_of_a_box_act_and_return(admin_client: Client, webhook: Webhook) -> None:
    Webhook.objects.filter(pk=webhook.pk).update(enabled=False)
    run = Run.objects.create(kind="retry")
    hidden = {"next": STATUS}
    assert '<input type="hidden" name="next" value="{next}">'.format(**hidden) in page(admin_client, STATUS)
    said = []
    for act in ("ping", "enable", "ping"):
        response = admin_client.post(act_of(webhook, act), hidden, follow=True)
        assert response.request["PATH_INFO"] == STATUS
        said += [str(message) for message in response.context["messages"]]
    assert said[:2] == ["The webhook is disabled. Enable it before you send a test.", "1 webhook enabled."]
    assert said[2].startswith("A test is on its way to “CMDB”.")
    assert Event.objects.get().action == "ping"
    assert messages_after(admin_client, reverse("admin:rq_webhooks_run_cancel", args=[run.pk]), **hidden) == [
        "1 run cancelled."
    ]
    assert Run.objects.get().state == "cancelled"


def test_a_button_takes_the_address_to_return_to_for_no_name_of_a_page(admin_client: Client, webhook: Webhook) -> None:
    for address in ("?state=failed", "webhooks_why"):
        assert admin_client.post(act_of(webhook, "pause"), {"next": address}).headers["Location"] == address


@pytest.mark.parametrize("elsewhere", ["https://evil.example/", "//evil.example/", "javascript:alert(1)"])
def test_a_button_returns_to_no_other_site(admin_client: Client, webhook: Webhook, elsewhere: str) -> None:
    response = admin_client.post(act_of(webhook, "pause"), {"next": elsewhere})
    assert response["Location"] == reverse("admin:rq_webhooks_webhook_change", args=[webhook.pk])


class TestNotice:
    """What the admin's index says."""

    def said(self, client: Client) -> str:
        shown = page(client, reverse("admin:index"))
        [notice] = re.findall(r'(?s)<p class="wh-notice.*?</p>', shown)
        return words(notice).strip()

    def problems(self, client: Client) -> list[str]:
        """The problems on the status page."""
        return [
            one.text for one in client.get(STATUS).context["shown"].status.alarms if one.level in ("error", "warning")
        ]

    def test_it_links_to_the_status_page_if_all_is_well(
        self, admin_client: Client, webhook: Webhook, serving: None
    ) -> None:
        assert self.said(admin_client) == "Webhooks: status · Why didn't it fire?"

    def test_it_names_the_worst_problems_of_the_status_page(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_delivery(webhook)
        make_site_event(3, "odd", data="", error="KeyError")
        make_webhook(Site, name="Zabbix", paused_at=timezone.now())
        first = self.said(admin_client)
        named = self.problems(admin_client)
        assert len(named) == 4
        assert first == " · ".join(["Webhooks: see what is wrong", *named[:3], "1 more problem", "Why didn't it fire?"])

    @pytest.mark.parametrize("trouble", ["redis", "suspended", "killed", "fault", "blocked"])
    def test_both_pages_know_the_same_outages(
        self, admin_client: Client, webhook: Webhook, serving: None, redis: Any, settings: Any, trouble: str
    ) -> None:
        worker = Worker.all(connection=redis)[0].key
        match trouble:
            case "redis":
                settings.RQ_QUEUES = {"webhooks": {"HOST": "127.0.0.1", "PORT": free_port(), "DB": 0}}
            case "suspended":
                suspend(redis)
            case "killed":  # it left its hash in Redis, and reports no more
                redis.hset(worker, "last_heartbeat", utcformat(now() - timedelta(minutes=5)))
            case "fault":
                fault = Fault(ErrorKind.PROXY, "The proxy proxy:3128 refuses connections", timezone.now())
                redis.hset(worker, FAULTS_FIELD, faults_as_json([fault]))
            case "blocked":
                event = make_site_event()
                make_site_delivery(webhook, State.PENDING, event, failing_since=timezone.now(), failures=1)
                make_site_delivery(webhook, State.WAITING, make_site_event())
        said = self.said(admin_client)
        named = self.problems(admin_client)
        assert named
        assert said == " · ".join(["Webhooks: see what is wrong", *named, "Why didn't it fire?"])

    @pytest.mark.cost
    def test_it_is_read_once_in_some_seconds(
        self, admin_client: Client, webhook: Webhook, serving: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert len(self.statements(admin_client)) <= 12
        make_site_delivery(webhook)
        assert self.statements(admin_client) == []
        assert "delivery" not in self.said(admin_client)
        page(admin_client, STATUS)  # which reads all, for both
        assert "1 delivery of “CMDB” failed" in self.said(admin_client)
        Delivery.objects.all().delete()
        monkeypatch.setattr(backend, "LATEST_SECONDS", 0)
        assert self.said(admin_client) == "Webhooks: status · Why didn't it fire?"

    def statements(self, client: Client) -> list[str]:
        with CaptureQueriesContext(connection) as captured:
            page(client, reverse("admin:index"))
        return [one["sql"] for one in captured if "webhooks_" in one["sql"]]

    def test_each_user_reads_what_they_may_view_in_their_language(
        self, admin_client: Client, settings: Any, webhook: Webhook
    ) -> None:
        assert "No worker is running" in self.said(admin_client)
        admin_client.cookies[settings.LANGUAGE_COOKIE_NAME] = "de"
        assert "Kein Worker läuft" in self.said(admin_client)
        assert "wh-notice" not in page(staff("view_webhook"), reverse("admin:index"))

    def test_before_the_tables_are_created_the_index_says_so(self, admin_client: Client, webhook: Webhook) -> None:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE rq_webhooks_undispatched RENAME TO elsewhere")
        shown = page(admin_client, reverse("admin:index"))
        assert "The status of webhooks cannot be read: The tables of webhooks are missing" in words(shown)
        assert "Sites" in shown, "all else is there"

    @pytest.mark.postgresql
    def test_a_locked_table_holds_the_index_for_a_moment(
        self, database: str, redis: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = Client()
        client.force_login(User.objects.create_superuser("root"))
        with session("LOCK TABLE rq_webhooks_undispatched IN ACCESS EXCLUSIVE MODE"), monkeypatch.context() as patched:
            patched.setattr(backend, "STATEMENT_SECONDS", 0.2)
            assert "The status of webhooks cannot be read" in words(page(client, reverse("admin:index")))
        assert "The status of webhooks cannot be read" not in words(page(client, reverse("admin:index")))

    def test_it_is_there_in_a_theme_with_its_own_index(
        self, admin_client: Client, settings: Any, webhook: Webhook
    ) -> None:
        """The theme is before webhooks in ``INSTALLED_APPS``, as its documentation demands."""
        [engine] = settings.TEMPLATES
        own = {"admin/index.html": '{% extends "admin/base_site.html" %}{% block content %}own{% endblock %}'}
        loaders = [("django.template.loaders.locmem.Loader", own), "django.template.loaders.app_directories.Loader"]
        options = {**engine["OPTIONS"], "loaders": loaders}
        settings.TEMPLATES = [{**engine, "APP_DIRS": False, "OPTIONS": options}]
        shown = page(admin_client, reverse("admin:index"))
        assert re.search(r'(?s)<p class="wh-notice.*</p>\s*own', shown)


def words_of(shown: str, section: str) -> str:
    """The words of a section, as a reader sees them."""
    return words(shown.split(f'id="{section}"')[1].partition(">")[2].split("</section>")[0])


def words(part: str) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", part)))


@pytest.fixture
def serving(redis: Any) -> None:
    """A live worker of the shipped class."""
    worker = Worker([Queue("webhooks", connection=redis)], name="w-1", connection=redis)
    worker.register_birth()
    redis.hset(worker.key, mapping={CLASS_FIELD: "webhooks.workers.WebhookWorker", "birth": "2026-01-01T00:00:00Z"})
