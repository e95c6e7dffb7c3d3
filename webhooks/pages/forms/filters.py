"""The filters above each list, as a form that works without JavaScript. Its fields have the names of the filters in the
REST API and in runs, so "all that match" means the same everywhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from django import forms
from django.conf import settings
from django.core.exceptions import SuspiciousOperation
from django.forms.utils import flatatt
from django.http import HttpRequest, QueryDict
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.functional import cached_property
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _

from webhooks.ground.db import to_utc
from webhooks.ground.text import clean
from webhooks.insight.paging import search_filters
from webhooks.insight.wording import exact_time, local_time
from webhooks.models import Delivery, Event, RunState, Skip, permissions
from webhooks.models.filters import ACTOR_FILTERS, TIMES, Filter, Rows, filter_time, filters_of
from webhooks.models.queue import OPEN_STATES
from webhooks.models.run import kind_choices

Choices = list[tuple[str, Any]]

SPANS = {
    "hour": (_("the last hour"), timedelta(hours=1)),
    "day": (_("the last 24 hours"), timedelta(days=1)),
    "week": (_("the last 7 days"), timedelta(days=7)),
    "month": (_("the last 30 days"), timedelta(days=30)),
}

# Parameters of a list that are no filters: the cursor, and what Django's admin adds.
OTHERS = {"before", "e", "_changelist_filters", "_popup", "_to_field", "_facets"}


class PlainSelect(forms.Select):
    """A list of options. Django's own renders a template for each option, and there is one for each webhook."""

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        chosen = {str(value)} if value is not None else {""}
        options = ((key, " selected" if str(key) in chosen else "", label) for key, label in self.choices)
        return format_html(
            '<select name="{}"{}>{}</select>',
            name,
            flatatt(self.build_attrs(self.attrs, attrs)),
            format_html_join("", '<option value="{}"{}>{}</option>', options),
        )


class ChosenField(forms.ChoiceField):
    """A choice among offers. It accepts and shows other values too, such as a model that is no longer registered."""

    widget = PlainSelect

    def valid_value(self, value: Any) -> bool:
        return bool(value == clean(value))  # PostgreSQL rejects NUL and lone surrogates

    def offer(self, choices: Choices, chosen: str) -> None:
        known = {value for value, _label in choices}
        others = [(chosen, chosen)] if chosen and chosen not in known else []
        self.choices = [("", _("any")), *choices, *others]


class MomentInput(forms.DateTimeInput):
    """The browser's own input for a date and a time."""

    input_type = "datetime-local"

    def format_value(self, value: Any) -> str | None:
        try:
            moment = parse_datetime(value or "")
            return local_time(moment).strftime("%Y-%m-%dT%H:%M:%S") if moment else None
        except (ValueError, OverflowError):  # such as 30 February: the field shows its error
            return None


class MomentField(forms.DateTimeField):
    """Refuses a time at an end of the calendar, which other time zones do not have. Takes the first one of two, in the
    hour that autumn repeats, and the hour that spring leaves out: Django's field would refuse both."""

    widget = MomentInput(attrs={"step": "1"})

    def to_python(self, value: Any) -> datetime | None:
        try:
            given = parse_datetime(value.strip()) if isinstance(value, str) else None
            if given and settings.USE_TZ and timezone.is_naive(given):
                value = timezone.make_aware(given)
            moment = super().to_python(value)
            if moment is not None:
                local_time(to_utc(moment))
        except (ValueError, OverflowError):  # such as 30 February
            raise forms.ValidationError(self.error_messages["invalid"], code="invalid") from None
        return moment


class ListForm(forms.Form):
    """The filters of one list. Give it the request: it reads the query parameters. ``also`` names the other ones that
    are allowed. ``field_order`` has the most important fields."""

    data: QueryDict
    filters: ClassVar[dict[str, Filter]] = {}
    """The fields that are declared filters."""

    def __init__(self, request: HttpRequest, also: Collection[str] = OTHERS) -> None:
        if unknown := self.unknown(request, also):
            raise SuspiciousOperation(f"The list has no filter {', '.join(sorted(unknown))}.")
        super().__init__(data=request.GET, auto_id="filter_%s")
        self.user_of_request = request.user
        for name in self.hidden_fields_of(request.user):
            del self.fields[name]
        for name, choices in self.offers().items():
            field: Any = self.fields[name]
            field.offer(choices, self.data.get(name, ""))

    @classmethod
    def unknown(cls, request: HttpRequest, also: Collection[str] = OTHERS) -> set[str]:
        """The query parameters that are no filters."""
        known = cls.base_fields.keys() - cls.hidden_fields_of(request.user)
        return request.GET.keys() - known - {*also}

    def offers(self) -> dict[str, Choices]:
        """The choices of each ``ChosenField``."""
        raise NotImplementedError

    @classmethod
    def hidden_fields_of(cls, user: Any) -> Collection[str]:
        """The filters that this user does not have, because they say more of the rows than the list shows."""
        return ()

    @cached_property
    def chosen(self) -> dict[str, Any]:
        """The filters that are set, as ``models.filters`` and runs read them."""
        given = [(name, value) for name, value in self.cleaned_data.items() if value not in ("", None)]
        # Earlier fields outweigh later ones: a search means more than a model.
        return {name: one for field in reversed(given) for name, one in self.as_filters(*field).items()}

    def as_filters(self, name: str, value: Any) -> dict[str, Any]:
        """What the valid value of a field means, in plain JSON."""
        return {name: value}

    def active(self) -> Iterator[tuple[str, str]]:
        """For each filter that is set: its words, and the address of the list without it."""
        for name, field in self.fields.items():
            value = self.data.get(name, "")
            if name == "q" or not value:
                continue
            choices: Any = dict(field.choices) if isinstance(field, ChosenField) else {}  # type: ignore[arg-type]
            given = self.cleaned_data.get(name)
            shown = exact_time(given) if isinstance(given, datetime) else str(choices.get(value, value))
            words = self.filters[name].words if name in self.filters else "%(label)s: %(value)s"
            yield capfirst(words % {"label": self.base_fields[name].label, "value": shown}), self.address(name)

    def address(self, *without: str, **parameters: str) -> str:
        """The query string of the list with other parameters, on its first page. It leaves out empty ones."""
        data = self.data.copy()
        for gone in (*without, "before", *[name for name, value in self.data.items() if not value]):
            data.pop(gone, None)
        data.update(parameters)
        return f"?{data.urlencode()}"


class FilterForm(ListForm):
    """The declared filters of deliveries, events or skips, a search, and spans of time."""

    searched: ClassVar[type[Event | Skip]] = Event
    """The rows with the objects that a search term may mean."""

    q = forms.CharField(label=_("Search"), required=False, max_length=255)
    within = ChosenField(label=_("Time"), required=False)

    def __init__(self, request: HttpRequest, also: Collection[str] = OTHERS) -> None:
        super().__init__(request, also)
        zone = timezone.get_current_timezone_name()  # the browser may be in another one
        for name in ("created_after", "created_before"):
            self.fields[name].label = f"{self.fields[name].label} ({zone})"

    def offers(self) -> dict[str, Choices]:
        offered = {name: one for name, one in self.filters.items() if name in self.fields}
        return {
            "within": [(name, label) for name, (label, _span) in SPANS.items()],
            **{name: list(one.choices()) for name, one in offered.items() if one.choices()},
            **{name: self.webhooks() for name, one in offered.items() if one.type == "webhook"},
        }

    def webhooks(self) -> Choices:
        rows = permissions.visible_webhooks(self.user_of_request).order_by("name")
        return [(str(pk), name) for pk, name in rows.values_list("pk", "name")]

    def fixed(self) -> dict[str, str]:
        """The query parameters of these filters. "The last hour" becomes the time when it began."""
        given = {name: str(self.data[name]) for name in self.fields if self.data.get(name)}
        if given.pop("within", "") in SPANS:
            given["created_after"] = self.chosen["created_after"]
        return given

    def as_filters(self, name: str, value: Any) -> dict[str, Any]:
        match self.filters[name].type if name in self.filters else name:
            case "q":
                return search_filters(value, self.searched, self.user_of_request)
            case "within":
                return {"created_after": (datetime.now(UTC) - SPANS[value][1]).isoformat()} if value in SPANS else {}
            case "moment":
                value = filter_time(value)
            case "model":
                value = value.lower()
            case "choices":
                value = [value]
        return {name: value}


class WebhookField(ChosenField):
    """A choice among webhooks. Its value is a key."""

    def valid_value(self, value: Any) -> bool:
        return bool(value.isdecimal()) and len(value) < 19  # a number that the database accepts

    def clean(self, value: Any) -> Any:
        chosen = super().clean(value)
        return int(chosen) if chosen else ""


class FlagField(forms.NullBooleanField):
    widget = PlainSelect(choices=[("", _("any")), ("true", _("yes")), ("false", _("no"))])


FIELDS: dict[str, type[forms.Field]] = {
    "webhook": WebhookField,
    "number": forms.IntegerField,
    "flag": FlagField,
    "moment": MomentField,
}


def field_of(one: Filter) -> forms.Field:
    declared: dict[str, Any] = {"label": capfirst(one.label), "required": False}
    if one.type == "number":
        declared |= {"min_value": one.bounds[0], "max_value": one.bounds[1]}
    if one.type == "text" and not one.choices():
        return forms.CharField(max_length=255, **declared)
    return FIELDS.get(one.type, ChosenField)(**declared)


# The filters that lists have in another field: the search, and the state of events.
IN_OTHER_FIELDS = {"name": "q", "failed": "state", "replayed": "state"}


def lists(rows: Rows) -> Callable[[type[FilterForm]], type[FilterForm]]:
    """Gives a form the declared filters of these rows."""

    def declare(form: type[FilterForm]) -> type[FilterForm]:
        form.filters = filters_of(rows, internal=True)
        names = [name for name in form.filters if name not in IN_OTHER_FIELDS]
        form.base_fields |= {name: field_of(form.filters[name]) for name in names}
        form.field_order = ("q", *(name for name in names if name not in TIMES), "within")
        return form

    return declare


@lists("deliveries")
class DeliveryFilterForm(FilterForm):
    @classmethod
    def hidden_fields_of(cls, user: Any) -> Collection[str]:
        return () if permissions.may_view_events(user) else ACTOR_FILTERS

    def offers(self) -> dict[str, Choices]:
        offers = super().offers()
        # Who sees a part of the deliveries does not learn which kinds the others have.
        if not permissions.is_partial(self.user_of_request):
            kinds = {*Delivery.objects.error_kinds(), self.data.get("error_kind")}
            offers["error_kind"] = [(kind, label) for kind, label in offers["error_kind"] if kind in kinds]
        return offers | {"state": [("open", _("not finished")), *offers["state"]]}

    def as_filters(self, name: str, value: Any) -> dict[str, Any]:
        return {"state": [*OPEN_STATES]} if (name, value) == ("state", "open") else super().as_filters(name, value)


# The filters that a state of the list of events means.
EVENT_STATES = {"failed": {"failed": True}, "replayed": {"replayed": True}, "recorded": {"failed": False}}


@lists("events")
class EventFilterForm(FilterForm):
    state = ChosenField(label=_("State"), required=False)

    def offers(self) -> dict[str, Choices]:
        states = [("failed", _("failed")), ("replayed", _("failed and replayed")), ("recorded", _("recorded"))]
        return super().offers() | {"state": states}

    def as_filters(self, name: str, value: Any) -> dict[str, Any]:
        return EVENT_STATES.get(value, {}) if name == "state" else super().as_filters(name, value)


@lists("skips")
class SkipFilterForm(FilterForm):
    searched = Skip


class RunFilterForm(ListForm):
    state = ChosenField(label=_("State"), required=False)
    kind = ChosenField(label=_("Kind"), required=False)

    def offers(self) -> dict[str, Choices]:
        return {"state": list(RunState.choices), "kind": kind_choices()}
