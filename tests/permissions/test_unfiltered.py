"""Whether a query can leave out rows, whatever rows there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db.models import Count, F, Q

from dcim.models import Site
from tests.testapp.models import Annex, Country, Label, Part, Restaurant, Thing, ThingProxy
from webhooks.models.permissions.unfiltered import is_unfiltered

ALL = Thing.objects.all


@pytest.mark.parametrize("model", [Thing, ThingProxy, Country, Restaurant, Annex, Site])
def test_an_unconstrained_restriction_as_netbox_writes_it_returns_all_rows(model: Any) -> None:
    every = model.objects.all()
    for rows in (every, every.filter(), every.filter(Q()), every.filter(pk__in=model.objects.filter(Q()))):
        assert is_unfiltered(rows)
        assert is_unfiltered(rows.order_by("pk").distinct())
    assert is_unfiltered(every.filter(pk__in=model.objects.filter(pk__in=model.objects.values("pk"))))


@pytest.mark.parametrize(
    "narrow",
    [
        lambda: ALL().filter(name="open-x"),
        lambda: ALL().filter(pk__gte=0),
        lambda: ALL().exclude(name="closed"),
        lambda: ALL().filter(pk__in=Thing.objects.filter(name="open-x")),
        lambda: ALL().filter(pk__in=Thing.objects.filter(pk__gte=0)),
        lambda: ALL().filter(pk__in=[1, 2, 3]),
        lambda: ALL().exclude(pk__in=Thing.objects.all()),
        lambda: ALL().filter(~Q(pk__in=Thing.objects.all())),
        lambda: ALL().filter(pk__in=Label.objects.all()),
        lambda: ALL().filter(pk__in=Part.objects.values("thing")),
        lambda: ALL().filter(pk__in=Thing.objects.values("parts__thing")),
        lambda: ALL().filter(pk__in=Thing.objects.values("name")),
        lambda: ALL().filter(name__in=Thing.objects.values("pk")),
        lambda: ALL().filter(friends__in=Thing.objects.all()),
        lambda: ALL().filter(pk__in=Thing.objects.all()[:5]),
        lambda: ALL().filter(Q(name="a") | Q(pk__in=Thing.objects.all())),
        lambda: ALL().filter(Q(pk__in=Thing.objects.all()) ^ Q(pk__in=Thing.objects.values("pk"))),
        lambda: ALL().filter(pk__in=Thing.objects.filter(labels__in=Label.objects.all())),
        lambda: ALL()[:5],
        lambda: ALL().none(),
        lambda: ALL().union(ALL()),
        lambda: ALL().distinct("name"),
        lambda: ALL().extra(where=["name = 'open-x'"]),
        lambda: ALL().extra(tables=["testapp_label"]),
        lambda: ALL().annotate(parts_count=Count("parts")).filter(parts_count=0),
        lambda: Part.objects.annotate(called=F("thing__name")),
        lambda: [1, 2, 3],
    ],
)
def test_any_other_filter_may_leave_out_rows(narrow: Callable[[], Any]) -> None:
    assert not is_unfiltered(narrow())
