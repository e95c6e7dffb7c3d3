"""Why did nothing arrive? Over REST and by the command, and what users without some permissions see."""

from __future__ import annotations

import json
from datetime import datetime
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

import webhooks
from dcim.models import Site
from tests.support.makers import events, make_delivery, make_webhook
from tests.support.users import ALL_PERMISSIONS, api_client, make_user
from tests.testapp.models import Country, Fragile, Thing
from users.models import User
from webhooks.delivery.dispatch import dispatch
from webhooks.insight.why import why
from webhooks.models import Delivery, Event, State

pytestmark = [pytest.mark.one_database, pytest.mark.usefixtures("database")]

WHY = "/api/webhooks/why/"
RETIRED = {"attr": "status", "value": "retired"}


def ask(user: User, **question: Any) -> Any:
    return api_client(user).get(WHY, question)


def verdicts(user: User, **question: Any) -> list[dict[str, Any]]:
    answer = ask(user, **question)
    assert answer.status_code == 200, answer.content
    found: list[dict[str, Any]] = answer.json()["verdicts"]
    return found


@pytest.fixture
def root(database: str) -> User:
    return make_user(is_superuser=True)


def printed(*args: Any, **options: Any) -> str:
    out = StringIO()
    call_command("webhooks_why", *map(str, args), stdout=out, **options)
    return out.getvalue()


# REST


def test_an_object_an_event_and_a_request_have_verdicts(root: User) -> None:
    webhook, picky = make_webhook(Thing), make_webhook(Thing, conditions=RETIRED)
    with webhooks.actor("jane", request_id="r1"):
        thing = Thing.objects.create(name="a")
    [event] = events()
    of_object = {"object_type": "testapp.Thing", "object_id": thing.pk}
    found = verdicts(root, **of_object)
    assert [(one["webhook"]["id"], one["cause"]) for one in found] == [
        (webhook.pk, "not_dispatched"), (picky.pk, "skipped"),
    ]  # fmt: skip
    assert found == verdicts(root, event=event.pk) == verdicts(root, request_id="r1")
    assert verdicts(root, **of_object, webhook=picky.pk) == found[1:]
    assert (found[1]["detail"]["actual"], found[1]["target"], found[0]["event"]) == ("active", "webhook", event.pk)
    change = found[1]["change"]
    assert (change["object_id"], change["username"], change["request_id"]) == (str(thing.pk), "jane", "r1")


@pytest.mark.parametrize(
    ("question", "status"),
    [
        ({}, 400),
        ({"object_type": "testapp.thing"}, 400),
        ({"object_id": "1"}, 400),
        ({"event": 1, "request_id": "r1"}, 400),
        ({"object_type": "testapp.thing", "webhook": 1}, 400),
        ({"webhook": 4711}, 404),
        ({"event": "one"}, 400),
        ({"evnt": "1"}, 400),
        ({"event": 4711}, 404),
        ({"object_type": "no.model", "object_id": "1"}, 404),
        ({"object_type": "testapp.thing", "object_id": "no number"}, 404),
        ({"object_type": "testapp.thing", "object_id": "1", "webhook": 4711}, 404),
    ],
)
def test_other_questions_are_refused(root: User, question: dict[str, Any], status: int) -> None:
    make_webhook(Thing)
    assert ask(root, **question).status_code == status


def test_a_webhook_alone_has_verdicts_about_the_last_changes_of_its_models(root: User) -> None:
    webhook = make_webhook(Thing, name="CMDB", conditions=RETIRED)
    nothing = "No recent change of its models is stored."
    assert verdicts(root, webhook=webhook.pk) == []
    assert printed(webhook="CMDB").startswith(nothing)
    make_webhook(Country)
    first, second = (Thing.objects.create(name=name) for name in "ab")
    Country.objects.create(name="c")
    found = verdicts(root, webhook=webhook.pk)
    assert [one["change"]["object_id"] for one in found] == [str(second.pk), str(first.pk)], "the newest first"
    assert {(one["webhook"]["id"], one["cause"]) for one in found} == {(webhook.pk, "skipped")}
    assert len(json.loads(printed(webhook="CMDB", json=True))["verdicts"]) == 2
    assert printed(webhook="CMDB").count("CMDB: skipped") == 2
    assert verdicts(make_user("view_webhook"), webhook=webhook.pk) == [], "a list needs the permissions for its rows"


def test_the_command_prints_the_json_of_the_api(root: User) -> None:
    webhook = make_webhook(Thing, conditions=RETIRED)
    thing = Thing.objects.create(name="a")
    question = {"object_type": "testapp.thing", "object_id": thing.pk}

    def same() -> bool:
        made = json.loads(printed("testapp.thing", thing.pk, json=True))["verdicts"]
        shown = verdicts(root, **question)
        for one in (*made, *shown):  # the same times may have another offset
            for each in filter(None, (one, one["earlier"])):
                for row, name in ((each, "until"), (each["change"], "timestamp")):
                    if row and row[name]:
                        row[name] = datetime.fromisoformat(row[name])
        return bool(made == shown)

    assert same()
    webhook.conditions = None
    webhook.save()
    thing.save()
    dispatch()
    assert same()
    Thing.objects.update(name="b")
    assert same()


def test_an_event_that_no_row_can_have_is_a_question(root: User) -> None:
    with pytest.raises(CommandError, match="Event 0 is not stored"):
        printed(event=0)


# What users see


def test_a_user_who_may_not_view_webhooks_or_the_object_gets_no_answer() -> None:
    make_webhook(Thing)
    thing = Thing.objects.create(name="a")
    question = {"object_type": "testapp.thing", "object_id": thing.pk}
    assert ask(make_user("view_event", "view_delivery", "view_skip"), **question).status_code == 403
    blind = make_user(*ALL_PERMISSIONS, sees_objects=False)
    assert ask(blind, **question).status_code == 404
    assert ask(blind, event=events()[0].pk).status_code == 404
    assert ask(blind, object_type="testapp.thing", object_id=4711).status_code == 404


def test_without_the_permission_for_a_row_only_the_cause_is_shown() -> None:
    make_webhook(Fragile)
    skipping = make_webhook(Thing, conditions={"attr": "name", "value": "T0ps3cret"})
    given_up = make_webhook(Thing)
    Fragile.objects.create(name="a", behaviour="raises")
    with webhooks.actor("jane", request_id="r1"):
        thing = Thing.objects.create(name="a")
    make_delivery(given_up, State.FAILED, event=Event.objects.get(request_id="r1"), reason="HTTP 503 T0ps3cret")
    user = make_user("view_webhook")
    of_thing = {"object_type": "testapp.thing", "object_id": thing.pk}
    found = {one["webhook"]["id"]: one for one in verdicts(user, **of_thing)}
    assert found[skipping.pk]["text"] == "Skipped. To see more, you need the permission rq_webhooks.view_skip."
    assert found[given_up.pk]["text"] == "Failed. To see more, you need the permission rq_webhooks.view_delivery."
    assert (found[given_up.pk]["delivery"], found[skipping.pk]["detail"]) == (None, {})
    assert found[skipping.pk]["change"]["username"] == ""
    answer = ask(user, **of_thing).content + ask(user, event=events()[0].pk).content
    assert b"T0ps3cret" not in answer
    assert b"RuntimeError" not in answer
    assert b"jane" not in answer


def test_the_actual_value_of_a_condition_and_the_reason_of_a_failure_need_more() -> None:
    make_webhook(Thing, conditions=RETIRED)
    failing = make_webhook(Thing)
    thing = Thing.objects.create(name="a")
    make_delivery(failing, State.FAILED, event=events()[0], reason="HTTP 503 T0ps3cret", error_kind="http_503")
    user = make_user("view_webhook", "view_skip", "view_delivery")
    [skipped, failed] = verdicts(user, object_type="testapp.thing", object_id=thing.pk)
    assert skipped["detail"] == {"path": "status", "operator": "eq", "expected": "retired"}
    assert "active" not in skipped["text"]
    assert "T0ps3cret" not in failed["text"]
    assert "503" in failed["text"]
    user = make_user("change_webhook", "view_webhook", "view_delivery")
    assert "T0ps3cret" in verdicts(user, object_type="testapp.thing", object_id=thing.pk)[1]["text"]


def test_an_error_of_the_present_object_needs_the_permission_to_view_events() -> None:
    fragile = Fragile.objects.create(name="a", behaviour="raises")
    make_webhook(Fragile)
    question = {"object_type": "testapp.fragile", "object_id": fragile.pk}
    [verdict] = verdicts(make_user("view_webhook"), **question)
    assert verdict["text"].endswith("its data cannot be written.")
    [verdict] = verdicts(make_user("view_webhook", "view_event"), **question)
    assert "its data cannot be written. RuntimeError: this serializer is broken." in verdict["text"]


@pytest.mark.cost
def test_the_queries_for_a_user_do_not_grow_with_the_webhooks() -> None:
    counts = []
    for _ in range(2):
        for _ in range(5):
            make_webhook(Thing, conditions=RETIRED)
            make_webhook(Thing)
        thing = Thing.objects.create(name="a")
        dispatch()
        user = make_user(*ALL_PERMISSIONS)
        with CaptureQueriesContext(connection) as captured:
            why(thing, user=user)
        counts.append(len(captured))
    assert counts[0] == counts[1]


@pytest.mark.cost
def test_a_superuser_costs_no_query_more_than_code_that_sees_everything(admin_user: Any) -> None:
    make_webhook(Thing)
    thing, counts = Thing.objects.create(name="a"), []
    dispatch()
    for user in (None, admin_user):
        with CaptureQueriesContext(connection) as captured:
            why(event=events()[0], user=user)
        counts.append(len(captured))
    assert counts[0] == counts[1]
    assert why(thing, user=admin_user)[0].delivery


# The command


@pytest.mark.usefixtures("in_utc")
def test_the_command_answers_for_people() -> None:
    make_webhook(Thing, name="CMDB")
    make_webhook(Thing, name="audit\x1b[2J", conditions=RETIRED)
    with webhooks.actor("jane", request_id="r1"):
        thing = Thing.objects.create(name="rack\n7")
    said = printed("testapp.thing", thing.pk).splitlines()
    assert said[0].startswith(f"testapp.thing {thing.pk} “rack\\n7” created at 20")
    assert said[0].endswith(" UTC by jane")
    assert said[1] == "CMDB: not taken by a worker yet"
    assert said[2].startswith("  Event ")
    assert said[3] == "  → Check on the status page that a worker is running without problems."
    assert said[4] == "audit\\x1b[2J: skipped"
    assert printed(request="r1").splitlines() == said
    assert printed(event=events()[0].pk).splitlines() == said
    Thing.objects.update(name="b")
    said = printed("testapp.thing", thing.pk, webhook="CMDB").splitlines()
    assert said[0] == "Nothing is stored of the last change."
    assert said[4].startswith("  Before that: Event ")


def test_the_command_finds_a_webhook_by_its_id() -> None:
    webhook, thing = make_webhook(Thing), Thing.objects.create(name="a")
    make_webhook(Thing)
    assert len(json.loads(printed("testapp.thing", thing.pk, webhook=str(webhook.pk), json=True))["verdicts"]) == 1


@pytest.mark.parametrize(
    ("args", "options", "problem"),
    [
        ((), {}, "Give one of these"),
        (("testapp.thing",), {}, "Give one of these"),
        (("testapp.thing", "1"), {"event": 1}, "Give one of these"),
        (("no.model", "1"), {}, "There is no model no.model"),
        (("testapp.thing", "1"), {"webhook": "none"}, "There is no webhook “none”"),
        ((), {"event": 4711}, "Event 4711 is not stored"),
        (("testapp.thing", "\udcfc"), {}, "This is not UTF-8"),
    ],
)
def test_the_command_refuses_other_questions(args: tuple[str, ...], options: dict[str, Any], problem: str) -> None:
    with pytest.raises(CommandError, match=problem):
        printed(*args, **options)


def test_without_a_webhook_the_command_says_so() -> None:
    assert printed("dcim.site", Site.objects.create(name="AMS1", slug="ams1").pk) == "There is no webhook.\n"
    assert not Delivery.objects.exists()


def test_the_command_names_webhooks_without_the_model_in_one_line(root: User) -> None:
    make_webhook(Thing, name="CMDB")
    for name in ("Billing", "Monitoring"):
        make_webhook(Country, name=name)
    thing = Thing.objects.create(name="a")
    lines = printed("testapp.thing", thing.pk).splitlines()
    assert lines[1].startswith("CMDB: ")
    assert lines[-1] == "Billing, Monitoring: model or action not chosen"
    alone = printed("testapp.thing", thing.pk, webhook="Billing")
    assert "The webhook does not send testapp.thing." in alone
