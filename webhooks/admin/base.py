"""What the pages share: the base classes of the lists, pages without invisible characters, and addresses.

The lists of deliveries, events, skips and runs are long and read-only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from urllib.parse import urlencode

from django.apps import apps
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.views.main import ChangeList
from django.contrib.messages.constants import DEFAULT_LEVELS
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db import models, transaction
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_POST

from webhooks.ground import registry
from webhooks.ground import text as texts
from webhooks.insight.counts import TOTAL_CAP
from webhooks.insight.paging import Found, LongList
from webhooks.insight.wording import count_of
from webhooks.models import Action, Event, Webhook, permissions
from webhooks.pages.acts import Message
from webhooks.pages.forms.filters import ListForm
from webhooks.pages.links import Link

# The look of the admin: django-unfold's lists and forms where it is installed, else Django's own.
if TYPE_CHECKING or not apps.is_installed("unfold"):

    class ModelAdmin(admin.ModelAdmin):
        has_list_of_tools = True  # the tools above a list are items, and not links alone

        def action_checkbox(self, obj: Any) -> SafeString:
            """As Django's, which renders a template for each row: an eighth of the time of a list."""
            return format_html(
                '<input type="checkbox" name="{}" value="{}" class="action-select" aria-label="{}">',
                ACTION_CHECKBOX_NAME, obj.pk, _("Select %(object)s") % {"object": obj},
            )  # fmt: skip

else:
    from unfold.admin import ModelAdmin

SEARCH_HELP = gettext_lazy("An object's id or “dcim.site:12”, the id of a request, or part of an object's name.")


# Names and answers come from other people, and one invisible character can reverse a whole line.

Response = TypeVar("Response")


def page(request: HttpRequest, template: str, context: dict[str, Any]) -> TemplateResponse:
    """A page with the addresses of the admin, and without invisible characters."""
    return escape_invisible(TemplateResponse(request, template, {"address_of": address} | context))


def escape_invisible(response: Response) -> Response:
    """Write invisible characters of a page as escapes, such as ``\\u202e``."""

    def escape(rendered: HttpResponse) -> None:
        rendered.content = texts.escape_invisible(rendered.content.decode()).encode()

    if isinstance(response, TemplateResponse):
        response.add_post_render_callback(escape)
    return response


def part(request: HttpRequest, template: str, context: dict[str, Any]) -> SafeString:
    """A part of a page, without invisible characters. For pages with a form, which must keep such characters."""
    shown = texts.escape_invisible(render_to_string(template, {"address_of": address} | context, request))
    return mark_safe(shown)  # noqa: S308 # nosec B308 B703 # the template has escaped it


@dataclass(frozen=True)
class Act:
    """What users do to rows: an action of Django's list, and a button on the page of one row."""

    name: str
    short_description: Any
    """The label of the action."""
    perform: Callable[[HttpRequest, Any], HttpResponse | None]
    """Does it to the chosen rows, and shows the result."""
    operation: str = ""
    """The operation of ``permissions`` on a row, if it has another name than the act."""
    run_kind: str = ""
    """The kind of run that does it to all rows that match the filters."""
    suffix: str = "_chosen"

    @property
    def __name__(self) -> str:  # as Django's list names the action
        return f"{self.name}{self.suffix}"

    def __call__(self, model_admin: Any, request: HttpRequest, chosen: QuerySet[Any]) -> HttpResponse | None:
        return self.perform(request, chosen)


def column(description: Any, show: Callable[[Any], Any], **options: Any) -> Any:
    """A column of a list: what ``show`` returns for a row."""
    return admin.display(description=description, **options)(lambda _admin, row: show(row))


class ActingAdmin(ModelAdmin):
    """Its acts are actions of the list, and buttons on the page of a row."""

    actions: Sequence[Act] = ()

    # The pages that are not forms show no invisible characters.

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return escape_invisible(super().changelist_view(request, *args, **kwargs))

    def history_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return escape_invisible(super().history_view(request, *args, **kwargs))

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return escape_invisible(super().delete_view(request, *args, **kwargs))

    # Acts

    def get_actions(self, request: HttpRequest, action_location: Any = None) -> dict[str, Any]:
        located = {} if action_location is None else {"action_location": action_location}  # from Django 6.1 on
        offered: Any = super().get_actions(request, **located)
        refused = {act.__name__ for act in self.actions if not self.may_act(request, act)}
        return {name: action for name, action in offered.items() if name not in refused}

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(require_POST(self.button_view))
        prefix = f"rq_webhooks_{self.opts.model_name}"
        buttons = [
            path(f"<path:object_id>/{act.name}/", view, {"act": act}, name=f"{prefix}_{act.name}")
            for act in self.actions
        ]
        return [*buttons, *super().get_urls()]

    def button_view(self, request: HttpRequest, object_id: str, act: Act) -> HttpResponse:
        """Do it to one row."""
        row = self.get_object(request, object_id)
        if not self.may_act(request, act, row):
            raise PermissionDenied
        if row is None:
            raise Http404(f"There is no {self.opts.verbose_name} {object_id}.")
        act(self, request, self.model.objects.filter(pk=row.pk))
        return redirect_back(request, f"admin:rq_webhooks_{self.opts.model_name}_change", row.pk)

    def may_act(self, request: HttpRequest, act: Act, row: models.Model | None = None) -> bool:
        """Whether the user may do this to a row, or to some rows."""
        operation = act.operation or act.name
        if row is None:
            return permissions.has_perm(request.user, f"rq_webhooks.{operation}_{self.opts.model_name}")
        return permissions.may(request.user, operation, row)


class KeysetList(ChangeList):
    """The list of an admin page, page by page from the newest row to older ones. ``filter_form`` and
    ``long_list()`` of the ModelAdmin find the rows of a page."""

    model_admin: Any

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        """All rows that the user may view: actions choose from them by their keys."""
        self.filter_specs, self.has_filters, self.has_active_filters = [], False, False
        self.form = self.model_admin.filter_form(request)
        return self.root_queryset

    def get_results(self, request: HttpRequest) -> None:
        self.found = self.model_admin.read_list(request, self.form)
        self.result_list: Any = self.found.rows
        self.model_admin.prepare(request, self.result_list)
        count = self.found.count
        self.result_count = len(self.result_list) if count is None else count
        self.show_full_result_count = self.can_show_all = self.multi_page = False
        self.show_admin_actions = True
        self.full_result_count = self.result_count  # else django-unfold offers to “show all”, and shows the same page
        self.paginator = Paginator(self.result_list, max(1, self.list_per_page))


class ReadOnlyAdmin(ActingAdmin):
    """Rows cannot be added, changed or deleted. A template shows one row from ``page_context()``."""

    change_list_template = "rq_webhooks/admin/list.html"
    show_full_result_count = False
    list_max_show_all = 0
    list_per_page = 50
    preserve_filters = False  # no page of a row uses them, and Django resolves an address for each row
    ordering = ("-pk",)
    sortable_by = ()
    search_help_text = SEARCH_HELP
    filter_form: ClassVar[type[ListForm]]
    noun: ClassVar[str]
    """The rows, as ``count_of`` counts them."""

    class Media:
        css: ClassVar = {"all": ["rq_webhooks/admin.css", "rq_webhooks/lists.css"]}

    # The list

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[KeysetList]:
        return KeysetList

    def long_list(self, request: HttpRequest, filters: dict[str, Any]) -> LongList[Any]:
        """The rows that match these filters."""
        raise NotImplementedError

    def prepare(self, request: HttpRequest, rows: list[Any]) -> None:
        """Add to the rows of a page the values that their columns need from the request."""

    def read_list(self, request: HttpRequest, form: ListForm) -> Found:
        """A page of the list with the filters of this form; an empty one if they are invalid."""
        if not form.is_valid():
            return Found(count=0)
        try:
            return self.long_list(request, form.chosen).page(self.list_per_page, request.GET.get("before", ""))
        except ValueError:
            raise Http404("This page of the list is unknown.") from None

    # Actions change a few rows in each transaction. One transaction for the whole request would block workers.
    @transaction.non_atomic_requests
    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        unknown = self.filter_form.unknown(request)
        # A submitted form has its empty fields too. Links to other lists have a page (p) and an order (o).
        if request.method == "GET" and (unknown or "" in request.GET.values()):
            known = [(name, values) for name, values in request.GET.lists() if name not in unknown]
            given = [(name, value) for name, values in known for value in values if value]
            if unknown:
                text = _("This list has no filter “%(names)s”, so the address was changed.")
                messages.warning(request, text % {"names": ", ".join(sorted(unknown))})
            return redirect(f"{request.path}?{urlencode(given)}")
        response = super().changelist_view(request, *args, **kwargs)
        if isinstance(response, TemplateResponse) and "cl" in (response.context_data or {}):
            context: dict[str, Any] = response.context_data  # type: ignore[assignment]
            self.describe_list(request, context)
            if "HX-Request" in request.headers and not context["cl"].found.is_empty_so_far:
                # A search that goes on by itself ends here: admin.js shows this page.
                event = json.dumps({"wh:found": request.get_full_path()})
                return HttpResponse(status=204, headers={"HX-Trigger": event})
        return response

    def describe_list(self, request: HttpRequest, context: dict[str, Any]) -> None:
        """Add the filters of the list, its length and its pages to the context of the template."""
        page: Found = context["cl"].found
        form: ListForm = context["cl"].form
        context |= {
            "title": capfirst(str(self.opts.verbose_name_plural)),
            "active_filters": list(form.active()),
            "counted": count_of(page.count, self.noun, TOTAL_CAP) if page.count is not None else "",
            "is_later_page": "before" in form.data,
            "newest_address": form.address(),
            "older_address": form.address(before=page.older),
            "may_run": any(act.run_kind for act in self.actions),
        }

    def response_action(
        self, request: HttpRequest, queryset: QuerySet[Any], *args: Any, **kwargs: Any
    ) -> HttpResponse | None:
        """An action on all rows that match the filters becomes a run. Its page asks first."""
        name = request.POST.get("action", "")
        kind = next((act.run_kind for act in self.actions if act.__name__ == name), "")
        if request.POST.get("select_across") != "1" or not kind:
            return super().response_action(request, queryset, *args, **kwargs)
        form: Any = self.filter_form(request)
        if not form.is_valid():
            messages.error(request, _("Nothing was done: correct the filters first."))
            return redirect(request.get_full_path())
        query = {"kind": kind} | form.fixed()
        return redirect(f"{reverse('admin:rq_webhooks_run_add')}?{urlencode(query)}")

    # One row

    def has_add_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    has_change_permission = has_delete_permission = has_add_permission

    def get_fields(self, request: HttpRequest, obj: models.Model | None = None) -> Any:
        return ()  # the template shows them

    def page_context(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        """The context of the template that shows one row."""
        raise NotImplementedError

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("obj") is not None:
            # The heading names the row. Django would write "View delivery", and the name only in the tab.
            context |= {"title": str(kwargs["obj"]), "subtitle": None, "address_of": address}
            context |= self.page_context(request, kwargs["obj"])
        return escape_invisible(super().render_change_form(request, context, *args, **kwargs))


def show(request: HttpRequest, *results: Message) -> None:
    """Show the results of an act."""
    for result in results:
        messages.add_message(request, DEFAULT_LEVELS[result.level.upper()], result.text)


# Addresses

# The pages that belong to no model.
OWN_PAGES = {"status": "webhooks_backend_status", "why": "webhooks_why"}


def address(link: Link) -> str:
    """The address that a link opens or posts to."""
    own, act = OWN_PAGES.get(link.model), link.act or ("changelist" if link.key is None else "change")
    url = reverse(own or f"admin:rq_webhooks_{link.model}_{act}", args=[] if link.key is None else [link.key])
    return f"{url}?{urlencode(link.filters, doseq=True)}" if link.filters else url


def list_url(model: str, **filters: Any) -> str:
    """The address of the list of a model, such as "delivery", with these filters."""
    return address(Link("", model, filters=filters))


def row_url(model: str, key: Any) -> str:
    """The address of the page of one row of a model, such as "delivery"."""
    return reverse(f"admin:rq_webhooks_{model}_change", args=[key])


def page_url(name: str, webhook: Webhook) -> str:
    """The address of a page or button of the webhook."""
    return reverse(f"admin:rq_webhooks_webhook_{name}", args=[webhook.pk])


def object_url(event: Event, user: Any) -> str:
    """The page of an event's object in the admin. Empty if it is deleted, has no page, or the user may not view it."""
    registration = registry.registration_by_label(event.object_type)
    if registration is None or event.action == Action.DELETED or not admin.site.is_registered(registration.model):
        return ""
    meta = registration.model._meta
    if not any(permissions.has_perm(user, f"{meta.app_label}.{what}_{meta.model_name}") for what in ("view", "change")):
        return ""
    try:
        return reverse(f"admin:{meta.app_label}_{meta.model_name}_change", args=[event.object_id])
    except NoReverseMatch:
        return ""


def redirect_back(request: HttpRequest, page: str, *args: Any) -> HttpResponse:
    """Redirect to the page of the pressed button: the address in ``next``, or else the page with this name."""
    address = request.POST.get("next", "")
    is_own = url_has_allowed_host_and_scheme(address, None)
    # ``redirect`` would take a text such as "?state=failed" for the name of a page.
    return HttpResponseRedirect(address) if is_own else redirect(page, *args)
