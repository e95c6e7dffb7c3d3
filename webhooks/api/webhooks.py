"""Webhooks in the REST API: define, test, pause and delete them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from django.core.exceptions import NON_FIELD_ERRORS
from django.core.exceptions import ValidationError as ModelValidationError
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import QueryDict
from django.utils.crypto import salted_hmac
from django.utils.decorators import method_decorator
from django.utils.http import parse_etags
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound, PermissionDenied
from rest_framework.generics import get_object_or_404
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.settings import api_settings
from rest_framework.utils.encoders import JSONEncoder
from rest_framework.viewsets import ModelViewSet

from webhooks.api.base import Conflict, PreconditionFailed, QueryFilters, StrictViewSet, redaction_of, refuse_body
from webhooks.api.fields import (
    ChoiceField,
    DisabledReasonField,
    ErrorKindField,
    IsSetField,
    MethodField,
    NamedSerializer,
    ObjectTypesField,
    ReadOnlySerializer,
    RowSerializer,
    SecretField,
    TextListField,
    extend_schema,
    extend_schema_view,
    header,
    refuse_unknown,
)
from webhooks.ground import registry
from webhooks.ground.security.encryption import Secret
from webhooks.models import Event, Webhook, permissions
from webhooks.models.webhook import ACTION_FIELDS, SETTINGS, TOKEN_FIELDS
from webhooks.models.webhook_secrets import CREDENTIAL_FIELDS, SECRET_FIELDS, SENT_CREDENTIALS
from webhooks.models.webhook_states import IS_PAUSED
from webhooks.operations import edits
from webhooks.operations.webhooks import (
    PING_REFUSED,
    ChangedMeanwhile,
    OutsidePermission,
    StaleSettings,
    check_webhook,
    delete_webhooks,
    pause,
    ping,
    resume,
    save_webhook,
    why_not_started,
)

DELETED = _("The webhook was deleted meanwhile.")

# A PUT that leaves them out keeps them.
KEPT = {*SECRET_FIELDS, "identifier"}


class WebhookSerializer(RowSerializer[Webhook]):
    """Without permission to change the webhook, a user sees scheme, host and port of its URL, and null for its
    additional headers and body template: these may contain tokens. The secret and the secret headers are write-only."""

    object_types = ObjectTypesField(required=False)
    custom_events = TextListField(required=False)
    changed_fields = TextListField(required=False)
    excluded_usernames = TextListField(required=False)
    http_method = MethodField(required=False)
    error_kind = ErrorKindField(read_only=True)
    disabled_reason = DisabledReasonField(read_only=True)
    unreadable = serializers.ReadOnlyField(help_text=_("Secrets that cannot be decrypted: nothing is sent."))
    unregistered = serializers.SerializerMethodField(
        help_text=_("Its models and custom events that are not registered: nothing of them is sent.")
    )
    forget_previous_secret = serializers.BooleanField(write_only=True, required=False)

    class Meta:
        model = Webhook
        extra_kwargs = {name: {"allow_null": True} for name in TOKEN_FIELDS}
        fields = (
            "id", *SETTINGS,
            *(f"has_{name}" for name in CREDENTIAL_FIELDS),
            "previous_secret_until", "forget_previous_secret", "unreadable",
            "unregistered", "is_paused", "paused_at", "paused_by", "disabled_reason",
            "last_success_at", "last_failure_at", "last_failure", "error_kind",
            "created", "last_updated",
        )  # fmt: skip

    def build_field(self, field_name: str, *args: Any) -> Any:
        if field_name in CREDENTIAL_FIELDS:
            column: Any = Webhook._meta.get_field(field_name)
            options = {"max_length": column.max_length, "trim_whitespace": field_name not in SENT_CREDENTIALS}
            return SecretField, options
        if (secret := field_name.removeprefix("has_")) in CREDENTIAL_FIELDS:
            return IsSetField, {"source": secret}
        return super().build_field(field_name, *args)

    def get_unregistered(self, webhook: Webhook) -> list[str]:
        events = registry.unregistered_events(webhook.custom_events, webhook.identifier)
        return [*registry.unregistered(map(registry.label_of, webhook.object_types.all())), *events]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.instance!r}>"  # REST framework's own shows the request's data

    def run_validation(self, data: Any = serializers.empty) -> Any:
        if isinstance(data, dict):
            # Error reports show the variables of each call, so wrap secrets first. The copy stays a form if it is one.
            secrets = {name: Secret(data[name]) for name in SECRET_FIELDS if isinstance(data.get(name), str)}
            data = copy.copy(data)
            for name, secret in secrets.items():
                if isinstance(data, QueryDict) and not secret.reveal().strip():
                    del data[name]  # REST framework's own form sends it empty: it never shows the stored one
                else:
                    data[name] = secret
        return super().run_validation(data)

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            names = set(data)
            if isinstance(data, QueryDict):  # a form numbers the items of a list, and has Django's token
                names = {name.partition("[")[0] for name in names} - {"csrfmiddlewaretoken"}
            refuse_unknown(names, self.fields, "field")
        values = super().to_internal_value(data)
        if self.instance and isinstance(data, QueryDict):
            stored = {name: getattr(self.instance, name, None) for name in values}
            values |= {name: text for name, text in stored.items() if edits.is_posted_back(values[name], text)}
        elif self.instance and not self.partial:  # the forms of REST framework have no lists, so they are no whole
            values = {name: value for name, value in self._defaults().items() if name not in data} | values
        # Users without permission to change the webhook get null, and a null leaves the field as it is.
        return {name: value for name, value in values.items() if name not in TOKEN_FIELDS or value is not None}

    def _defaults(self) -> dict[str, Any]:
        """The values of the settings that a PUT leaves out."""
        optional = {name for name, field in self.fields.items() if not (field.read_only or field.required)}
        columns = [field for field in Webhook._meta.concrete_fields if field.name in optional - KEPT]
        return {field.name: field.get_default() for field in columns} | {"object_types": []}

    def get_initial(self) -> Any:
        # The browsable API fills a refused form with this.
        return {name: value for name, value in super().get_initial().items() if name not in SECRET_FIELDS}

    def to_representation(self, instance: Webhook) -> Any:
        shown, redacted = super().to_representation(instance), redaction_of(self)
        shown["payload_url"] = redacted.url(instance.pk, instance.payload_url)
        return shown if redacted.may_change(instance.pk) else shown | dict.fromkeys(TOKEN_FIELDS)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """As the admin does: both accept the same."""
        chosen = {name: attrs.pop(name) for name in ("object_types",) if name in attrs}
        webhook, user = self.instance or Webhook(), self.context["request"].user
        try:
            return check_webhook(webhook, attrs, chosen.get("object_types"), user) | chosen
        except Webhook.DoesNotExist:
            raise NotFound(DELETED) from None
        except ModelValidationError as error:
            errors: dict[str, Any] = serializers.as_serializer_error(error)
            if NON_FIELD_ERRORS in errors:
                errors[api_settings.NON_FIELD_ERRORS_KEY] = errors.pop(NON_FIELD_ERRORS)
            raise serializers.ValidationError(errors) from error


class WebhookSummarySerializer(ReadOnlySerializer[Webhook]):
    class Meta:
        model = Webhook
        fields = ("id", "name")


class WebhookFilters(QueryFilters):
    name = serializers.CharField(required=False, help_text=_("The whole name."))
    identifier = serializers.CharField(required=False, help_text=_("The whole identifier."))
    q = serializers.CharField(
        source="name__icontains", required=False, help_text=_("A part of the name, in capital or small letters.")
    )
    enabled = serializers.BooleanField(required=False, help_text=_("Whether it is enabled."))
    paused = serializers.BooleanField(required=False, help_text=_("Whether it is paused: by a user, or for failures."))
    failing = serializers.BooleanField(required=False, help_text=_("Whether its last attempt failed."))
    object_type = serializers.CharField(required=False, help_text=_("A model that it sends, such as dcim.site."))
    action = ChoiceField(list(ACTION_FIELDS.values()), required=False, help_text=_("An action that it sends."))

    def narrow(self, queryset: Any) -> Any:
        given = dict(self.validated_data)
        for name, condition in (("paused", IS_PAUSED), ("failing", Q(failures_in_a_row__gt=0))):
            if name in given:
                queryset = queryset.filter(condition if given.pop(name) else ~condition)
        if "object_type" in given:
            app_label, _dot, model = given.pop("object_type").lower().partition(".")
            given |= {"object_types__app_label": app_label, "object_types__model": model}
        if "action" in given:
            given[f"on_{given.pop('action')}"] = True
        return queryset.filter(**given)


class PingedSerializer(NamedSerializer):
    """The result of a test."""

    event = serializers.IntegerField(help_text=_("The id of the test event. Its delivery has the result."))


CHANGING = ("PUT", "PATCH", "DELETE")
CHANGED = _(
    "Nothing was saved: the settings of the webhook changed since you read them. Read it again, and repeat your change "
    "with its new ETag."
)
IF_MATCH = header(
    "If-Match", _("The ETag of the response that you read. If the settings changed since, the answer is 412.")
)
ETAG = header("ETag", _("Give it as If-Match with your next change."), of_response=True)


@extend_schema_view(
    list=extend_schema(parameters=[WebhookFilters]),
    create=extend_schema(parameters=[ETAG]),
    retrieve=extend_schema(parameters=[ETAG]),
    update=extend_schema(parameters=[IF_MATCH, ETAG], responses=dict.fromkeys((200, 201), WebhookSerializer)),
    partial_update=extend_schema(parameters=[IF_MATCH, ETAG]),
    destroy=extend_schema(parameters=[IF_MATCH]),
)
@method_decorator(sensitive_post_parameters(*CREDENTIAL_FIELDS), name="dispatch")
class WebhookViewSet(StrictViewSet, ModelViewSet[Webhook]):
    """Webhooks: the changes to send, and the URL of the receiver."""

    queryset = Webhook.objects.all()
    serializer_class = WebhookSerializer
    filters_class = WebhookFilters
    shown: Webhook | None = None
    """The webhook in the response, if it has one."""

    def get_object(self) -> Webhook:
        if not self._has_key:
            if "\0" in self.kwargs["pk"]:  # PostgreSQL refuses it
                raise NotFound
            self.lookup_field, self.lookup_url_kwarg = "identifier", "pk"
        webhook: Webhook = super().get_object()
        self._refuse_changed(webhook)
        self.shown = webhook
        return webhook

    @property
    def _has_key(self) -> bool:
        """Whether the URL has the id of a webhook. Else it has the identifier, which begins with a letter."""
        return bool(self.kwargs["pk"].isdecimal())

    def update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Change a webhook. A PUT to an identifier that no webhook has creates one."""
        identifier = self.kwargs["pk"]
        is_partial = kwargs.get("partial", False)
        creates_none = is_partial or self._has_key or "\0" in identifier
        if creates_none or Webhook.objects.filter(identifier=identifier).exists():
            return super().update(request, *args, **kwargs)
        if not permissions.has_perm(request.user, "rq_webhooks.add_webhook"):
            raise PermissionDenied
        if "If-Match" in request.headers:
            raise PreconditionFailed(CHANGED)
        given = request.data.copy() if isinstance(request.data, Mapping) else request.data
        if isinstance(given, dict) and given.setdefault("identifier", identifier) != identifier:
            raise serializers.ValidationError({"identifier": [_("The URL has another identifier.")]})
        serializer = self.get_serializer(data=given)
        serializer.is_valid(raise_exception=True)
        self.perform_create(serializer)
        return Response(serializer.data, status=HTTPStatus.CREATED)

    def _refuse_changed(self, webhook: Webhook) -> None:
        """Raise PreconditionFailed if a change has a tag of other settings. It leaves out what workers write."""
        tags = self._given_tags()
        if tags is not None and self.request.method in CHANGING and edits.settings_tag(webhook) not in tags:
            raise PreconditionFailed(CHANGED)

    def _given_tags(self) -> list[str] | None:
        """The tags of settings in ``If-Match``. None if any settings will do."""
        given = self.request.headers.get("If-Match", "*")
        # A proxy that compresses a response makes its tag weak.
        tags = [tag.removeprefix("W/").strip('"').partition("-")[0] for tag in parse_etags(given)]
        return None if given.strip() == "*" else tags

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        """Add the tag of the settings, and after a dash the one of the whole response, for caches."""
        response = super().finalize_response(request, response, *args, **kwargs)
        if self.shown is None or response.exception or response.accepted_media_type == "text/html" or not response.data:
            return response
        whole = json.dumps([response.accepted_media_type, response.data], cls=JSONEncoder, sort_keys=True)
        digest = salted_hmac("webhooks.api.webhooks", whole, algorithm="sha256").hexdigest()[: edits.TAG_LENGTH]
        response["ETag"] = f'"{edits.settings_tag(self.shown)}-{digest}"'
        return response

    def get_queryset(self) -> QuerySet[Webhook]:
        webhooks = Webhook.objects.prefetch_related("object_types")
        change = {"PUT": "change", "PATCH": "change", "DELETE": "delete"}.get(str(self.request.method), self.operation)
        if change:
            return permissions.allowed(self.request.user, change, webhooks)
        return permissions.visible_webhooks(self.request.user, webhooks)

    def perform_create(self, serializer: serializers.BaseSerializer[Webhook]) -> None:
        """Create or update. A conflict with another user's change is a 404, a 409 or a 412."""
        values = dict(serializer.validated_data)
        webhook, chosen = serializer.instance or Webhook(), values.pop("object_types", None)
        try:
            self.shown = serializer.instance = save_webhook(
                webhook, values, chosen, self.request.user, tags=self._given_tags(), is_checked=True
            )
        except Webhook.DoesNotExist:
            raise NotFound(DELETED) from None
        except StaleSettings:
            raise PreconditionFailed(CHANGED) from None
        except ChangedMeanwhile as conflict:
            raise Conflict(str(conflict)) from None
        except OutsidePermission as refusal:
            raise PermissionDenied(str(refusal)) from None

    perform_update = perform_create

    def perform_destroy(self, instance: Webhook) -> None:
        with transaction.atomic(Event.objects.db):
            locked = Webhook.objects.select_for_update(no_key=True, of=("self",)).filter(pk=instance.pk)
            self._refuse_changed(get_object_or_404(locked))
            delete_webhooks(Webhook.objects.filter(pk=instance.pk), self.request.user)

    @extend_schema(request=None, responses=PingedSerializer)
    @action(detail=True, methods=["post"], operation="change")
    def ping(self, request: Request, pk: str, **kwargs: Any) -> Response:
        """Send a test event with the saved settings."""
        refuse_body(request)
        webhook = self.get_object()
        if not webhook.enabled:
            raise Conflict(PING_REFUSED)
        return Response(PingedSerializer({"event": ping(webhook, request.user).pk}).data)

    @extend_schema(request=None, parameters=[ETAG])
    @action(detail=True, methods=["post"], operation="change")
    def pause(self, request: Request, pk: str, **kwargs: Any) -> Response:
        """Stop sending until it is resumed. Changes are still stored, and their deliveries wait."""
        return self._switch(pause, _("You can only pause a webhook that is enabled and that no user has paused yet."))

    @extend_schema(request=None, parameters=[ETAG])
    @action(detail=True, methods=["post"], operation="change")
    def resume(self, request: Request, pk: str, **kwargs: Any) -> Response:
        """Send to a paused webhook again, at once."""
        return self._switch(resume, _("You can only resume a webhook that is enabled and paused."))

    def _switch(self, act: Callable[[Any, Any], list[Webhook]], refusal: Any) -> Response:
        refuse_body(self.request)
        webhook = self.get_object()
        if act is resume and (reason := why_not_started(self.request.user, webhook)):
            raise PermissionDenied(reason)
        if not act(Webhook.objects.filter(pk=webhook.pk), self.request.user):
            raise Conflict(refusal)
        return Response(self.get_serializer(self.get_object()).data)
