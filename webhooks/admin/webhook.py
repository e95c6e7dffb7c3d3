"""The pages of webhooks: list, form, test and deletion."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST

from webhooks import permissions
from webhooks.admin import actions
from webhooks.admin.columns import READ_ONLY, WebhookColumns
from webhooks.admin.condition_preview import condition_preview
from webhooks.admin.counts import with_counts
from webhooks.admin.diagnostics import diagnose_webhook
from webhooks.admin.display import EscapeInvisibleMixin, count_of
from webhooks.admin.forms import WebhookForm, optional_fields
from webhooks.capture import recording
from webhooks.models import Webhook
from webhooks.models.validation import CONFLICT
from webhooks.models.webhook import ACTION_FIELDS
from webhooks.operations.webhooks import delete_webhooks, ping

# The address of the list may filter by these columns.
ALLOWED_LOOKUPS = {"id", "pk", "name", "enabled", "object_types", *ACTION_FIELDS}


@admin.register(Webhook)
class WebhookAdmin(WebhookColumns, EscapeInvisibleMixin, admin.ModelAdmin):
    form = WebhookForm
    change_form_template = "webhooks/admin/webhook.html"
    actions = ("enable", "disable", "resume")
    sortable_by = ("name_and_url", "state")

    class Media:
        css: ClassVar = {"all": ["webhooks/admin.css"]}

    # Permissions

    def has_change_permission(self, request: HttpRequest, obj: Webhook | None = None) -> bool:
        return super().has_change_permission(request, obj) and _may(request, "change", obj)

    def has_delete_permission(self, request: HttpRequest, obj: Webhook | None = None) -> bool:
        return super().has_delete_permission(request, obj) and _may(request, "delete", obj)

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Allow exact lookups of a few columns. With others a user could guess hidden values letter by letter."""
        field, *more = lookup.split("__")
        values = value if isinstance(value, list) else [value]
        is_plain = {"id", "exact"}.issuperset(more) and not any("\0" in str(one) for one in values)
        return field in ALLOWED_LOOKUPS and is_plain and super().lookup_allowed(lookup, value, request)

    # List

    def get_search_fields(self, request: HttpRequest) -> tuple[str, ...]:
        return ("name", "payload_url") if permissions.may_change_all_webhooks(request.user) else ("name",)

    def get_list_display(self, request: HttpRequest) -> Any:
        counts = ("open", "failed") if permissions.may_view_deliveries(request.user) else ()
        return ("name_and_url", "state", "sends", *counts, "last_result")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Webhook]:
        webhooks: QuerySet[Webhook] = super().get_queryset(request)
        if permissions.is_restricted(request.user):
            webhooks = permissions.visible_webhooks(request.user, webhooks)
        deliveries = permissions.visible_deliveries(request.user)
        return with_counts(webhooks, deliveries).prefetch_related("object_types")

    @admin.action(description="Enable the selected webhooks", permissions=["change"])
    def enable(self, request: HttpRequest, chosen: QuerySet[Webhook]) -> None:
        actions.set_enabled(request, _changeable(request, chosen), enabled=True)

    @admin.action(description="Disable the selected webhooks", permissions=["change"])
    def disable(self, request: HttpRequest, chosen: QuerySet[Webhook]) -> None:
        actions.set_enabled(request, _changeable(request, chosen), enabled=False)

    @admin.action(description="Resume the selected webhooks now", permissions=["change"])
    def resume(self, request: HttpRequest, chosen: QuerySet[Webhook]) -> None:
        actions.resume(request, _changeable(request, chosen))

    # Form

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        return type(form.__name__, (form,), {"user": request.user})

    def get_readonly_fields(self, request: HttpRequest, obj: Webhook | None = None) -> Any:
        return tuple(READ_ONLY.values())

    def get_fieldsets(self, request: HttpRequest, obj: Webhook | None = None) -> Any:
        secrets, headers = ["secret"], ["secret_headers"]
        is_editable = self.has_change_permission(request, obj) if obj else self.has_add_permission(request)
        if obj and is_editable:
            if obj.secret:
                secrets.append("clear_secret")
            if obj.previous_secret and obj.previous_secret_until:
                secrets.append("forget_previous_secret")
            if obj.secret_headers:
                headers.append("clear_secret_headers")
        fieldsets = (
            (None, ["name", "enabled"]),
            ("Events", ["object_types", tuple(ACTION_FIELDS), *optional_fields(obj)]),
            ("Filters", ["conditions", "changed_fields", "only_changes", "prechange", "excluded_usernames"]),
            ("Destination", ["payload_url", "http_method", *secrets]),
            ("Headers and body", ["content_type", "additional_headers", *headers, "body_template"]),
            ("Sending", ["ssl_verification", "ca_file_path", "timeout", "ordered"]),
        )
        replaced: dict[Any, Any] = {} if is_editable else READ_ONLY
        return [(title, {"fields": [replaced.get(name, name) for name in names]}) for title, names in fieldsets]

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> Any:
        webhook = self.get_object(request, object_id)
        context = {
            "may_ping": webhook is not None and webhook.enabled and self.has_change_permission(request, webhook),
            "problems": list(diagnose_webhook(webhook, timezone.now())) if webhook else [],
        }
        return super().change_view(request, object_id, form_url, (extra_context or {}) | context)

    # An error report that Django mails must not contain the secrets.
    @method_decorator(sensitive_post_parameters("secret", "secret_headers"))
    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().changeform_view(request, *args, **kwargs)
        except Webhook.DoesNotExist:
            messages.error(request, "Nothing was saved: the webhook has been deleted.")
        except IntegrityError:
            messages.error(request, f"Nothing was saved. {CONFLICT}")
        return redirect("admin:webhooks_webhook_changelist")

    def save_model(self, request: HttpRequest, obj: Webhook, form: Any, change: bool) -> None:
        if not change:
            super().save_model(request, obj, form, change)
            return
        obj.save_settings(form.changed_settings)
        if obj.enabled != form.cleaned_data["enabled"]:
            state = "enabled" if obj.enabled else "disabled"
            reason = f" ({obj.disabled_reason})" if obj.disabled_reason else ""
            text = f"“{obj}” was {state}{reason} while its form was open. It stays {state}: change that if you want to."
            messages.warning(request, text)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        if not _may(request, "change" if change else "add", form.instance):
            raise PermissionDenied("You do not have permission for the webhook as you want to save it.")
        if form.instance.enabled:
            recording.wake_on_commit()

    # Test and preview

    def get_urls(self) -> list[URLPattern]:
        preview = self.admin_site.admin_view(require_POST(self.preview_view))
        test = self.admin_site.admin_view(require_POST(self.ping_view))
        return [
            path("try/", preview, name="webhooks_webhook_try"),
            path("<path:object_id>/ping/", test, name="webhooks_webhook_ping"),
            *super().get_urls(),
        ]

    def preview_view(self, request: HttpRequest) -> HttpResponse:
        """Try the filters of the form on stored events."""
        if not (self.has_add_permission(request) or self.has_change_permission(request)):
            raise PermissionDenied
        if not permissions.may_view_events(request.user):
            return JsonResponse({"text": "You need permission to view events (webhooks.view_event) to try them."})
        return JsonResponse({"text": condition_preview(request)})

    def ping_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Send a test event to the webhook."""
        webhook = self.get_object(request, object_id)
        if webhook is None:
            raise Http404(f"There is no webhook {object_id}.")
        if not self.has_change_permission(request, webhook):
            raise PermissionDenied
        if not webhook.enabled:
            messages.warning(request, "The webhook is disabled. Enable it before you send a test.")
            return redirect("admin:webhooks_webhook_change", webhook.pk)
        event = ping(webhook)
        self.log_change(request, webhook, "Sent a test.")
        text: Any = f"The test is on its way: event {event.pk}."
        if permissions.may_view_events(request.user):
            url = reverse("admin:webhooks_event_change", args=[event.pk])
            text = format_html('The test is on its way. See <a href="{}">event {}</a>.', url, event.pk)
        messages.success(request, text)
        return redirect("admin:webhooks_webhook_change", webhook.pk)

    # Deletion

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        chosen = Webhook.objects.filter(pk__in=[webhook.pk for webhook in objs])
        lines, totals = actions.delete_preview(chosen, request.user)
        deletable = permissions.allowed(request.user, "delete", chosen).values_list("pk", flat=True)
        is_allowed = {webhook.pk for webhook in objs} == set(deletable)
        return lines, totals, set() if is_allowed else {"webhook"}, []

    def delete_model(self, request: HttpRequest, obj: Webhook) -> None:
        delete_webhooks(Webhook.objects.filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Webhook]) -> None:
        delete_webhooks(Webhook.objects.filter(pk__in=queryset.values("pk")))


def _may(request: HttpRequest, action: str, webhook: Webhook | None) -> bool:
    """Whether the user may do this to the webhook as stored. Assumes the permission for the model."""
    return webhook is None or permissions.may(request.user, action, webhook)


def _changeable(request: HttpRequest, chosen: QuerySet[Webhook]) -> QuerySet[Webhook]:
    """The chosen webhooks that the user may change. Warns about the number of skipped ones."""
    changeable = permissions.allowed(request.user, "change", chosen)
    if skipped := chosen.count() - changeable.count():
        messages.warning(request, f"You do not have permission to change {count_of(skipped, 'webhook')} of these.")
    return changeable
