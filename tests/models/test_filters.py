"""Each declared filter of deliveries, events and skips is in the lists, the REST API, the commands and the runs."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.management import load_command_class

from tests.support.makers import make_webhook
from tests.testapp.models import Thing
from webhooks.api.deliveries import DeliveryFilters
from webhooks.api.events import EventFilters, SkipFilters
from webhooks.models.filters import FILTERS, OPTIONS, Filter, Rows, filters_of, select
from webhooks.operations import run_filters
from webhooks.operations.kinds import OF_DELIVERIES, RUN_KINDS
from webhooks.operations.run_filters import filters_in_words
from webhooks.pages.forms import filters as lists

MOMENT = "2026-05-04T13:00:00+00:00"

# For each type of filters, a value that is no choice.
VALUES: dict[str, Any] = {"text": "x", "model": "dcim.site", "number": 418, "flag": True, "moment": MOMENT}

LISTS = {
    "deliveries": lists.DeliveryFilterForm, "events": lists.EventFilterForm, "skips": lists.SkipFilterForm,
}  # fmt: skip
PARAMETERS = {"deliveries": DeliveryFilters, "events": EventFilters, "skips": SkipFilters}
RUNS = {"deliveries": [*OF_DELIVERIES.values()], "events": [RUN_KINDS["replay"]]}

EVERY = [(rows, name) for rows in LISTS for name in filters_of(rows)]  # type: ignore[arg-type]


def value_of(name: str, webhook: int) -> Any:
    one = FILTERS[name]
    choices = [choice for choice, _label in one.choices()]
    if one.type == "webhook":
        return webhook
    return choices[-1:] if one.type == "choices" else choices[-1] if choices else VALUES[one.type]


@pytest.mark.parametrize(("rows", "name"), EVERY)
def test_a_filter_is_in_the_list_and_the_rest_api_of_its_rows(rows: str, name: str) -> None:
    assert lists.IN_OTHER_FIELDS.get(name, name) in LISTS[rows].base_fields
    is_in_the_address = (rows, name) == ("skips", "webhook")
    assert (name in PARAMETERS[rows]().fields) != is_in_the_address


@pytest.mark.parametrize(("rows", "name"), [one for one in EVERY if one[0] in RUNS])
def test_a_filter_is_in_the_runs_and_the_commands_of_its_rows(rows: str, name: str) -> None:
    for kind in RUNS[rows]:
        assert name in kind.filters
        if kind.name != "discard":  # no command discards
            parser = load_command_class("webhooks", f"webhooks_{kind.name}").create_parser("manage.py", "")
            [option] = [one for one in parser._actions if one.dest == name]
            assert option.option_strings == [FILTERS[name].command_option]
            assert option.help


@pytest.mark.parametrize(("rows", "name"), EVERY)
@pytest.mark.usefixtures("database")
def test_the_database_takes_a_filter_and_a_run_its_value(rows: Rows, name: str) -> None:
    value = value_of(name, make_webhook(Thing).pk)
    assert list(select(rows, {name: value})) == []
    for kind in RUNS.get(rows, ()):
        value = [kind.states[0]] if name == "state" else value
        with_others = {"object_type": "dcim.site"} if name == "object_id" else {}
        run_filters.check(kind, {name: value, **with_others}, takes_all=False)


@pytest.mark.usefixtures("in_utc")
def test_the_page_of_a_run_says_each_filter_but_its_webhook() -> None:
    values = {name: value_of(name, 1) for name in FILTERS}
    words = filters_in_words(values)
    assert len(words) == len(FILTERS) - 1
    assert {"HTTP status: 418", "user: x", "state: discarded", "since 2026-05-04 13:00:00 UTC"} <= {*words}
    assert {str(FILTERS[name].label) for name in OPTIONS} <= {*words}
    assert [one for one in words if "%(" in one or MOMENT in one] == []


def test_a_list_can_ask_for_a_flag_for_its_absence_or_for_neither() -> None:
    field = lists.field_of(Filter("late", "flag", "late", "Whether it was late."))
    assert [field.clean(given) for given in ("true", "false", "")] == [True, False, None]
    assert '<option value="false" selected>no</option>' in field.widget.render("late", "false")


def test_a_number_out_of_its_bounds_is_refused_by_runs() -> None:
    for value in (99, 1000, "418"):
        with pytest.raises(run_filters.RefusedFilter, match="Must be a number from 100 to 999"):
            run_filters.check(RUN_KINDS["retry"], {"status": value}, takes_all=False)
