"""The list of the kinds of runs, from which pages, REST and commands are made."""

from __future__ import annotations

from inspect import get_annotations

import pytest
from django.core.management import get_commands, load_command_class
from django.urls import reverse

from tests.support.makers import make_site_delivery, make_webhook
from users.models import User
from webhooks.admin.delivery import DeliveryAdmin
from webhooks.api.fields import RunKindField
from webhooks.delivery.runs.kinds import RunKind
from webhooks.management.base import RunCommand
from webhooks.models import Run
from webhooks.models.filters import FILTERS, filters_of
from webhooks.models.run import run_kinds
from webhooks.operations.kinds import OF_DELIVERIES, OF_WEBHOOK, RUN_KINDS, Retry
from webhooks.pages.delivery import DeliveryPage

kinds = pytest.mark.parametrize("kind", RUN_KINDS.values(), ids=RUN_KINDS)


def declared(kind: RunKind) -> set[str]:
    """The attributes that a kind must have, from the annotations of its classes."""
    return {name for one in type(kind).__mro__ for name in get_annotations(one)}


@kinds
def test_a_kind_says_everything_that_pages_and_commands_show(kind: RunKind) -> None:
    assert {"name", "label", "past", "consequence"} <= declared(kind)
    assert [name for name in declared(kind) if not hasattr(kind, name)] == []


@kinds
def test_a_kind_is_either_of_a_webhook_with_a_link_or_of_a_list_with_a_question(kind: RunKind) -> None:
    assert bool(kind.link) is kind.is_of_webhook
    assert bool(kind.question) is bool(kind.short_question) is not kind.is_of_webhook
    of_list = filters_of("events" if kind.listed == "event" else "deliveries")
    assert kind.is_of_webhook or {*of_list} <= {*kind.filters}


@kinds
def test_a_kind_takes_declared_filters_and_the_ones_that_it_needs(kind: RunKind) -> None:
    assert {*kind.needed} <= {*kind.filters} <= {*FILTERS}


def test_workers_and_the_column_know_each_kind_of_the_list() -> None:
    assert run_kinds == RUN_KINDS
    assert Run._meta.get_field("kind").choices == [(kind.name, kind.label) for kind in RUN_KINDS.values()]
    assert [name for name, _label in RunKindField.every] == [*RUN_KINDS]


def test_a_new_kind_has_its_button_on_the_page_of_a_delivery(admin_user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    class Annotate(Retry):
        name, button = "annotate", "Annotate"

    monkeypatch.setitem(OF_DELIVERIES, "annotate", Annotate())
    shown = DeliveryPage(make_site_delivery(make_webhook()), admin_user)
    assert [(link.label, link.act) for link in shown.acts] == [
        ("Retry", "retry"),
        ("Discard", "discard"),
        ("Annotate", "annotate"),
    ]


def test_a_dangerous_kind_asks_before_it_acts_on_one_delivery() -> None:
    for kind in OF_DELIVERIES.values():
        assert bool(kind.button_question) is bool(kind.button_detail) is kind.is_dangerous


@kinds
def test_each_kind_has_a_command_and_an_address_in_rest_or_an_action(kind: RunKind) -> None:
    name = f"webhooks_{kind.name}"
    if kind.name != "discard":  # too dangerous for a shell
        command = load_command_class(get_commands()[name], name)
        assert isinstance(command, RunCommand)
        assert command.help.startswith(kind.meaning)
    if kind.name in OF_WEBHOOK:
        assert reverse(f"webhooks-api:webhook-{kind.name.replace('_', '-')}", args=[1]).endswith(f"/1/{kind.name}/")
        assert reverse(f"admin:rq_webhooks_webhook_{kind.name}", args=[1])
    if kind.name in OF_DELIVERIES:
        assert f"{kind.name}_chosen" in [act.__name__ for act in DeliveryAdmin.actions]
        assert reverse(f"webhooks-api:delivery-{kind.name}", args=[1])
        assert reverse(f"admin:rq_webhooks_delivery_{kind.name}", args=[1])
