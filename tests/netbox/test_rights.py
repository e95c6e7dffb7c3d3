"""Six kinds of users look at every page and every address of the REST API that the plugin has.

A mark is a text that only some users may read. No answer to another user may contain it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from django.db.models import Model
from django.test import Client
from django.urls import URLResolver, get_resolver, reverse
from users.constants import TOKEN_PREFIX

from core.models import ObjectType
from dcim.models import Region, Site
from tests.support.makers import make_attempt, make_delivery, make_event, make_site_skip, make_webhook
from users.models import ObjectPermission, Token, User
from webhooks.models import Delivery, Event, Run, Skip, State, Webhook

pytestmark = pytest.mark.django_db

# The marks.
SITE, WEBHOOK, PAYLOAD, PATH = "South-4711", "other-hook-0815", "payload-mark-42", "path-mark-7"
MARKS = {SITE, WEBHOOK, PAYLOAD, PATH}


@dataclass(frozen=True)
class Kind:
    """A kind of user: object permissions as models, actions and constraints, and the marks that it may read."""

    name: str
    permissions: tuple[tuple[tuple[str, ...], tuple[str, ...], dict[str, str] | None], ...] = ()
    reads: frozenset[str] = frozenset()
    is_superuser: bool = False


ROWS = ("rq_webhooks.delivery", "rq_webhooks.event", "rq_webhooks.run", "rq_webhooks.skip")
READS_PAYLOADS = (("rq_webhooks.event",), ("read_payload",), None)
ALL_SITES = (("dcim.site",), ("view",), None)

KINDS = (
    Kind("superuser", reads=frozenset(MARKS), is_superuser=True),
    Kind("no rights"),
    Kind(
        "view only",
        ((("rq_webhooks.webhook", *ROWS), ("view",), None), READS_PAYLOADS, ALL_SITES),
        frozenset({SITE, WEBHOOK, PAYLOAD}),
    ),
    Kind(
        "some webhooks",
        (
            (("rq_webhooks.webhook",), ("view",), {"name": "mine"}),
            (ROWS, ("view",), None),
            READS_PAYLOADS,
            ALL_SITES,
        ),
        frozenset({SITE, PAYLOAD}),
    ),
    Kind(
        "sites of one region",
        (
            (("rq_webhooks.webhook", *ROWS), ("view",), None),
            READS_PAYLOADS,
            (("dcim.site",), ("view",), {"region__slug": "north"}),
        ),
        frozenset({WEBHOOK, PAYLOAD}),
    ),
    Kind(
        "changes webhooks, without payloads",
        ((("rq_webhooks.webhook",), ("view", "change"), None), (ROWS, ("view",), None), ALL_SITES),
        frozenset({SITE, WEBHOOK, PATH}),
    ),
)


@dataclass(frozen=True)
class Rows:
    """The webhooks and sites that the rows are about."""

    mine: Webhook
    other: Webhook
    north: Site
    south: Site


@pytest.fixture
def rows() -> Rows:
    north, south = (
        Site.objects.create(
            name=name, slug=name.lower(), region=Region.objects.create(name=region, slug=region.lower())
        )
        for name, region in (("North-1", "North"), (SITE, "South"))
    )
    mine, other = (make_webhook(Site, name=name, url=f"http://127.0.0.1:1/{PATH}/{name}") for name in ("mine", WEBHOOK))
    for site in (north, south):
        event = make_event(
            mine,
            other,
            dispatched=True,
            object_type="dcim.site",
            object_id=str(site.pk),
            object_repr=str(site),
            data=json.dumps({"id": site.pk, "comments": PAYLOAD}),
        )
        for webhook in (mine, other):
            delivery = make_delivery(webhook, State.FAILED, str(site.pk), event=event)
            make_attempt(delivery, response_body=PAYLOAD)
            make_site_skip(webhook, site.pk, actual=PAYLOAD, object_repr=str(site))
    Run.objects.create(kind="retry", requested_by="admin", filters={"webhook": other.pk}, last_event=0)
    return Rows(mine, other, north, south)


def make(kind: Kind) -> Any:
    user = User.objects.create_user(kind.name.replace(" ", "-").replace(",", ""), is_superuser=kind.is_superuser)
    for number, (models, actions, constraints) in enumerate(kind.permissions):
        permission = ObjectPermission.objects.create(
            name=f"{kind.name} {number}", actions=list(actions), constraints=constraints
        )
        permission.object_types.set([ObjectType.objects.get_by_natural_key(*model.split(".")) for model in models])
        permission.users.add(user)
    return user


@dataclass(frozen=True)
class Hands:
    """A user's browser, and the client with the user's token."""

    user: Any
    browser: Client
    rest: Client


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def hands(kind: Kind) -> Hands:
    user = make(kind)
    browser = Client(raise_request_exception=True)
    browser.force_login(user)
    token = Token.objects.create(user=user)
    return Hands(user, browser, Client(headers={"authorization": f"Bearer {TOKEN_PREFIX}{token.key}.{token.token}"}))


# Every address


def patterns(namespace: str) -> Iterator[tuple[str, set[str]]]:
    """The names of all addresses of a namespace of namespaces, such as ``plugins:rq_webhooks``, with the names of the
    parameters that they take."""
    found: Any = get_resolver()
    for name in namespace.split(":"):
        found = next(one for one in resolvers(found) if one.namespace == name)
    yield from leaves(found, set())


def resolvers(resolver: URLResolver) -> Iterator[URLResolver]:
    for one in resolver.url_patterns:
        if isinstance(one, URLResolver):
            yield one
            if not one.namespace:
                yield from resolvers(one)


def leaves(resolver: URLResolver, outer: set[str]) -> Iterator[tuple[str, set[str]]]:
    for one in resolver.url_patterns:
        parameters = outer | set(one.pattern.regex.groupindex)
        if isinstance(one, URLResolver):
            yield from leaves(one, parameters)
        elif one.name:
            yield one.name, parameters


def addresses(namespace: str) -> Iterator[str]:
    """The path of each address, once for each row that it may be about."""
    for name, parameters in patterns(namespace):
        path = partial(reverse, f"{namespace}:{name}")
        kind = re.split("[-_]", name)[0]
        if not parameters:
            yield path()
        elif parameters == {"pk"}:
            yield from (path(kwargs={"pk": key}) for key in keys(kind))
        elif parameters == {"webhook"}:
            yield from (path(kwargs={"webhook": key}) for key in keys("webhook"))
        else:
            raise AssertionError(f"{name} has the parameters {parameters}: add them here")
    if namespace == NAMESPACES["browser"]:
        for site in Site.objects.all():
            yield reverse("dcim:site_webhooks", kwargs={"pk": site.pk})
            yield reverse(f"{namespace}:why") + f"?object_type=dcim.site&object_id={site.pk}"


MODELS: dict[str, type[Model]] = {"webhook": Webhook, "delivery": Delivery, "event": Event, "run": Run, "skip": Skip}


def keys(kind: str) -> list[Any]:
    """The keys of all rows of a kind."""
    return list(MODELS[kind]._base_manager.values_list("pk", flat=True))


NAMESPACES = {"browser": "plugins:rq_webhooks", "rest": "plugins-api:rq_webhooks-api"}


@pytest.mark.usefixtures("rows")
def test_no_answer_has_what_the_user_may_not_read(kind: Kind, hands: Hands) -> None:
    read: set[str] = set()
    shown = []
    for client, namespace in NAMESPACES.items():
        for address in addresses(namespace):
            answer = getattr(hands, client).get(address)
            assert answer.status_code < 500, f"{address}: {answer.status_code}"
            found = {mark for mark in MARKS if mark in content(answer)}
            assert found <= kind.reads, f"{address} shows {found - kind.reads}"
            read |= found
            shown += [address] if answer.status_code == 200 else []
    assert read == kind.reads, f"no page shows {kind.reads - read}"
    # The root of the REST API lists its addresses for everybody who is logged in.
    assert len(shown) > 20 if kind.reads else len(shown) <= 1, shown


def content(answer: Any) -> str:
    return b"".join(answer.streaming_content).decode() if answer.streaming else answer.text


# Acts


def state_of(rows: Rows) -> list[Any]:
    names = list(Webhook.objects.order_by("pk").values_list("pk", "name", "enabled"))
    return [names, sorted(map(str, Delivery.objects.values_list("pk", "queued__state")))]


CHANGERS = {"superuser", "changes webhooks, without payloads"}


@pytest.mark.parametrize(
    ("method", "name", "body", "actors"),
    [
        ("patch", "webhook-detail", {"name": "renamed"}, CHANGERS),
        ("post", "webhook-pause", {}, CHANGERS),
        ("delete", "webhook-detail", {}, {"superuser"}),
    ],
    ids=["change", "pause", "delete"],
)
def test_rest_lets_only_some_users_change_a_webhook(
    method: str, name: str, body: Any, actors: set[str], rows: Rows, kind: Kind, hands: Hands
) -> None:
    path = reverse(f"{NAMESPACES['rest']}:{name}", kwargs={"pk": rows.other.pk})
    answer = getattr(hands.rest, method)(path, body, content_type="application/json")
    now = Webhook.objects.filter(pk=rows.other.pk).first()
    is_changed = now is None or now.name == "renamed" or now.paused_at is not None
    assert is_changed is (kind.name in actors), answer.text
    assert (answer.status_code in (200, 204)) is (kind.name in actors), answer.text


@pytest.mark.parametrize("act", ["retry", "discard"])
def test_rest_lets_only_a_superuser_act_on_a_delivery(act: str, rows: Rows, kind: Kind, hands: Hands) -> None:
    delivery = Delivery.objects.filter(webhook=rows.other).first()
    assert delivery
    before = state_of(rows)
    answer = hands.rest.post(reverse(f"{NAMESPACES['rest']}:delivery-{act}", kwargs={"pk": delivery.pk}))
    assert (answer.status_code == 200) is kind.is_superuser, answer.text
    assert (state_of(rows) != before) is kind.is_superuser


@pytest.mark.parametrize("page", ["webhook_edit", "webhook_delete", "webhook_add"])
def test_forms_open_only_for_users_who_may_save_them(page: str, rows: Rows, kind: Kind, hands: Hands) -> None:
    path = reverse(f"{NAMESPACES['browser']}:{page}", kwargs={} if page.endswith("add") else {"pk": rows.other.pk})
    before = state_of(rows)
    may = kind.is_superuser or (page == "webhook_edit" and kind.name in CHANGERS)
    assert (hands.browser.get(path).status_code == 200) is may
    if not may:
        assert hands.browser.post(path, {"name": "renamed", "confirm": True}).status_code in (403, 404)
        assert state_of(rows) == before
