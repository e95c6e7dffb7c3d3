"""Querysets of ``webhooks.TrackedQuerySet`` do what Django's do: the same rows, answers, errors and transactions.

Random bulk operations run with Django's own queryset, and with the tracked one while a webhook wants the model."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import FieldError
from django.db import Error, connection, models, transaction
from django.db.models import Case, Count, Exists, F, Max, OuterRef, Q, Subquery, Value, When, Window
from django.db.models.functions import Coalesce, Concat, Length, RowNumber, Upper

import webhooks
from tests.support.makers import make_webhook
from tests.testapp.models import Counter, Diner, Place, Seat, Thing
from webhooks.ground.errors import is_aborted as may_only_roll_back

pytestmark = pytest.mark.usefixtures("database")

Step = Callable[[Any], Any]
"""One call of a method of a queryset."""


# Without an order that leaves nothing open, PostgreSQL may choose other rows each time.
KEYS: dict[Any, list[str]] = {Counter: ["code"], Diner: ["place_ptr_id"], Seat: ["thing_id", "number"]}


class Work:
    """A random bulk operation. It is built from a seed, so that it can be run twice."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.model = self._pick([Counter, Counter, Counter, Diner, Seat])
        self.steps = [self._pick(self._steps()) for _ in range(self._chance.randrange(4))]
        self.end = self._pick(
            [self._update, self._update, self._update, self._bulk_update, self._bulk_create, self._delete]
        )()

    def __call__(self, queryset: type[models.QuerySet[Any]]) -> Any:
        rows = queryset(self.model)
        for step in self.steps:
            rows = step(rows)
        return self.end(rows)

    def _pick(self, choices: Any) -> Any:
        return self._chance.choice(choices)

    @property
    def _number(self) -> int:
        return self._chance.randrange(-1, 8)

    def _condition(self) -> Any:
        own = {
            Counter: [
                Q(group=self._number), Q(number__gt=self._number), Q(number=None), Q(number=F("group")),
                Q(twin__number__lt=self._number), Q(twins__group=self._number), Q(twins=None),
                Q(code__in=Counter.objects.order_by("number", "code").values("code")[: self._number % 4]),
                Q(number__lt=Subquery(Counter.objects.values(most=Max("number")).order_by("code")[:1])),
                Exists(Counter.objects.filter(twin=OuterRef("pk"), group__lt=self._number)),
                Q(pk__in=[]), Q(pk__in=["c1", "c2", "nothing"]),
            ],
            Diner: [
                Q(name__contains=str(self._number % 3)), Q(is_open=True), Q(cuisine="any"), Q(pk__in=[]),
                Q(labels=None), Q(place_ptr_id__gt=self._number),
            ],
            Seat: [
                Q(number__gt=self._number), Q(thing__name="a"), Q(pk__in=[(1, 1), (2, 2), (9, 9)]), Q(pk=(1, 2)),
                Q(thing__seats__number=self._number), Q(thing__in=Thing.objects.filter(name="b")),
            ],
        }[self.model]  # fmt: skip
        one = self._pick(own)
        return self._pick([one, one, ~one, one | self._pick(own), one & self._pick(own)])

    def _steps(self) -> list[Step]:
        number, condition = self._number, self._condition()
        text, numeric = {Counter: ("name", "number"), Diner: ("cuisine", "id"), Seat: ("name", "number")}[self.model]
        related = {Counter: "twins", Diner: "labels", Seat: "thing__seats"}[self.model]
        order = [numeric, *KEYS[self.model]]
        return [
            *[lambda rows: rows.filter(condition)] * 6,
            *[lambda rows: rows.exclude(condition)] * 2,
            lambda rows: rows.annotate(loud=Upper(text)),
            lambda rows: rows.annotate(loud=Upper(text)).filter(loud__contains="A"),
            lambda rows: rows.alias(size=Length(text)).filter(size__gt=number),
            lambda rows: rows.annotate(loud=Value("x")).order_by("-loud"),
            lambda rows: rows.annotate(many=Count(related)),
            lambda rows: rows.annotate(many=Count(related)).filter(many__gt=number % 3),
            lambda rows: rows.annotate(many=Count(related)).order_by("many"),
            lambda rows: rows.annotate(loud=Max(numeric)).filter(loud__gt=number),
            lambda rows: rows.annotate(row=Window(RowNumber(), order_by=order)).filter(row__lt=number),
            lambda rows: rows.annotate(one=Exists(Thing.objects.filter(name=OuterRef(text)))),
            lambda rows: rows.order_by("?"),
            lambda rows: rows.order_by(f"-{numeric}", text),
            lambda rows: rows.distinct(),
            lambda rows: rows.order_by(text).distinct(text),
            lambda rows: rows.values(text),
            lambda rows: rows.values(text).annotate(many=Count("pk")),
            lambda rows: rows.values_list("pk", flat=True),
            lambda rows: rows[: number % 4],
            lambda rows: rows.union(rows),
            lambda rows: rows.extra(where=["1 = %s"], params=[number % 2]),
            lambda rows: rows.extra(select={"half": "1 / 2"}),
            lambda rows: rows.only(text),
            lambda rows: rows.select_related(),
            lambda rows: rows.select_for_update(),
            lambda rows: rows.none(),
            lambda rows: rows.reverse(),
            lambda rows: rows.using("default"),
        ]  # fmt: skip

    def _values(self) -> list[dict[str, Any]]:
        number = self._number
        if self.model is Diner:
            return [
                {"name": "new"}, {"is_open": False}, {"cuisine": "new"}, {"name": "new", "is_open": False},
                {"name": "a", "cuisine": Upper("cuisine")}, {"labels": 1}, {},
                {"is_open": "perhaps"}, {"name": None}, {"nothing": 1},
            ]  # fmt: skip
        most = Subquery(self.model._base_manager.values(most=Max("number")).order_by(*KEYS[self.model])[:1])
        twin = "twin" if self.model is Counter else "thing"
        values: list[dict[str, Any]] = [
            {"number": 9}, {"number": F("number") + 10}, {"number": most + 1},
            {"number": Coalesce(most, 0), "name": "b"}, {"number": F("many")},
            {"name": Concat("name", Value("!"))}, {"name": F("loud")}, {"name": Upper("name")},
            {"number": Case(When(name="a", then=Value(100)), default=F("number") + 20)}, {"number": F("number") / 0},
            {"number": "many"}, {"nothing": 1}, {"name": F(f"{twin}__name")}, {"number": Count(twin)},
            {"number": Window(RowNumber())}, {"name": None}, {twin: self.model(pk=self._key(1))}, {f"{twin}_id": 2},
            {"name": "x" * 60}, {"pk": self._key(1)}, {},
        ]  # fmt: skip
        if self.model is Counter:
            values += [{"group": None}, {"group": number, "number": F("group")}, {"code": Concat("code", Value("x"))}]
            values += [{"code": "c1"}, {"code": F("code")}, {"code": Upper("code"), "name": "moved"}]
        return values

    def _key(self, number: int) -> Any:
        return {Counter: f"c{number}", Diner: number, Seat: (number, number)}[self.model]

    def _update(self) -> Step:
        # The first ones are valid.
        values = self._values()
        values = self._pick([self._pick(values[:4]), self._pick(values)])
        return lambda rows: rows.update(**values)

    def _delete(self) -> Step:
        return lambda rows: rows.delete()

    def _objects(self) -> list[Any]:
        field = "cuisine" if self.model is Diner else "name"
        made = []
        for number in self._chance.sample(range(1, 12), self._chance.randrange(6)):
            one = self.model(pk=self._key(number), **{field: self._pick(["new", Upper(field), Value("v"), None, 5])})
            if self.model is not Diner:
                one.number = self._pick([number, number, number, "many"])
            made.append(one)
        return self._pick([made, made, made, [*made, self.model()], [*made, *made], tuple(made)])

    def _bulk_update(self) -> Step:
        objects = self._objects()
        fields = self._pick([["name"], ["name"], ["number"], ["cuisine"], ["name", "cuisine"], [], ["pk"], ["nothing"]])
        size = self._pick([None, None, 2, 0])
        return lambda rows: rows.bulk_update(objects, fields, batch_size=size)

    def _bulk_create(self) -> Step:
        objects, key = self._objects(), "code" if self.model is Counter else "pk"
        options: dict[str, Any] = self._pick([
            {}, {}, {"batch_size": 2}, {"batch_size": 0}, {"ignore_conflicts": True},
            {"update_conflicts": True, "update_fields": ["name"], "unique_fields": [key]},
            {"update_conflicts": True, "update_fields": ["name"], "unique_fields": ["pk"]},
            {"update_conflicts": True, "update_fields": ["nothing"], "unique_fields": ["pk"]},
            {"update_conflicts": True, "update_fields": ["name"]},
            {"update_conflicts": True, "ignore_conflicts": True},
        ])  # fmt: skip

        def create(rows: Any) -> Any:
            returned = rows.bulk_create(objects, **options)
            state = [(one.pk, one._state.adding, one._state.db) for one in returned]
            return type(returned), returned is objects, state

        return create


def fill() -> None:
    """The same rows each time."""
    Thing.objects.bulk_create(Thing(pk=pk, name=name) for pk, name in enumerate("abc", 1))
    Seat.objects.bulk_create(Seat(thing_id=one, number=two, name="abc"[one - 1]) for one in (1, 2, 3) for two in (1, 2))
    Counter.objects.bulk_create(
        Counter(code=f"c{n}", number=n if n % 4 else None, group=n % 3, name="abab"[n % 4], twin_id=f"c{n // 2}")
        for n in range(1, 9)
    )
    for n in range(1, 5):
        # With the keys that the conditions know.
        diner = Diner(pk=n, id=n, name=f"name {n}", cuisine="any" if n % 2 else "some", is_open=n < 3)
        diner.save_base(force_insert=True)


def rows_of(model: type[models.Model]) -> list[Any]:
    names = [field.attname for field in model._meta.concrete_fields]
    return list(models.QuerySet(model).order_by("pk").values_list(*names))


def outcome(work: Work, queryset: type[models.QuerySet[Any]]) -> tuple[Any, ...]:
    """The answer or the error, whether Django lets the transaction go on, and then the rows. It is rolled back."""
    is_aborted = False
    with transaction.atomic():
        try:
            answer = work(queryset)
        except Exception as error:
            answer = type(error), str(error).partition("\n")[0]
            is_aborted = isinstance(error, Error) and connection.vendor == "postgresql"
        can_go_on = not may_only_roll_back("default")
        is_readable = can_go_on and not is_aborted
        found = [rows_of(model) for model in (work.model, Place, Thing)] if is_readable else []
        transaction.set_rollback(True)
    return answer, can_go_on, found


def test_random_bulk_operations_do_what_djangos_do(is_long: bool, figures: Any) -> None:
    fill()
    make_webhook(Counter, Diner, Place, Seat, prechange=True)
    ended = {"rows": 0, "no rows": 0, "error": 0}
    for seed in range(2000 if is_long else 250):
        plainly = outcome(Work(seed), models.QuerySet)
        assert outcome(Work(seed), webhooks.TrackedQuerySet) == plainly, f"seed {seed}"
        is_error = (
            isinstance(plainly[0], tuple) and isinstance(plainly[0][0], type) and issubclass(plainly[0][0], Exception)
        )
        ended["error" if is_error else "rows" if plainly[0] else "no rows"] += 1
    assert min(ended.values()) > 20, ended
    figures(str(ended))


@pytest.mark.parametrize("values", [{"name": F("cuisine")}, {"cuisine": F("name")}, {"cuisine": F("loud")}])
def test_a_reference_to_the_table_of_a_parent_or_a_child_is_refused_as_by_django(values: dict[str, Any]) -> None:
    # Not at random: if the filter has an error as well, Django raises that one.
    def words(queryset: type[models.QuerySet[Any]]) -> Any:
        with transaction.atomic(), pytest.raises(FieldError) as caught:
            queryset(Diner).annotate(loud=Upper("cuisine")).filter(is_open=True).update(**values)
        return str(caught.value), may_only_roll_back("default")

    fill()
    plainly = words(models.QuerySet)
    make_webhook(Diner)
    assert words(webhooks.TrackedQuerySet) == plainly
