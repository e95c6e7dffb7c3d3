"""Six kinds of users look at every page and every address of the REST API that the plugin has.

A mark is a text that only some users may read. No answer to another user may contain it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from django.db import transaction
from django.db.models import Model
from django.test import Client
from django.urls import URLResolver, get_resolver, reverse
from django.utils import timezone
from extras.models import ConfigTemplate, CustomField, ExportTemplate
from jinja2.exceptions import SecurityError
from users.constants import TOKEN_PREFIX

from core.models import ObjectType
from dcim.models import Region, Site
from tests.support.makers import make_attempt, make_delivery, make_event, make_site_skip, make_webhook
from tests.support.netbox_api import client_of
from tests.support.netbox_users import browser, grant, make_user
from users.models import ObjectPermission, Token, User
from webhooks.ground import registry
from webhooks.ground.text.redaction import REDACTED
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


# Runs that are there


@pytest.mark.parametrize("act", ["pause", "cancel"])
def test_only_runs_within_the_permission_are_steered(act: str) -> None:
    user = make_user("view_run")
    grant(user, "add_run", constraints={"kind": "retry"})
    for client, path, refused in (
        (browser(user), f"{NAMESPACES['browser']}:run_{act}", 403),
        (client_of(user), f"{NAMESPACES['rest']}:run-{act}", 403),
        (browser(user), f"{NAMESPACES['browser']}:run_bulk_{act}", 302),
    ):
        for kind, is_permitted in (("retry", True), ("resend", False)):
            run = Run.objects.create(kind=kind)
            is_bulk = "bulk" in path
            answer = client.post(reverse(path, args=[] if is_bulk else [run.pk]), {"pk": [run.pk]} if is_bulk else {})
            assert (answer.status_code == refused) is (not is_permitted or is_bulk), path
            assert (Run.objects.get(pk=run.pk).state == "running") is not is_permitted, path


def test_no_run_outside_the_permission_is_begun(rows: Rows) -> None:
    user = make_user(
        "view_run", "view_webhook", "view_delivery", "retry_delivery", "discard_delivery", "dcim.view_site"
    )
    grant(user, "add_run", constraints={"kind": "retry"})
    for kind, status in (("discard", 403), ("retry", 201)):
        given = {"kind": kind, "filters": {"webhook": rows.mine.pk}}
        answer = client_of(user).post(reverse(f"{NAMESPACES['rest']}:run-list"), given, format="json")
        assert answer.status_code == status, answer.text
    assert {run.kind for run in Run.objects.all()} == {"retry"}


def test_no_page_and_no_address_of_rest_changes_a_row_outside_the_permission(rows: Rows) -> None:
    """Each address gets a POST, and of REST each other method, about rows that the user may only view."""
    Run.objects.create(kind="resend")
    Webhook.objects.update(previous_secret="old", previous_secret_until=timezone.now())
    may_view = ("view_webhook", "view_delivery", "view_event", "view_run", "view_skip", "dcim.view_site")
    user = make_user(*may_view, "add_webhook")
    grant(user, "change_webhook", "delete_webhook", constraints={"name": "mine"})
    of_mine = {"webhook__name": "mine", "event__object_repr": "North-1"}
    grant(user, "retry_delivery", "resend_delivery", "discard_delivery", constraints=of_mine)
    grant(user, "replay_event", "read_payload_event", constraints={"object_repr": "North-1"})
    grant(user, "add_run", constraints={"kind": "retry"})
    assert changers(user) == set()
    found = changers(User.objects.create_superuser("root"))
    assert len({path for _method, path in found}) > 40, sorted(found)


def changers(user: Any) -> set[tuple[str, str]]:
    """The methods and addresses with which this user changes a row outside of the permissions above. Each change is
    taken back."""
    form = {
        "name": "renamed", "payload_url": "https://a.example/", "on_created": "on", "timeout": "9", "hours": "1",
        "_apply": "1", "_confirm": "1", "confirm": "1", "data": "x", "format": "csv", "csv_delimiter": ",",
    }  # fmt: skip
    bodies: Any = ({}, {"timeout": 9}, {"hours": 1}, *({"kind": kind, "all": True} for kind in ("discard", "replay")))
    query = f"?kind=discard&webhook={Webhook.objects.get(name=WEBHOOK).pk}"  # of the page that begins a run
    page_client, rest_client = browser(user), client_of(user)
    found, before = set(), outside()
    for path in addresses(NAMESPACES["browser"]):
        kind = path.removeprefix("/plugins/webhooks/").partition("/")[0]
        chosen = {"pk": keys(KINDS_OF_FOLDERS.get(kind, "webhook"))}
        for query in (
            ("", f"?kind=discard&webhook={Webhook.objects.get(name=WEBHOOK).pk}") if "runs/add" in path else ("",)
        ):
            with rolled_back():
                page_client.post(path.partition("?")[0] + query, form | chosen)
                found |= {("page", path)} if outside() != before else set()
    for path in addresses(NAMESPACES["rest"]):
        for method in ("post", "put", "patch", "delete"):
            for body in bodies if method == "post" else [{"timeout": 9}]:
                with rolled_back():
                    getattr(rest_client, method)(path, body, format="json")
                    found |= {(method, path)} if outside() != before else set()
    return found


KINDS_OF_FOLDERS = {"deliveries": "delivery", "events": "event", "runs": "run", "skips": "skip"}


@contextmanager
def rolled_back() -> Iterator[None]:
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def outside() -> list[Any]:
    """The rows that are not about the webhook "mine" and North-1, and new rows about others."""
    deliveries = Delivery.objects.filter(webhook__name__startswith=WEBHOOK).order_by("pk")
    replayed = Event.objects.exclude(replay_of=None).exclude(object_repr="North-1")
    begun = Run.objects.exclude(kind="retry").order_by("pk")
    return [
        list(Webhook.with_deleted.filter(name__startswith=WEBHOOK).values()),
        list(deliveries.values("pk", "outcome", "queued__state", "queued__requested_at")),
        list(replayed.values("pk")),
        list(begun.values("pk", "kind", "state")),
    ]


# Payloads


@pytest.mark.usefixtures("rows")
def test_a_permission_for_some_payloads_shows_no_values_of_skips() -> None:
    user = make_user("view_webhook", "view_event", "view_skip", "view_delivery", "dcim.view_site")
    grant(user, "read_payload_event", constraints={"object_type": "dcim.device"})
    for client, namespace in NAMESPACES.items():
        for path in addresses(namespace):
            answer = browser(user).get(path) if client == "browser" else client_of(user).get(path)
            assert PAYLOAD not in content(answer), path


# NetBox's own ways to rows


@pytest.mark.usefixtures("rows")
def test_templates_of_netbox_read_rows_and_change_none() -> None:
    """Authors of export and config templates read all rows of all models. docs/netbox.md says so."""
    Webhook.objects.update(probe_at=timezone.now())
    for call in (
        'Webhook.objects.pause("x")', "Webhook.objects.all().resume()", "Webhook.objects.all().delete()",
        'Delivery.objects.all().retry("x")', "Delivery.objects.all().discard()", "Run.objects.all().cancel()",
    ):  # fmt: skip
        for template in (ExportTemplate(template_code="{{ rq_webhooks." + call + " }}"), None):
            with pytest.raises(SecurityError):
                if template:
                    template.render()
                else:
                    ConfigTemplate(template_code="{{ rq_webhooks." + call + " }}").render({})
    shown = ExportTemplate(template_code="{{ rq_webhooks.Event.objects.first().data }}").render()
    assert PAYLOAD in shown


def test_no_template_of_netbox_reads_a_secret() -> None:
    make_webhook(Site, secret="Secretmark-1", secret_headers="Authorization: Secretmark-2")
    text = """
        {% for hook in rq_webhooks.Webhook.objects.all() %}
            {{ hook.secret }} {{ hook.secret_headers }} {{ hook.secret.stored }}
        {% endfor %}
        {{ rq_webhooks.Webhook.objects.values() }}
        {{ rq_webhooks.Webhook.objects.values_list("secret", "secret_headers") }}
    """
    shown = ExportTemplate(template_code=text).render()
    assert REDACTED in shown
    assert "Secretmark" not in shown


# Custom fields that have rows of the plugin as their values


@pytest.fixture
def references(rows: Rows) -> None:
    for name in ("webhook", "event"):
        related = ObjectType.objects.get_by_natural_key("rq_webhooks", name)
        field = CustomField.objects.create(name=f"our_{name}", type="object", related_object_type=related)
        field.object_types.set([ObjectType.objects.get_for_model(Site)])


def refer(user: Any, site: Site, name: str, value: Any) -> Any:
    path = reverse("dcim-api:site-detail", args=[site.pk])
    return client_of(user).patch(path, {"custom_fields": {f"our_{name}": value}}, format="json")


@pytest.mark.usefixtures("references")
def test_a_custom_field_of_netbox_has_a_row_as_its_value(rows: Rows) -> None:
    user = make_user("view_webhook", "view_event", "dcim.view_site", "dcim.change_site")
    for name, row in (("webhook", rows.mine), ("event", Event.objects.first())):
        for value in (row.pk, {"id": row.pk}):
            answer = refer(user, rows.north, name, value)
            assert answer.status_code == 200, answer.text
            assert answer.json()["custom_fields"][f"our_{name}"]["id"] == row.pk


@pytest.mark.usefixtures("references")
def test_the_value_of_a_custom_field_does_not_say_what_a_hidden_row_has(rows: Rows) -> None:
    user = make_user("dcim.view_site", "dcim.change_site")
    event = Event.objects.first()
    for name, values in {
        "webhook": (
            rows.other.pk,
            {"name": WEBHOOK},
            {"payload_url__contains": f"{PATH}/other"},
            {"id": rows.other.pk},
        ),
        "event": (event.pk, {"object_repr": SITE}, {"id": event.pk}),
    }.items():
        for value in values:
            answer = refer(user, rows.north, name, value)
            assert answer.status_code == 400, f"{name} {value}: {answer.text}"
            assert not {mark for mark in (SITE, PATH) if mark in answer.text and mark not in str(value)}


# Constraints for webhooks, without any registered model


def test_constraints_apply_although_no_model_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, theirs = (make_webhook(Site, name=name, url=f"https://h.example/{PATH}") for name in ("mine", WEBHOOK))
    monkeypatch.setattr(registry, "_registrations", {})
    user = make_user("view_delivery")
    grant(user, "view_webhook", "change_webhook", "delete_webhook", constraints={"name": "mine"})
    client, other = client_of(user), reverse(f"{NAMESPACES['rest']}:webhook-detail", args=[theirs.pk])
    assert [row["id"] for row in client.get(reverse(f"{NAMESPACES['rest']}:webhook-list")).json()["results"]] == [
        mine.pk
    ]
    assert [client.get(other).status_code, client.delete(other).status_code] == [404, 404]
    assert client.patch(other, {"enabled": False}, format="json").status_code == 404
    page = browser(user).get(reverse(f"{NAMESPACES['browser']}:webhook", kwargs={"pk": theirs.pk}))
    assert page.status_code in (403, 404)
    assert PATH not in page.content.decode()
