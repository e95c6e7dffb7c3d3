"""Six kinds of users look at every page and every address of the REST API that the plugin has.

A mark is a text that only some users may read. No answer to another user may contain it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from core.models import ObjectType
from dcim.models import Region, Site
from django.conf import settings
from django.contrib.contenttypes.models import ContentType
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from users.constants import TOKEN_PREFIX
from users.models import ObjectPermission, Token, User

from tests.support.makers import make_delivery, make_event, make_webhook
from webhooks.models import Delivery, Event, Run, Skip, State, Webhook

pytestmark = pytest.mark.django_db

# The marks.
SITE, WEBHOOK, PAYLOAD, PATH = "South-4711", "other-hook-0815", "payload-mark-42", "path-mark-7"
MARKS = {SITE, WEBHOOK, PAYLOAD, PATH}

VIEW = ["view"]


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
    """The rows that the pages show: those of ``webhook`` and the site in the north come first."""

    mine: Webhook
    other: Webhook
    north: Site
    south: Site

    def keys(self, kind: str) -> list[Any]:
        """The keys of all rows of a kind, for the addresses of their pages."""
        models = {"webhook": Webhook, "delivery": Delivery, "event": Event, "run": Run, "skip": Skip}
        return list(models[kind].objects.values_list("pk", flat=True))


@pytest.fixture
def rows() -> Rows:
    north, south = (
        Site.objects.create(
            name=name, slug=name.lower(), region=Region.objects.create(name=region, slug=region.lower())
        )
        for name, region in (("North-1", "North"), (SITE, "South"))
    )
    mine, other = (
        make_webhook(Site, name=name, url=f"http://127.0.0.1:1/{PATH}/{name}") for name in ("mine", WEBHOOK)
    )
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
            make_delivery(webhook, State.FAILED, str(site.pk), event=event)
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


def patterns(namespace: str) -> Iterator[URLPattern]:
    """The addresses of a namespace of namespaces, such as ``plugins:rq_webhooks``."""
    found: Any = get_resolver()
    for name in namespace.split(":"):
        found = next(one for one in resolvers(found) if one.namespace == name)
    yield from leaves(found)


def resolvers(resolver: URLResolver) -> Iterator[URLResolver]:
    for one in resolver.url_patterns:
        if isinstance(one, URLResolver):
            yield one
            if not one.namespace:
                yield from resolvers(one)


def leaves(resolver: URLResolver) -> Iterator[URLPattern]:
    for one in resolver.url_patterns:
        if isinstance(one, URLPattern):
            yield one
        else:
            yield from leaves(one)


def addresses(namespace: str, rows: Rows) -> Iterator[str]:
    """The path of each address, once for each row that it may be about."""
    for pattern in patterns(namespace):
        parameters = set(pattern.pattern.regex.groupindex) - {"format"}
        name = f"{namespace}:{pattern.name}"
        if not parameters:
            yield reverse(name)
        elif parameters == {"pk"}:
            kind = pattern.name.replace("-", "_").split("_")[0]
            yield from (reverse(name, kwargs={"pk": key}) for key in rows.keys(kind))
        else:
            yield from special(name, parameters, rows)


def special(name: str, parameters: set[str], rows: Rows) -> Iterator[str]:
    raise AssertionError(f"{name} has the parameters {parameters}: add them here")


NAMESPACES = {"browser": "plugins:rq_webhooks", "rest": "plugins-api:rq_webhooks-api"}


def test_no_answer_has_what_the_user_may_not_read(rows: Rows, kind: Kind, hands: Hands) -> None:
    read: set[str] = set()
    shown = 0
    for client, namespace in NAMESPACES.items():
        for address in addresses(namespace, rows):
            answer = getattr(hands, client).get(address)
            assert answer.status_code < 500, f"{address}: {answer.status_code}"
            found = {mark for mark in MARKS if mark in content(answer)}
            assert found <= kind.reads, f"{address} shows {found - kind.reads}"
            read |= found
            shown += answer.status_code == 200
    assert read == kind.reads, f"no page shows {kind.reads - read}"
    assert bool(shown) is bool(kind.reads)


def content(answer: Any) -> str:
    return b"".join(answer.streaming_content).decode() if answer.streaming else answer.text
