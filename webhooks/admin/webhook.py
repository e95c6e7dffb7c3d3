"""Webhooks: what an admin defines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.utils import flatten
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST

from webhooks import permissions
from webhooks.admin import condition_preview, counts, delete_preview, diagnostics, switches
from webhooks.admin.columns import IN_WORDS, DescribedWebhook
from webhooks.admin.display import count_of, undisguised
from webhooks.admin.forms import WebhookForm, offered
from webhooks.admin.overview import standing_of
from webhooks.capture import recording
from webhooks.models import Event, Webhook
from webhooks.models.validation import CONFLICT
from webhooks.models.webhook import ACTION_FIELDS
from webhooks.operations.webhooks import delete_webhooks, ping

# By what the address of the list may ask for webhooks.
ASKED_FOR = {"id", "pk", "name", "enabled", "object_types", *ACTION_FIELDS}

DEMANDS = ("conditions", "changed_fields", "only_changes", "prechange")
CONNECTION = ("ssl_verification", "ca_file_path", "timeout", "ordered")


@admin.register(Webhook)
class WebhookAdmin(DescribedWebhook, admin.ModelAdmin):
    form = WebhookForm
    change_form_template = "webhooks/admin/webhook.html"
    actions = ("enable", "disable", "resume")
    sortable_by = ("called", "state")

    class Media:
        css: ClassVar = {"all": ["webhooks/admin.css"]}

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """What is hidden from who may only view must not be asked for letter by letter either, nor may the database be
        given patterns to run, or what it does not take."""
        field, *more = lookup.split("__")
        values = value if isinstance(value, list) else [value]
        is_plain = {"id", "exact"}.issuperset(more) and not any("\0" in str(one) for one in values)
        return field in ASKED_FOR and is_plain and super().lookup_allowed(lookup, value, request)

    def get_search_fields(self, request: HttpRequest) -> tuple[str, ...]:
        return ("name", "payload_url") if permissions.may_change_all_webhooks(request.user) else ("name",)

    def get_list_display(self, request: HttpRequest) -> Any:
        counts = ("open", "failed") if permissions.may_view_deliveries(request.user) else ()
        return ("called", "state", "sends", *counts, "last_result")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Webhook]:
        deliveries = permissions.visible_deliveries(request.user)
        webhooks: QuerySet[Webhook] = super().get_queryset(request)
        if permissions.is_restricted(request.user):
            webhooks = permissions.visible_webhooks(request.user, webhooks)
        return counts.with_tallies(webhooks, deliveries).prefetch_related("object_types")

    def has_change_permission(self, request: HttpRequest, obj: Webhook | None = None) -> bool:
        return super().has_change_permission(request, obj) and _may(request, "change", obj)

    def has_delete_permission(self, request: HttpRequest, obj: Webhook | None = None) -> bool:
        return super().has_delete_permission(request, obj) and _may(request, "delete", obj)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        return type(form.__name__, (form,), {"user": request.user})

    def get_fieldsets(self, request: HttpRequest, obj: Webhook | None = None) -> Any:
        may_edit = self.has_change_permission(request, obj) if obj else self.has_add_permission(request)
        if not may_edit:
            return self._fieldsets(obj, **IN_WORDS)
        secret = ["secret"]
        if obj and obj.secret:
            secret.append("clear_secret")
        if obj and obj.previous_secret and obj.previous_secret_until:
            secret.append("forget_previous_secret")
        hidden = ["secret_headers", "clear_secret_headers"] if obj and obj.secret_headers else ["secret_headers"]
        return self._fieldsets(obj, secret=secret, secret_headers=hidden)

    def _fieldsets(
        self,
        obj: Webhook | None,
        secret: Sequence[str],
        secret_headers: Sequence[str],
        models: str = "object_types",
        url: str = "payload_url",
        headers: str = "additional_headers",
        body: str = "body_template",
    ) -> Any:
        return (
            (None, {"fields": ("name", "enabled")}),
            ("Events", {"fields": (models, tuple(ACTION_FIELDS), *offered(obj))}),
            ("Filters", {"fields": (*DEMANDS, "excluded_usernames")}),
            ("Destination", {"fields": (url, "http_method", *secret)}),
            ("Headers and body", {"fields": ("content_type", headers, *secret_headers, body)}),
            ("Sending", {"fields": CONNECTION}),
        )

    # What is not a form shows nothing that deceives; a form gives back what is in it.

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return undisguised(super().changelist_view(request, *args, **kwargs))

    def history_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return undisguised(super().history_view(request, *args, **kwargs))

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return undisguised(super().delete_view(request, *args, **kwargs))

    def get_readonly_fields(self, request: HttpRequest, obj: Webhook | None = None) -> Any:
        return flatten(tuple(IN_WORDS.values()))

    # What changes

    @method_decorator(sensitive_post_parameters("secret", "secret_headers"))
    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        # Where something goes wrong, the report that is mailed to the admins has no secret in it.
        try:
            return super().changeform_view(request, *args, **kwargs)
        except Webhook.DoesNotExist:
            messages.error(request, "Nothing was saved: the webhook was deleted meanwhile.")
        except IntegrityError:
            messages.error(request, f"Nothing was saved. {CONFLICT}")
        return redirect("admin:webhooks_webhook_changelist")

    def save_model(self, request: HttpRequest, obj: Webhook, form: Any, change: bool) -> None:
        if change:
            obj.save_settings(form.changed_settings)
            if obj.enabled != form.cleaned_data["enabled"]:
                switches.tell_of_another(request, obj)
        else:
            super().save_model(request, obj, form, change)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        if not _may(request, "change" if change else "add", form.instance):
            raise PermissionDenied("You may not have a webhook that is as this one would be.")
        if form.instance.enabled:
            recording.wake_on_commit()

    @admin.action(description="Enable the selected webhooks", permissions=["change"])
    def enable(self, request: HttpRequest, chosen: QuerySet[Webhook]) -> None:
        switches.turn(request, _changeable(request, chosen), enabled=True)

    @admin.action(description="Disable the selected webhooks", permissions=["change"])
    def disable(self, request: HttpRequest, chosen: QuerySet[Webhook]) -> None:
        switches.turn(request, _changeable(request, chosen), enabled=False)

    @admin.action(description="Resume the selected webhooks now", permissions=["change"])
    def resume(self, request: HttpRequest, chosen: QuerySet[Webhook]) -> None:
        switches.resume(request, _changeable(request, chosen))

    # A test

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(require_POST(self._ping))
        trying = self.admin_site.admin_view(require_POST(self._try))
        return [
            path("try/", trying, name="webhooks_webhook_try"),
            path("<path:object_id>/ping/", view, name="webhooks_webhook_ping"),
            *super().get_urls(),
        ]

    def _try(self, request: HttpRequest) -> HttpResponse:
        """What the demands in the form would have come to, judged over events on file."""
        if not (self.has_add_permission(request) or self.has_change_permission(request)):
            raise PermissionDenied
        if not permissions.may_view_events(request.user):
            return JsonResponse({"text": "Trying them takes the permission to view Events (webhooks.view_event)."})
        return JsonResponse({"text": condition_preview.in_words(request)})

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> Any:
        webhook = self.get_object(request, object_id)
        may_ping = webhook is not None and webhook.enabled and self.has_change_permission(request, webhook)
        found = diagnostics.of_webhook(standing_of(webhook), timezone.now()) if webhook else []
        context = {"may_ping": may_ping, "findings": found}
        return super().change_view(request, object_id, form_url, (extra_context or {}) | context)

    def _ping(self, request: HttpRequest, object_id: str) -> HttpResponse:
        webhook = self.get_object(request, object_id)
        if webhook is None:
            raise Http404(f"There is no webhook {object_id}.")
        if not self.has_change_permission(request, webhook):
            raise PermissionDenied
        if webhook.enabled:
            event = ping(webhook)
            self.log_change(request, webhook, "Sent a test.")
            messages.success(request, _under_way(request.user, event))
        else:
            messages.warning(request, "Nothing is sent to a disabled webhook: enable it first.")
        return redirect("admin:webhooks_webhook_change", webhook.pk)

    # What is deleted

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        chosen = Webhook.objects.filter(pk__in=[webhook.pk for webhook in objs])
        lines, totals = delete_preview.in_words(chosen, request.user)
        deletable = permissions.allowed(request.user, "delete", chosen).values_list("pk", flat=True)
        allowed = {webhook.pk for webhook in objs} == set(deletable)
        return lines, totals, set() if allowed else {"webhook"}, []

    def delete_model(self, request: HttpRequest, obj: Webhook) -> None:
        delete_webhooks(Webhook.objects.filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Webhook]) -> None:
        delete_webhooks(Webhook.objects.filter(pk__in=queryset.values("pk")))


def _may(request: HttpRequest, action: str, webhook: Webhook | None) -> bool:
    """Whether the user, who has the permission for the model, may do this to a webhook as it is stored."""
    return webhook is None or permissions.may(request.user, action, webhook)


def _changeable(request: HttpRequest, chosen: QuerySet[Webhook]) -> QuerySet[Webhook]:
    """Those of the chosen webhooks that the user may change. Says how many are left."""
    changeable = permissions.allowed(request.user, "change", chosen)
    if left := chosen.count() - changeable.count():
        messages.warning(request, f"You may not change {count_of(left, 'webhook')} of these.")
    return changeable


def _under_way(user: Any, event: Event) -> SafeString | str:
    if not permissions.may_view_events(user):
        return f"A test is on its way: event {event.pk}."
    page = reverse("admin:webhooks_event_change", args=[event.pk])
    shows = "shows its delivery" if permissions.may_view_deliveries(user) else "is what it tells"
    return format_html('A test is on its way: <a href="{}">event {}</a> {}.', page, event.pk, shows)
