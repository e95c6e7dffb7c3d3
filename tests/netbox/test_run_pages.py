"""The list of runs in NetBox, the page of one, and the pages that ask before a run begins."""

from __future__ import annotations

import re

import pytest
from django.test import Client

from dcim.models import Site
from tests.support.makers import make_site_deliveries, make_webhook
from tests.support.netbox_pages import address, messages, queries_of, rows, shown
from tests.support.netbox_users import browser, make_user
from webhooks.models import Run, RunState, Webhook
from webhooks.operations import runs

pytestmark = pytest.mark.django_db


@pytest.fixture
def webhook() -> Webhook:
    return make_webhook(Site, name="CMDB")


@pytest.fixture
def run(webhook: Webhook) -> Run:
    return runs.start("retry", {"webhook": webhook.pk}, requested_by="jane")


def test_a_row_has_what_state_progress_and_user(admin_client: Client, run: Run) -> None:
    [row] = rows(shown(admin_client, address("run_list")))
    assert row.startswith(f"Run {run.pk}: retry of deliveries of CMDB running Counting jane")


def test_the_list_has_no_search_that_it_cannot_do(admin_client: Client, run: Run) -> None:
    assert 'id="quicksearch"' not in shown(admin_client, address("run_list"))


def test_runs_are_filtered_by_state_and_kind(admin_client: Client, run: Run) -> None:
    for query, count in (
        ({"state": "running"}, 1), ({"state": "done"}, 0), ({"kind": "retry"}, 1), ({"kind": "discard"}, 0),
    ):  # fmt: skip
        assert len(rows(shown(admin_client, address("run_list"), **query))) == count


def test_the_list_costs_as_many_queries_with_fifty_rows_as_with_ten(admin_client: Client) -> None:
    def fill(count: int) -> None:
        for number in range(count):
            hook = make_webhook(Site, name=f"hook {Run.objects.count()} {number}")
            runs.start("retry", {"webhook": hook.pk})

    fill(10)
    few = queries_of(admin_client, address("run_list"))
    fill(40)
    assert len(rows(shown(admin_client, address("run_list")))) == 50
    assert queries_of(admin_client, address("run_list")) == few


def test_the_page_shows_progress_and_who_asked_and_refreshes_itself(admin_client: Client, run: Run) -> None:
    Run.objects.filter(pk=run.pk).update(total=200, done=50, failed=3, problem="boom")
    page = shown(admin_client, address("run", run.pk))
    for text in (f"Run {run.pk}: retry of deliveries of CMDB", "53 of 200 (26", "jane", "boom", "What matches now"):
        assert text in page
    assert 'hx-trigger="every 2s"' in page


def test_the_page_of_an_ended_run_loads_once_more_and_then_rests(admin_client: Client, run: Run) -> None:
    Run.objects.filter(pk=run.pk).update(state=RunState.DONE)
    url = address("run", run.pk)
    assert admin_client.get(url, headers={"HX-Request": "true"}).headers["HX-Refresh"] == "true"
    page = shown(admin_client, url)
    assert "every 2s" not in page
    assert "Cancel run" not in page


def test_a_run_is_paused_resumed_and_cancelled(admin_client: Client, run: Run) -> None:
    for act, state, said in (
        ("pause", RunState.PAUSED, "1 run paused."),
        ("resume", RunState.RUNNING, "1 run resumed."),
        ("cancel", RunState.CANCELLED, "1 run cancelled."),
    ):
        answer = admin_client.post(address(f"run_{act}", run.pk), follow=True)
        assert answer.redirect_chain == [(address("run", run.pk), 302)]
        assert messages(answer) == [said]
        run.refresh_from_db()
        assert run.state == state
    answer = admin_client.post(address("run_bulk_cancel"), {"pk": [run.pk]}, follow=True)
    assert messages(answer) == ["Skipped 1: they have ended."]


def test_cancel_asks_in_a_dialog(admin_client: Client, run: Run) -> None:
    page = shown(admin_client, address("run", run.pk))
    dialog = page.partition(f'id="wh-run-cancel-{run.pk}"')[2]
    assert "Cancel this run?" in dialog
    assert "rows are left out" not in dialog, "they are not counted yet"
    assert f'action="{address("run_cancel", run.pk)}"' in dialog


def test_rights_decide_about_runs(webhook: Webhook, run: Run) -> None:
    make_site_deliveries(webhook, 1)
    lists, page = address("run_list"), address("run", run.pk)
    for url in (lists, page):
        assert browser(make_user("view_delivery")).get(url).status_code == 403
    viewer = browser(make_user("view_run"))
    assert len(rows(shown(viewer, lists))) == 1
    assert "/cancel/" not in shown(viewer, page) + shown(viewer, lists)
    assert viewer.post(address("run_cancel", run.pk)).status_code == 403
    assert viewer.get(f"{address('run_add')}?kind=retry").status_code == 403
    assert viewer.get(address("webhook_recover", webhook.pk)).status_code == 403
    run.refresh_from_db()
    assert run.state == RunState.RUNNING


def test_a_user_without_the_permission_for_runs_changes_few_rows_only(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "AT_ONCE", 1)
    make_site_deliveries(webhook, 3)
    client = browser(make_user("view_delivery", "retry_delivery", "view_webhook", "dcim.view_site"))
    url = f"{address('run_add')}?kind=retry&state=failed"
    assert "You need permission to begin runs" in shown(client, url)
    assert client.post(url).status_code == 403
    assert not Run.objects.exists()


@pytest.mark.parametrize("query", ["", "?kind=nothing", "?kind=recover"])
def test_an_impossible_run_is_not_offered(admin_client: Client, query: str) -> None:
    assert admin_client.get(address("run_add") + query).status_code == 404


def test_a_filter_that_no_row_can_have_is_refused(admin_client: Client, webhook: Webhook) -> None:
    make_site_deliveries(webhook, 1)
    url = f"{address('run_add')}?kind=retry&state=nonsense"
    for answer in (admin_client.get(url, follow=True), admin_client.post(url, follow=True)):
        assert answer.redirect_chain == [(address("delivery_list"), 302)]
        assert "takes only these states" in messages(answer)[0]
    assert not Run.objects.exists()


def test_a_webhook_is_recovered_after_its_question(admin_client: Client, webhook: Webhook) -> None:
    make_site_deliveries(webhook, 2)
    url = address("webhook_recover", webhook.pk)
    assert "Show what would be sent" in shown(admin_client, url)
    asked = shown(admin_client, url, hours="6")
    assert "2 would be sent" in asked
    fields = dict(re.findall(r'name="(nonce|since)" value="([^"]+)"', asked))
    assert not Run.objects.exists()
    begun = admin_client.post(url, fields)
    assert begun.headers["Location"] == address("webhook", webhook.pk)
    run = Run.objects.get()
    assert (run.kind, run.filters["webhook"]) == ("recover", webhook.pk)
    assert admin_client.post(url, fields).headers["Location"] == address("run", run.pk), "the form may come twice"


def test_a_run_that_does_the_same_is_shown_instead(admin_client: Client, webhook: Webhook) -> None:
    url = f"{address('run_add')}?kind=replay&object_type=dcim.site"
    first = admin_client.post(url)
    again = admin_client.post(url, follow=True)
    assert again.redirect_chain == [(first.headers["Location"], 302)]
    assert "does the same and has not ended yet" in messages(again)[-1]
