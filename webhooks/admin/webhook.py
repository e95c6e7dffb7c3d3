"""The list of webhooks, and the page of one: health, form with “Try it”, tests, runs, and deletion."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial, partialmethod
from itertools import chain
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.exceptions import NotRegistered
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Count, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.urls import NoReverseMatch, URLPattern, path, reverse
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from webhooks.admin.base import Act, ActingAdmin, column, list_url, page_url, part, redirect_back, row_url, show
from webhooks.admin.run_start import START_PAGES
from webhooks.ground.db.session import index_plans
from webhooks.ground.registry import label_of
from webhooks.ground.security import url_policy
from webhooks.ground.text import as_key
from webhooks.insight.counts import EACH_CAP, open_count, with_counts
from webhooks.insight.silence import read_unregistered
from webhooks.insight.wording import count_of, number
from webhooks.models import Webhook, permissions
from webhooks.models.permissions import redaction
from webhooks.models.queue import OPEN_STATES, State
from webhooks.models.webhook import ACTION_FIELDS, TOKEN_FIELDS
from webhooks.models.webhook_secrets import CREDENTIAL_FIELDS
from webhooks.operations import files, manifest
from webhooks.operations.kinds import OF_WEBHOOK, RUN_KINDS
from webhooks.operations.webhooks import (
    PING_REFUSED,
    PING_WAITS,
    PINGED,
    ChangedMeanwhile,
    OutsidePermission,
    delete_webhooks,
    ping,
)
from webhooks.pages import try_it
from webhooks.pages.acts import SWITCHES, Switch
from webhooks.pages.forms import WebhookForm, initial_values
from webhooks.pages.forms.sections import BOXES, FORM
from webhooks.pages.forms.webhook import unused_fields
from webhooks.pages.webhook import WebhookPage
from webhooks.templatetags.webhooks_display import EMPTY, first_names, last_result, listed_state, short

# The address of the list may filter by these columns. With others a user could guess hidden values letter by letter.
ALLOWED_LOOKUPS = {"id__exact", "enabled__exact", "object_types__id__exact"}

# Fields that users without permission to change the webhook do not see.
HIDDEN = {*TOKEN_FIELDS, *BOXES, *chain.from_iterable(BOXES.values())}

# The parameter of the form for a new webhook: the key of the one to copy.
DUPLICATE = "duplicate"

Fieldset = tuple[Any, dict[str, Any]]

# An error report that Django mails must not contain the secrets.
hide_secrets = method_decorator(sensitive_post_parameters(*CREDENTIAL_FIELDS))


def press(switch: Switch, request: HttpRequest, chosen: QuerySet[Webhook]) -> None:
    """Change the chosen webhooks that the user may change, and show the result."""
    show(request, *switch.press(chosen, request.user))


def export(request: HttpRequest, chosen: QuerySet[Webhook]) -> HttpResponse:
    """A file for webhooks_apply, of the webhooks that the user may change: others may have tokens that are hidden."""
    webhooks = permissions.allowed(request.user, "change", chosen).prefetch_related("object_types").order_by("name")
    as_json = not files.HAS_YAML
    text, name = files.dump(manifest.document(webhooks), as_json), f"webhooks.{'json' if as_json else 'yaml'}"
    kind = "application/json" if as_json else "application/yaml"
    return HttpResponse(text, kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})


class WebhookList(ChangeList):
    """The list, read by indexes, with the webhooks that are silent."""

    def get_results(self, request: HttpRequest) -> None:
        with index_plans(self.queryset.db):
            super().get_results(request)
            self.result_list: Any = list(self.result_list)
        silences = read_unregistered(self.result_list)
        for webhook in self.result_list:
            webhook.silence = silences.get(webhook.pk)


class AdminWebhookForm(WebhookForm):
    """The form with the looks of the admin's inputs."""

    class Media:
        js = ("rq_webhooks/try_it.js",)

    def __init__(self, data: Any = None, files: Any = None, **kwargs: Any) -> None:
        super().__init__(data, files, **kwargs)  # named: Django's error reports would show ``*args``
        for name, field in self.fields.items():
            attrs, look = field.widget.attrs, "vURLField" if name == "payload_url" else "vTextField"
            if isinstance(field.widget, forms.Textarea):
                attrs["class"] = f"vLargeTextField {attrs.get('class', '')}".strip()
            elif isinstance(field.widget, forms.TextInput | forms.PasswordInput):
                attrs.setdefault("class", look)


@admin.register(Webhook)
class WebhookAdmin(ActingAdmin):
    form = AdminWebhookForm
    change_form_template = "rq_webhooks/admin/webhook/page.html"
    readonly_fields = ("redacted_url",)
    change_list_template = "rq_webhooks/admin/webhook/list.html"
    actions = (
        *(
            Act(switch.name, switch.action_label, partial(press, switch), "change", suffix="")
            for switch in SWITCHES.values()
        ),
        Act("export", gettext_lazy("Export the selected webhooks to a file"), export, "change", suffix=""),
    )
    sortable_by = ("name_and_url", "state")

    class Media:
        css: ClassVar = {"all": ["rq_webhooks/admin.css", "rq_webhooks/lists.css", "rq_webhooks/webhook.css"]}

    # The list

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        return lookup in ALLOWED_LOOKUPS and super().lookup_allowed(lookup, value, request)

    def get_search_fields(self, request: HttpRequest) -> tuple[str, ...]:
        return ("name", "payload_url") if permissions.may_search_urls(request.user) else ("name",)

    def get_list_display(self, request: HttpRequest) -> Any:
        counts = ("open", "failed") if permissions.may_view_deliveries(request.user) else ()
        return ("name_and_url", "state", "sends", *counts, "last_result")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Webhook]:
        webhooks: QuerySet[Webhook] = super().get_queryset(request)
        if permissions.is_restricted(request.user):
            webhooks = permissions.visible_webhooks(request.user, webhooks)
        elif not (self.has_view_permission(request) or self.has_delete_permission(request)):
            webhooks = webhooks.none()  # so that a page of a webhook is as unknown as one of none
        queue = permissions.visible_queue(request.user)
        return with_counts(webhooks, queue).prefetch_related("object_types")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[WebhookList]:
        return WebhookList

    @admin.display(description=gettext_lazy("webhook"), ordering="name")
    def name_and_url(self, webhook: Webhook) -> SafeString:
        url = short(url_policy.redacted(webhook.payload_url), 60)
        return format_html('<span class="wh-object">{}</span> <span class="wh-quiet">{}</span>', webhook.name, url)

    state = column(gettext_lazy("state"), listed_state, ordering="enabled")
    last_result = column(gettext_lazy("last result"), last_result)

    @admin.display(description=gettext_lazy("sends"))
    def sends(self, webhook: Webhook) -> SafeString:
        models = first_names(sorted(map(label_of, webhook.object_types.all()))) or EMPTY
        actions = ", ".join([*(str(action.label) for action in webhook.actions), *webhook.custom_events])
        return format_html('{} <span class="wh-quiet wh-below">{}</span>', models, actions)

    @admin.display(description=gettext_lazy("not sent yet"))
    def open(self, webhook: Any) -> SafeString | str:
        return _count_link(webhook, "open", open_count(webhook), _("not sent yet"))

    @admin.display(description=gettext_lazy("failed"))
    def failed(self, webhook: Any) -> SafeString | str:
        return _count_link(webhook, State.FAILED, webhook.failed, _("failed"))

    # Permissions

    def has_change_permission(self, request: HttpRequest, obj: Webhook | None = None) -> bool:
        return super().has_change_permission(request, obj) and (not obj or permissions.may(request.user, "change", obj))

    def has_delete_permission(self, request: HttpRequest, obj: Webhook | None = None) -> bool:
        return super().has_delete_permission(request, obj) and (not obj or permissions.may(request.user, "delete", obj))

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Webhook | None:
        with index_plans(Webhook.objects.db):
            return super().get_object(request, object_id, from_field)

    def _may_edit(self, request: HttpRequest, webhook: Webhook | None) -> bool:
        """Whether the form of this webhook, or of a new one, can be saved."""
        return self.has_change_permission(request, webhook) if webhook else self.has_add_permission(request)

    def _get(self, request: HttpRequest, object_id: str, may: Callable[..., bool] | None = None) -> Webhook:
        """The webhook, if the user may change it, or what ``may`` asks."""
        webhook: Webhook | None = self.get_object(request, object_id)
        if webhook is None:
            raise Http404(_("There is no webhook %(id)s.") % {"id": object_id})
        if not (may or self.has_change_permission)(request, webhook):
            raise PermissionDenied
        return webhook

    # Form

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)  # a new class for each request
        preview_url = reverse("admin:rq_webhooks_webhook_condition_preview")
        form.__init__ = partialmethod(form.__init__, user=request.user, preview_url=preview_url)  # type: ignore[assignment]
        return form

    def get_fieldsets(self, request: HttpRequest, obj: Webhook | None = None) -> Any:
        left_out, url = unused_fields(obj or Webhook()), "payload_url"
        if not self._may_edit(request, obj):
            left_out, url = left_out | HIDDEN, "redacted_url"
        return fieldsets(left_out, url)

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return initial_values(self._original(request)) | super().get_changeform_initial_data(request)

    def _original(self, request: HttpRequest) -> Webhook | None:
        """The webhook to copy. Its headers and templates need permission to change it."""
        original = Webhook.objects.filter(pk=as_key(request.GET.get(DUPLICATE, ""))).first()
        return original if original and self.has_change_permission(request, original) else None

    @admin.display(description=gettext_lazy("payload URL"))
    def redacted_url(self, webhook: Webhook) -> str:
        text = _("%(url)s (The full URL, the headers and the body template are %(who)s.)")
        return text % {"url": url_policy.redacted(webhook.payload_url), "who": redaction.WHO_SEES_ALL}

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> Any:
        webhook, shown = kwargs.get("obj"), context["adminform"]
        form, is_editable = shown.form, self._may_edit(request, webhook)
        described = form.instance if form.is_bound else webhook or Webhook()
        shown.fieldsets = describe(shown.fieldsets, described)
        context["original_of_copy"] = self._original(request) if webhook is None else None
        if is_editable:
            context["opened"] = form["opened"] if webhook else ""
            context["try_it"] = self._try_it(request, webhook)
        if webhook is not None:
            if form.is_bound:  # which has changed the webhook
                webhook = self.get_object(request, str(webhook.pk)) or webhook
            may_copy = is_editable and self.has_add_permission(request)
            page = WebhookPage(webhook, request.user)
            top = {
                "shown": page,
                "buttons": [(page_url(button.act, webhook), button.label, button.hint) for button in page.acts],
                "links": links(page, may_copy),
            }
            # The heading names the webhook. Django would write "Change webhook", and the name only in the tab.
            context |= {"title": webhook.name, "subtitle": None}
            context["health"] = part(request, "rq_webhooks/admin/webhook/health.html", top)
        return super().render_change_form(request, context, *args, **kwargs)

    @hide_secrets
    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().changeform_view(request, *args, **kwargs)
        except Webhook.DoesNotExist:
            messages.error(request, _("Nothing was saved: the webhook has been deleted."))
        except (ChangedMeanwhile, OutsidePermission) as refusal:
            messages.error(request, _("Nothing was saved. %(reason)s") % {"reason": refusal})
        return redirect("admin:rq_webhooks_webhook_changelist")

    def save_model(self, request: HttpRequest, obj: Webhook, form: Any, change: bool) -> None:
        form.save()
        if note := form.enabled_note():
            messages.warning(request, note)

    def save_related(self, *args: Any) -> None:
        """The form has saved the models."""

    def log_addition(self, *args: Any) -> Any:
        """``save_webhook`` has recorded it."""

    def log_change(self, *args: Any) -> Any:
        """The same."""

    def log_deletions(self, *args: Any) -> Any:
        """``delete_webhooks`` records it."""

    # Try it

    def _try_it(self, request: HttpRequest, webhook: Webhook | None, form: WebhookForm | None = None) -> SafeString:
        """The controls, and below them the result of the posted ``form``. ``webhook`` is the stored one."""
        url = page_url("try", webhook) if webhook else reverse("admin:rq_webhooks_webhook_try_new")
        posted = request.POST if form else None
        shown = try_it.panel(request.user, url, _searcher(request), webhook, form, posted)
        return part(request, try_it.TEMPLATE, shown)

    # A test waits for the receiver. A transaction would hold locks meanwhile.
    @method_decorator(transaction.non_atomic_requests)
    @hide_secrets
    def try_view(self, request: HttpRequest, object_id: str | None = None) -> HttpResponse:
        """Show the request of the posted form, and the answer to a test. Saves nothing."""
        webhook = self._get(request, object_id) if object_id else None
        if webhook is None and not self.has_add_permission(request):
            raise PermissionDenied
        return HttpResponse(self._try_it(request, webhook, self._form_to_try(request, webhook)))

    def _form_to_try(self, request: HttpRequest, webhook: Webhook | None) -> WebhookForm:
        """The posted form of this webhook, or of a new one. It is not saved."""
        form_class: Any = self.get_form(request, webhook, change=webhook is not None)
        return form_class(request.POST, request.FILES, instance=webhook, is_trial=True)  # type: ignore[no-any-return]

    # Test, runs and preview

    def get_urls(self) -> list[URLPattern]:
        wrap = self.admin_site.admin_view
        run = wrap(require_http_methods(["GET", "POST"])(self.run_view))
        preview, trial, ping = (wrap(require_POST(view)) for view in (self.preview_view, self.try_view, self.ping_view))

        def of_webhook(page: str, view: Any, **options: Any) -> Any:
            return path(f"<path:object_id>/{page}/", view, options, name=f"rq_webhooks_webhook_{page}")

        return [
            path("condition-preview/", preview, name="rq_webhooks_webhook_condition_preview"),
            path("try/", trial, name="rq_webhooks_webhook_try_new"),
            of_webhook("try", trial),
            of_webhook("ping", ping),
            *(of_webhook(kind, run, kind=kind) for kind in OF_WEBHOOK),
            *super().get_urls(),
        ]

    def preview_view(self, request: HttpRequest) -> HttpResponse:
        """Try the filters of the form on stored events."""
        if not (self.has_add_permission(request) or self.has_change_permission(request)):
            raise PermissionDenied
        return JsonResponse({"text": try_it.preview(self._form_to_try(request, None), request.user)})

    def ping_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Send a test event to the webhook."""
        webhook = self._get(request, object_id)
        if not webhook.enabled:
            messages.warning(request, PING_REFUSED)
            return redirect_back(request, "admin:rq_webhooks_webhook_change", webhook.pk)
        event = ping(webhook, request.user)
        if webhook.paused_at:
            messages.warning(request, PING_WAITS)
        text: Any = PINGED % {"name": webhook.name, "id": event.pk}
        if permissions.may_view_events(request.user):
            text = _('A test is on its way to “{}”. See <a href="{}">event {}</a>.')
            text = format_html(text, webhook.name, row_url("event", event.pk), event.pk)
        messages.success(request, text)
        return redirect_back(request, "admin:rq_webhooks_webhook_change", webhook.pk)

    # A dry run may read for seconds.
    @method_decorator(transaction.non_atomic_requests)
    def run_view(self, request: HttpRequest, object_id: str, kind: str) -> HttpResponse:
        """Choose the time of a recovery or backfill, see a preview, and begin it."""
        webhook = self._get(request, object_id, self.has_view_permission)
        return START_PAGES.of_webhook(request, webhook, RUN_KINDS[kind])

    # Deletion

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        chosen = Webhook.objects.filter(pk__in=[webhook.pk for webhook in objs])
        lines, totals = delete_preview(chosen, request.user)
        deletable = permissions.allowed(request.user, "delete", chosen).values_list("pk", flat=True)
        is_allowed = {webhook.pk for webhook in objs} == set(deletable)
        return lines, totals, set() if is_allowed else {"webhook"}, []

    def delete_model(self, request: HttpRequest, obj: Webhook) -> None:
        delete_webhooks(Webhook.objects.filter(pk=obj.pk), request.user)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Webhook]) -> None:
        delete_webhooks(Webhook.objects.filter(pk__in=queryset.values("pk")), request.user)


def _count_link(webhook: Webhook, state: str, count: int, label: str) -> SafeString | str:
    """A count as a link to the list of these deliveries. ``label`` is for small screens without columns."""
    url = list_url("delivery", webhook=webhook.pk, state=state)
    text = '<a class="wh-count" data-wh-label="{}" href="{}">{}</a>'
    return format_html(text, label, url, number(count, EACH_CAP)) if count else EMPTY


def _searcher(request: HttpRequest) -> Any:
    """Searches as the model's own admin pages do."""

    def search(model: type[Any], rows: QuerySet[Any], term: str) -> QuerySet[Any]:
        try:
            own_admin = admin.site.get_model_admin(model)
        except NotRegistered:
            return rows.none()
        if not own_admin.get_search_fields(request):
            return rows.none()
        matches, _may_repeat = own_admin.get_search_results(request, rows, term)
        # A host's own search may add objects that the user may not view.
        return rows.filter(pk__in=matches.values("pk"))

    return search


def delete_preview(webhooks: QuerySet[Webhook], user: Any) -> tuple[list[str | list[str]], dict[str, int]]:
    """A preview of a deletion: lines for each webhook, and totals.

    Deliveries that the user may not view are not counted.
    """
    is_partial = permissions.is_partial(user) or not permissions.may_view_deliveries(user)
    visible = Q(deliveries__in=permissions.visible_deliveries(user)) if is_partial else Q()
    counted = webhooks.order_by("name").annotate(
        total=Count("deliveries", filter=visible),
        unsent=Count("deliveries", filter=visible & Q(deliveries__queued__state__in=OPEN_STATES)),
        failed=Count("deliveries", filter=visible & Q(deliveries__queued__state=State.FAILED)),
    )
    lines: list[str | list[str]] = []
    webhook_count = delivery_count = 0
    for name, total, unsent, failed in counted.values_list("name", "total", "unsent", "failed"):
        text = _("%(deliveries)s with all attempts.")
        if unsent or failed:
            text = _("%(deliveries)s (%(unsent)s not sent yet, %(failed)s failed) with all attempts.")
        text %= {"deliveries": count_of(total, "delivery"), "unsent": number(unsent), "failed": number(failed)}
        hidden = _("Deliveries of objects that you may not view are deleted, too.") if is_partial else ""
        lines += [_("Webhook: %(name)s") % {"name": name}, [f"{text} {hidden}".strip()]]
        webhook_count += 1
        delivery_count += total
    return lines, {_("webhooks"): webhook_count, _("deliveries"): delivery_count}


# The top of the page


def links(shown: WebhookPage, may_copy: bool) -> list[tuple[str, str]]:
    """The addresses and labels of the pages that begin with this webhook, as far as the user may see them."""
    webhook = shown.webhook
    links = [(page_url(button.act, webhook), button.label) for button in shown.runs]
    if may_copy:
        links.append((f"{reverse('admin:rq_webhooks_webhook_add')}?{DUPLICATE}={webhook.pk}", _("Duplicate")))
    with suppress(NoReverseMatch):  # the site may leave out webhooks.urls
        links.append((f"{reverse('webhooks_why')}?webhook={webhook.pk}", _("Why didn't it fire?")))
    return links


# The sections of the form


def fieldsets(left_out: Collection[str], url: str) -> list[Fieldset]:
    """All sections, closed, without the fields of ``left_out``. ``url`` is the field that shows the URL."""
    in_line = dict.fromkeys(ACTION_FIELDS, tuple(ACTION_FIELDS))
    fieldsets: list[Fieldset] = []
    for section in FORM:
        names = [name for name in section.fields if name not in left_out]
        shown = dict.fromkeys(url if name == "payload_url" else in_line.get(name, name) for name in names)
        options = {"fields": list(shown), "classes": ["collapse"] if section.summary else []}
        fieldsets.append((section.title or None, options))
    return fieldsets


def describe(sections: Sequence[Fieldset], webhook: Webhook) -> list[Fieldset]:
    """The sections with a line about the values of the webhook in each title. A section with a value that is not the
    default is open."""
    by_title = {section.title: section for section in FORM if section.summary}
    fieldsets: list[Fieldset] = []
    for title, options in sections:
        if section := by_title.get(title):
            shown = capfirst(", ".join(part for part in section.summary(webhook) if part))  # type: ignore[misc]
            if any(_is_changed(webhook, name) for name in options["fields"]):
                options = options | {"classes": []}
            changed = _("Changed and not saved yet")
            title = format_html('{} <span class="wh-summary" data-changed="{}">{}</span>', title, changed, shown)
        fieldsets.append((title, options))
    return fieldsets


def _is_changed(webhook: Webhook, name: str | tuple[str, ...]) -> bool:
    """Whether a field shows a value that is not its default."""
    column: Any = {field.name: field for field in Webhook._meta.fields}.get(name)  # type: ignore[arg-type]
    if column is None or name in CREDENTIAL_FIELDS:
        return False
    return (getattr(webhook, column.name) or None) != (column.get_default() or None)
