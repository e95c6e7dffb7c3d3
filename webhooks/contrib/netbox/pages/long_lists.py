"""The lists of deliveries, events, skips and runs: page by page from the newest row to older ones, in NetBox's look.

A page reads neither the number of rows of a table nor all of them, so a list stays fast with a million rows. Its
filters are the core's. Acts on the selected rows happen at once. Acts on all rows that match the filters become a run,
and its page asks first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import unescape
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlencode

import django_tables2 as tables
from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import Model, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, redirect
from django.urls import include, path, reverse
from django.utils.decorators import method_decorator
from django.utils.html import strip_tags
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from extras.models import SavedFilter
from netbox.tables import BaseTable, columns
from netbox.views import generic
from netbox.views.generic.base import BaseMultiObjectView
from utilities.htmx import htmx_partial
from utilities.paginator import EnhancedPaginator, get_paginate_count
from utilities.permissions import resolve_permission
from utilities.request import safe_for_redirect
from utilities.urls import get_model_urls
from utilities.views import register_model_view

from core.models import ObjectType
from webhooks.contrib.netbox import PLUGIN
from webhooks.contrib.netbox.pages.base import PermittedRows
from webhooks.contrib.netbox.pages.display import page, show
from webhooks.contrib.netbox.pages.links import page_url
from webhooks.insight.counts import TOTAL_CAP
from webhooks.insight.paging import Found, LongList
from webhooks.insight.wording import count_of
from webhooks.models import permissions
from webhooks.pages.acts import Message
from webhooks.pages.forms.filters import ListForm, PlainSelect

# The parameters of a list that are no filters: the cursor, and what NetBox's tables take.
OTHERS = {
    "before", "per_page", "page", "sort", "export", "include_columns", "exclude_columns", "embedded", "return_url",
}  # fmt: skip


@dataclass(frozen=True)
class Act:
    """What users do to rows of a list."""

    name: str
    label: Any
    """The button below the list."""
    permission: str
    """Without it, a user does not see the button."""
    run_kind: str = ""
    """The kind of run that does it to all rows that match the filters."""
    is_dangerous: bool = False


# The table


class ShownColumn(tables.Column):
    """A column that a function shows. An export has ``value`` of the row, or else the text without tags."""

    def __init__(
        self, show: Callable[[Any], Any], label: Any, value: Callable[[Any], Any] | None = None, **options: Any
    ) -> None:
        super().__init__(verbose_name=capfirst(label), empty_values=(), orderable=False, accessor="pk", **options)
        self._show, self._value = show, value

    def render(self, record: Any) -> Any:
        return self._show(record)

    def value(self, record: Any) -> Any:
        return self._value(record) if self._value else " ".join(unescape(strip_tags(str(self._show(record)))).split())


class LongTable(BaseTable):
    """The rows of one page, without their number and without an order to choose."""

    pk = columns.ToggleColumn(visible=False)
    exempt_columns = ("pk", "actions")
    config_params = None  # NetBox saves configurations of tables that it finds by their model alone


# The list


class LongListView(PermittedRows, generic.ObjectListView):
    """A list with the filters of ``filter_form``. ``long_list`` finds its rows."""

    template_name = "rq_webhooks/netbox/list.html"
    filter_form: ClassVar[type[ListForm]]
    acts: ClassVar[Sequence[Act]] = ()
    noun: ClassVar[str]
    """The rows, as ``count_of`` counts them."""

    def long_list(self, filters: dict[str, Any]) -> LongList[Any]:
        """The rows that match these filters."""
        raise NotImplementedError

    def prepare(self, rows: list[Any]) -> None:
        """Add to the rows of a page the values that their columns need from the request."""

    def permitted_acts(self) -> list[Act]:
        return [act for act in self.acts if permissions.has_perm(self.request.user, act.permission)]

    def get_extra_context(self, request: HttpRequest, form: ListForm | None = None) -> dict[str, Any]:
        return {}

    def get(self, request: HttpRequest) -> HttpResponse:
        if (known := _known_address(request, self.filter_form)) is not None:
            return HttpResponseRedirect(known)
        form = _styled(self.filter_form(request, OTHERS))
        size = EnhancedPaginator([], get_paginate_count(request)).per_page
        rows_page, acts = self._read(form, size), self.permitted_acts()
        self.prepare(rows_page.rows)
        table = self.table(rows_page.rows)
        if acts:
            table.columns.show("pk")
        table.configure(request)
        if "export" in request.GET:
            chosen = [name for name, _header in table.selected_columns]
            delimiter = request.user.config.get("csv_delimiter") if request.user.is_authenticated else None
            return self.export_table(table, chosen, delimiter=delimiter)
        is_part = htmx_partial(request) and not request.htmx.history_restore_request
        context = self._describe(form, rows_page, size) | {"table": table, "is_part": is_part} | self._offer(acts)
        if is_part:
            return page(request, "rq_webhooks/netbox/list/rows.html", context)
        context |= {
            "saved_filters": _saved_filters(request.user, self.queryset.model),
            "save_address": _address_to_save(request.user, self.queryset.model, form),
        }
        return page(request, self.template_name, context | self.get_extra_context(request, form))

    def _read(self, form: ListForm, size: int) -> Found:
        """A page of the list with the filters of this form; an empty one if they are invalid."""
        if not form.is_valid():
            return Found(count=0)
        # The search field sends the address of the page that it is on. A new search begins at the newest row.
        is_search = self.request.htmx and self.request.htmx.trigger == "quicksearch"
        try:
            return self.long_list(form.chosen).page(size, "" if is_search else self.request.GET.get("before", ""))
        except ValueError:
            raise Http404("This page of the list is unknown.") from None

    def _describe(self, form: ListForm, page: Found, size: int) -> dict[str, Any]:
        return {
            "model": self.queryset.model,
            "filter_form": form,
            "active_filters": list(form.active()) if form.is_valid() else [],
            "found": page,
            "counted": count_of(page.count, self.noun, TOTAL_CAP) if page.count is not None else "",
            "is_later_page": "before" in form.data,
            "newest_address": form.address(),
            "older_address": form.address(before=page.older),
            "export_address": f"?{urlencode({**self.request.GET.dict(), 'export': 'table'})}",
            "sizes": [
                (length, form.address("per_page", per_page=str(length)))
                for length in EnhancedPaginator([], size).get_page_lengths()
            ],
            "chosen": urlencode({name: value for name, value in form.data.items() if name in form.fields and value}),
        }

    def _offer(self, acts: list[Act]) -> dict[str, Any]:
        name = self.queryset.model._meta.model_name
        return {
            "acts": [(act, page_url(f"{name}_bulk_{act.name}")) for act in acts],
            "may_run": any(act.run_kind for act in acts),
        }


def _saved_filters(user: Any, model: type[Model]) -> list[tuple[str, str]]:
    """The name and the address of each filter of the model that NetBox has saved, and that the user may use."""
    mine = Q(shared=True) | Q(user=user if user.is_authenticated else None)
    saved = SavedFilter.objects.restrict(user, "view").filter(mine, enabled=True)
    saved = saved.filter(object_types=ObjectType.objects.get_for_model(model))
    return [(saved_filter.name, f"?{saved_filter.url_params}") for saved_filter in saved]


def _address_to_save(user: Any, model: type[Model], form: ListForm) -> str:
    """The address of NetBox's form that saves the filters in use. Empty if there are none, or the user may not."""
    filters = {name: values for name, values in form.data.lists() if name in form.fields and any(values)}
    if not filters or not user.has_perm("extras.add_savedfilter"):
        return ""
    query = {"object_types": ObjectType.objects.get_for_model(model).pk, "parameters": json.dumps(filters)}
    return f"{reverse('extras:savedfilter_add')}?{urlencode(query)}"


def _known_address(request: HttpRequest, form: type[ListForm]) -> str | None:
    """The address of the list without parameters that are empty or no filters. None if it has only others."""
    unknown = form.unknown(request, OTHERS)
    if not unknown and (htmx_partial(request) or "" not in request.GET.values()):
        return None
    if unknown:
        text = _("This list has no filter “%(names)s”, so the address was changed.")
        messages.warning(request, text % {"names": ", ".join(sorted(unknown))})
    given = [(name, value) for name, values in request.GET.lists() for value in values if value and name not in unknown]
    return f"{request.path}?{urlencode(given)}"


def _styled(form: ListForm) -> ListForm:
    """The form with NetBox's classes. NetBox's templates give them to the other widgets."""
    for field in form.fields.values():
        if isinstance(field.widget, PlainSelect):
            field.widget.attrs["class"] = "form-select"
    return form


# Acts


@method_decorator(transaction.non_atomic_requests, name="dispatch")
class ActView(PermittedRows, BaseMultiObjectView):
    """Do an act to one row, or to the selected rows of a list, and show the result. Each change is a small transaction:
    one for the whole request would block workers."""

    acts: ClassVar[dict[str, Act]]
    filter_form: ClassVar[type[ListForm]]

    def get_required_permission(self) -> str:
        return f"{PLUGIN}.view_{self.queryset.model._meta.model_name}"

    @property
    def additional_permissions(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.acts[self.kwargs["act"]].permission,)

    def perform(self, act: Act, rows: QuerySet[Any], is_of_list: bool) -> list[Message] | HttpResponse:
        """Do it, and return what to say, or a page that asks first."""
        raise NotImplementedError

    def post(self, request: HttpRequest, act: str, pk: Any = None) -> HttpResponse:
        chosen = self.acts[act]
        if pk is not None:
            action = resolve_permission(chosen.permission)[1]
            if not permissions.may(request.user, action, get_object_or_404(self.queryset, pk=pk)):
                raise PermissionDenied
            return self._answer(self.perform(chosen, self.queryset.filter(pk=pk), False), pk)
        if "_all" in request.POST and chosen.run_kind:
            return self._ask_about_all(chosen)
        keys = list(keys_of(self.queryset.model, request))
        if not keys:
            return self._answer([Message(_("No rows were selected."), "warning")])
        return self._answer(self.perform(chosen, self.queryset.filter(pk__in=keys), True))

    def _answer(self, result: list[Message] | HttpResponse, pk: Any = None) -> HttpResponse:
        if isinstance(result, HttpResponse):
            return result
        show(self.request, *result)
        name = self.queryset.model._meta.model_name
        return redirect_back(self.request, page_url(f"{name}_list") if pk is None else page_url(name, pk))

    def _ask_about_all(self, act: Act) -> HttpResponse:
        form: Any = self.filter_form(self.request, OTHERS)
        if not form.is_valid():
            return self._answer([Message(_("Nothing was done: correct the filters first."), "error")])
        query = {"kind": act.run_kind} | form.fixed()
        return redirect(f"{page_url('run_add')}?{urlencode(query)}")


View = TypeVar("View", bound=type[ActView])


def register_acts(view: View) -> View:
    """A decorator: each act of the view gets an address for one row, and one for the selected rows of the list."""
    model = view.queryset.model
    for name in view.acts:
        register_model_view(model, name, kwargs={"act": name})(view)
        register_model_view(model, f"bulk_{name}", path=name, detail=False, kwargs={"act": name})(view)
    return view


def keys_of(model: type[Model], request: HttpRequest) -> Iterator[Any]:
    """The keys of the selected rows. Raises Http404 for a text that cannot be one."""
    for text in request.POST.getlist("pk"):
        try:
            yield model._meta.pk.to_python(text)
        except ValidationError:
            raise Http404("There is no such row.") from None


def redirect_back(request: HttpRequest, address: str) -> HttpResponse:
    """Redirect to the page of the pressed button, or else to this address."""
    given = request.POST.get("return_url", "")
    return HttpResponseRedirect(given if given and safe_for_redirect(given) else address)


# Addresses


def paths_of(model: type[Model], folder: str, key: str = "") -> list[Any]:
    """The views that are registered for the model. ``key`` is the type of the key in addresses; "" without pages of
    rows."""
    name = model._meta.model_name
    patterns = [path(f"{folder}/", include(get_model_urls(PLUGIN, name, detail=False)))]
    if key:
        patterns.append(path(f"{folder}/<{key}:pk>/", include(get_model_urls(PLUGIN, name))))
    return patterns
