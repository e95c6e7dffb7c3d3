"""Lists page by page, from the newest row to the oldest."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import unescape
from typing import Any

import pytest
from django.contrib import admin
from django.db import connections
from django.db.models import Model
from django.http import QueryDict
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.views.generic import ListView
from rest_framework.test import APIClient

from dcim.models import Site
from tests.support.admin_pages import DELIVERIES
from tests.support.makers import make_site_delivery, make_site_event, make_site_skip, make_webhook
from tests.support.users import make_user
from users.models import User
from webhooks.admin.delivery import DeliveryAdmin
from webhooks.admin.event import EventAdmin
from webhooks.insight import paging
from webhooks.models import Delivery, Event, Skip, State, Webhook
from webhooks.models.filters import MODELS, Filters, Rows, select

pytestmark = pytest.mark.usefixtures("few_rows_a_page")

FILTERS = [
    "",
    "state=failed",
    "state=succeeded",
    "state=open",
    "webhook=WEBHOOK",
    "webhook=WEBHOOK&state=failed",
    "object_type=dcim.site",
    "object_type=dcim.device&state=failed",
    "object_type=dcim.site&object_id=3",
    "request_id=r-2",
    "action=created",
    "user=ann&webhook=WEBHOOK",
    "name=number",
    "error_kind=http_503&action=created",
    "object_type=tenancy.tenant",
]


@pytest.fixture
def webhook(db: None, redis: Any) -> Webhook:
    return make_webhook(Site, name="CMDB")


@pytest.fixture
def few_rows_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    for model_admin in (DeliveryAdmin, EventAdmin):
        monkeypatch.setattr(model_admin, "list_per_page", 4)
    monkeypatch.setattr(paging, "EVENTS_AT_ONCE", 3)
    monkeypatch.setattr(paging, "ROUNDS", 2)
    monkeypatch.setattr(paging, "LOOK_THROUGH", (2, 5))
    monkeypatch.setattr(paging, "LOOK_THROUGH_SCATTERED", (2, 3))


def make_rows(webhook: Webhook) -> None:
    """Forty deliveries of twenty events, with something of everything."""
    other = make_webhook(Site)
    for number in range(20):
        event = make_site_event(
            number % 5,
            f"number {number}" if number % 3 else "other",
            object_type="dcim.site" if number % 4 else "dcim.device",
            action="created" if number % 7 == 0 else "updated",
            username="ann" if number % 6 == 0 else "bob",
            request_id=f"r-{number // 4}",
        )
        for one in (webhook, other):
            make_site_delivery(one, [State.FAILED, State.SUCCEEDED, State.WAITING][(number + one.pk) % 3], event)


class Reader:
    """Reads a list of the admin page by page as a superuser, without rendering the pages."""

    def __init__(self, user: User) -> None:
        self._user = user

    def pages(self, model: type[Model], query: str) -> Iterator[list[Any]]:
        """The ids on each page."""
        for _page in range(60):
            request = RequestFactory().get(f"/{query}")
            request.user = self._user
            response: Any = admin.site.get_model_admin(model).changelist_view(request)
            yield [row.pk for row in response.context_data["cl"].result_list]
            if not response.context_data["cl"].found.older:
                return
            query = response.context_data["older_address"]
        raise AssertionError("the list has no end")


@pytest.fixture
def reader(admin_user: User) -> Reader:
    return Reader(admin_user)


def filters_of(query: str, webhook: Webhook) -> dict[str, Any]:
    given = QueryDict(query)
    found: dict[str, Any] = given.dict()
    if "state" in found:
        states = given.getlist("state")
        found["state"] = ["waiting", "pending", "sending"] if states == ["open"] else states
    return found | ({"webhook": webhook.pk} if "webhook" in found else {})


def test_the_pages_have_every_match_once(reader: Reader, webhook: Webhook) -> None:
    make_rows(webhook)
    for query in FILTERS:
        asked = query.replace("name=", "q=").replace("WEBHOOK", str(webhook.pk))  # the search has names
        found = list(reader.pages(Delivery, f"?{asked}"))
        expected = select("deliveries", filters_of(query, webhook), Delivery.objects.order_by("-pk"))
        keys = [key for page in found for key in page]
        assert sorted(keys, reverse=True) == list(expected.values_list("pk", flat=True)), query
        assert len(keys) == len(set(keys)), query
        assert all(len(page) <= 4 for page in found), query


def test_the_pages_of_events_have_every_match_once(reader: Reader, webhook: Webhook) -> None:
    make_rows(webhook)
    for query in ("", "object_type=dcim.device", "action=created&user=ann", "request_id=r-2", "webhook=WEBHOOK"):
        asked = query.replace("WEBHOOK", str(webhook.pk))
        found = [key for page in reader.pages(Event, f"?{asked}") for key in page]
        expected = select("events", filters_of(query, webhook), Event.objects.order_by("-pk"))
        assert found == list(expected.values_list("pk", flat=True)), query


@pytest.mark.parametrize("query", [*FILTERS, "state=failed&state=waiting", "name=number&webhook=WEBHOOK"])
def test_the_pages_of_the_rest_api_have_every_match_once(api: APIClient, webhook: Webhook, query: str) -> None:
    make_rows(webhook)
    query = query.replace("state=open", "state=waiting&state=pending&state=sending").replace("WEBHOOK", str(webhook.pk))
    expected = {str(pk) for pk in select("deliveries", filters_of(query, webhook)).values_list("pk", flat=True)}
    keys, url = list[str](), f"{reverse('webhooks-api:delivery-list')}?limit=4&{query}"
    while url:
        page = api.get(url).json()
        keys += [row["id"] for row in page["results"]]
        url = page["next"]
    assert sorted(keys) == sorted(expected)


def test_a_link_leads_to_the_next_page(admin_client: Client, reader: Reader, webhook: Webhook) -> None:
    make_rows(webhook)
    response: Any = admin_client.get(f"{DELIVERIES}?state=failed")
    address = re.search(r'rel="next" href="([^"]+)"', response.content.decode())
    assert address
    response = admin_client.get(DELIVERIES + unescape(address[1]))
    assert [row.pk for row in response.context["cl"].result_list] == list(reader.pages(Delivery, "?state=failed"))[1]


def test_a_page_says_how_far_it_looked(admin_client: Client, reader: Reader, webhook: Webhook) -> None:
    make_rows(webhook)
    shown = admin_client.get(f"{DELIVERIES}?user=eve").content.decode()
    assert "No match so far." in shown
    assert "Search further back" in shown
    for page in reader.pages(Delivery, "?user=eve"):
        assert page == []
    assert "0 deliveries" in admin_client.get(f"{DELIVERIES}?object_type=tenancy.tenant").content.decode()


def test_a_search_goes_on_by_itself_until_there_is_a_match_or_nothing_is_left(
    admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paging, "ROUNDS", 1)
    monkeypatch.setattr(paging, "LOOK_THROUGH", (2, 2))
    oldest = make_site_delivery(webhook, event=make_site_event(username="zoe"))
    make_rows(webhook)
    for user, rows in (("zoe", [oldest]), ("eve", [])):
        shown: Any = admin_client.get(f"{DELIVERIES}?user={user}")
        pages = 0
        while address := re.search(r'id="wh-pager" hx-get="([^"]+)"', shown.content.decode()):
            shown = admin_client.get(DELIVERIES + unescape(address[1]), headers={"HX-Request": "true"})
            pages += 1
        assert pages > 2
        last: Any = admin_client.get(json.loads(shown.headers["HX-Trigger"])["wh:found"])
        assert list(last.context["cl"].result_list) == rows
        assert ("No match." in last.content.decode()) == (not rows)


def test_the_list_of_skips_has_every_match_once(reader: Reader, webhook: Webhook) -> None:
    mine = [make_site_skip(webhook, key % 3, action="created" if key % 2 else "updated").pk for key in range(12)]
    make_site_skip(make_webhook(Site), 1)
    created = [key for page in reader.pages(Skip, f"?webhook={webhook.pk}&action=created") for key in page]
    assert sorted(created) == sorted(mine[1::2])
    of_object = reader.pages(Skip, "?object_type=dcim.site&object_id=1&rule=condition")
    assert sum(map(len, of_object)) == 5


SINCE = {"created_after": "2026-05-04T13:00:00+00:00"}


@pytest.mark.parametrize(
    ("kind", "filters", "indexed"),
    [
        ("deliveries", {"status": 418}, set()),
        ("deliveries", {"error_kind": "timeout", "webhook": 1, **SINCE}, {"error_kind", *SINCE}),
        ("deliveries", {"state": ["failed"], "error_kind": "timeout"}, {"error_kind"}),
        ("deliveries", {"state": ["discarded"], "error_kind": "timeout"}, {"state"}),
        ("deliveries", {"state": ["failed"], "webhook": 1, **SINCE}, {"state", "webhook", *SINCE}),
        ("deliveries", {"state": ["failed", "succeeded"], "webhook": 1}, {"webhook"}),
        ("events", {"object_id": "3", "object_type": "dcim.site", "request_id": "r"}, {"request_id"}),
        ("events", {"object_id": "3", "object_type": "dcim.site", "failed": True}, {"object_id", "object_type"}),
        ("events", {"object_type": "dcim.site", "failed": True}, {"object_type"}),
        ("events", {"failed": True, "action": "created"}, {"failed"}),
        ("events", {"failed": False, **SINCE}, {*SINCE}),
        ("skips", {"object_id": "3", "webhook": 1}, {"object_id"}),
        ("skips", {"webhook": 1, "rule": "loop"}, {"webhook"}),
    ],
)
def test_a_page_takes_the_index_that_leaves_the_fewest_rows(
    kind: Rows, filters: Filters, indexed: set[str], webhook: Webhook
) -> None:
    rows, answered, _index = paging.in_order(kind, filters, MODELS[kind].objects.all())
    assert (list(rows), answered) == ([], indexed)


@pytest.mark.parametrize(
    ("filters", "are_found"),
    [
        ({}, False),
        ({"state": ["failed"]}, False),
        ({"action": "created"}, True),
        ({"action": "created", "webhook": 1}, False),
        ({"name": "a", "webhook": 1}, True),
        ({"name": "a", "webhook": 1, "state": ["failed"]}, False),
        ({"request_id": "r", "state": ["failed"]}, True),
        ({"object_type": "dcim.site", "state": ["failed"]}, True),  # there are few
    ],
)
def test_deliveries_are_found_by_their_events_where_that_reads_less(
    filters: Filters, are_found: bool, webhook: Webhook
) -> None:
    assert paging.are_found_by_events(filters) == are_found


class Newest(ListView):  # type: ignore[type-arg]
    """A generic list of a host, which knows nothing of cursors."""

    paginate_by = 10
    template_name = "admin/base_site.html"
    filters: dict[str, Any] = {}

    def get_queryset(self) -> Any:
        return paging.list_deliveries(self.filters, self.request.user)


def generic_page(user: User, number: int = 1, **filters: Any) -> tuple[Any, list[str]]:
    """A page of the generic list, and the statements that it took."""
    request = RequestFactory().get("/", {"page": number})
    request.user = user
    with CaptureQueriesContext(connections[Delivery.objects.db]) as captured:
        response: Any = Newest.as_view(filters=filters)(request)
        list(response.context_data["object_list"])
    return response.context_data, [one["sql"] for one in captured if "rq_webhooks" in one["sql"]]


class TestGenericViews:
    @pytest.mark.cost
    def test_django_pages_a_list_and_reads_few_rows(
        self, admin_user: User, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(paging, "KEYS_AT_ONCE", 10)
        make_rows(webhook)
        newest_first = list(Delivery.objects.order_by("-pk").values_list("pk", flat=True))
        seen = list[Any]()
        for number in range(1, 5):
            context, statements = generic_page(admin_user, number)
            assert context["paginator"].count == 40
            assert context["delivery_list"] == context["object_list"]
            seen += [one.pk for one in context["object_list"]]
            assert len(statements) <= 7
            for sql in statements:
                limits = {int(one) for one in re.findall(r"LIMIT (\d+)", sql)}
                assert limits <= ({paging.TOTAL_CAP + 1} if "COUNT(" in sql else {11, 10 * number + 1}), sql
        assert seen == newest_first
        assert not context["page_obj"].has_next()

    @pytest.mark.cost
    def test_a_count_and_the_pages_stop_at_the_cap(
        self, admin_user: User, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(paging, "TOTAL_CAP", 25)
        make_rows(webhook)
        context, _ = generic_page(admin_user, 3)
        assert (context["paginator"].count, len(context["object_list"])) == (25, 5)

    def test_filters_that_few_rows_match_end_with_the_rows_that_were_looked_at(
        self, admin_user: User, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_rows(webhook)
        monkeypatch.setattr(paging, "LOOK_THROUGH", (2, 10))
        rows = paging.list_events({"user": "ann"}, admin_user)
        newest = Event.objects.order_by("-pk")[:12]
        assert list(rows) == [one for one in newest if one.username == "ann"]
        assert rows.count() == len(list(rows)) > 0
        assert rows.is_cut

    def test_a_user_gets_the_rows_that_they_may_view(self, webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
        make_rows(webhook)
        monkeypatch.setattr(paging, "LOOK_THROUGH", (20, 40))
        assert paging.list_deliveries({}, make_user("view_webhook")).count() == 0
        events = paging.list_events({}, make_user("view_event"))
        assert (len(events), events[0]) == (20, Event.objects.latest("pk"))

    def test_a_cursor_leads_on_from_an_offset(self, admin_user: User, webhook: Webhook) -> None:
        make_rows(webhook)
        for query in FILTERS:
            rows = paging.list_deliveries(filters_of(query, webhook), admin_user)
            first = rows.page(3).keys
            page = rows.page(2, offset=len(first))
            keys = first + page.keys
            while page.older:
                page = rows.page(2, page.older)
                keys += page.keys
            expected = select("deliveries", filters_of(query, webhook)).values_list("pk", flat=True)
            assert sorted(keys) == sorted(expected), query

    def test_another_order_is_not_taken(self, admin_user: User, webhook: Webhook) -> None:
        make_rows(webhook)
        rows = paging.list_deliveries({}, admin_user).order_by("pk")
        assert rows.ordered
        assert rows[0] == Delivery.objects.latest("pk")
        with pytest.raises(ValueError, match="Negative"):
            rows[-3:]
