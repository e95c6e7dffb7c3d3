"""The tab “Webhooks” on the page of every object that webhooks may send: models of NetBox and of other plugins.

NetBox makes the addresses and the tabs of object pages from ``registry["views"]``, once the first page is asked for. So
``connect`` adds the views while the apps load, and later ones when their models are registered.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib.auth.models import AnonymousUser
from django.contrib.contenttypes.models import ContentType
from django.contrib.postgres.expressions import ArraySubquery
from django.db import models
from django.db.models import F
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.generic import View
from netbox.context import current_request
from netbox.registry import registry as netbox_registry
from utilities.views import ConditionalLoginRequiredMixin, ViewTab, get_default_template, register_model_view

from webhooks.contrib.netbox.pages.display import refreshing_page
from webhooks.contrib.netbox.pages.links import page_url
from webhooks.ground import registry
from webhooks.ground.db.session import index_plans
from webhooks.ground.registry.registration import Registration
from webhooks.insight.counts import EACH_CAP, capped
from webhooks.insight.paging import list_deliveries, list_skips
from webhooks.insight.wording import number, skip_reason
from webhooks.models import Action, Delivery, Event, Webhook, permissions
from webhooks.models.lanes import lane_of
from webhooks.models.permissions.redaction import Redaction
from webhooks.models.webhook_secrets import SECRET_FIELDS
from webhooks.operations.kinds import RETRY
from webhooks.pages.delivery import refresh_after, seconds_to_refresh
from webhooks.pages.links import Link

NAME = "webhooks"

# The tab comes before the ones for the journal and the changelog.
WEIGHT = 8500

# The page shows so many of the newest deliveries and skips.
MAX_DELIVERIES, MAX_SKIPS = 25, 10

# The badge looks at the deliveries of so many of the newest events if they go in any order: they have no lane.
NEWEST_EVENTS = 100


# The tab


def _may_open(user: Any) -> bool:
    return permissions.may_view_webhooks(user) or permissions.may_view_deliveries(user)


def _reader() -> Any:
    """The user of the page that shows the tab: NetBox gives a tab only the object."""
    request = current_request.get()
    return AnonymousUser() if request is None else request.user


def _is_visible(instance: models.Model) -> bool:
    return registry.registration_of(type(instance)) is not None and _may_open(_reader())


def _badge(instance: models.Model) -> str | None:
    """How many deliveries of the object are not sent yet, or failed. Every page of an object shows it, so it asks only
    what the user may view of this object."""
    user, registration = _reader(), registry.registration_of(type(instance))
    if registration is None or not permissions.may_view_deliveries(user):
        return None
    unfinished = capped(_unfinished(registration.label, registration.key_of(instance), user), EACH_CAP).count()
    return number(unfinished, EACH_CAP) if unfinished else None


class _IsInArray(models.Lookup):
    """As ``__in`` a subquery. But PostgreSQL looks up each key in an index, and reads no other rows of the webhook."""

    prepare_rhs = False

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        column, parameters = compiler.compile(self.lhs)
        keys, more = compiler.compile(self.rhs)
        return f"{column} = ANY ({keys})", (*parameters, *more)


def _unfinished(label: str, key: str, user: Any) -> Any:
    """The rows of the queue for an object. Its index has the webhook, the lane and the event."""
    queue, webhooks = permissions.visible_queue_of(user, label, key).order_by(), Webhook.objects.order_by()
    newest = Event.objects.filter(object_type=label, object_id=key).order_by("-pk").values("pk")[:NEWEST_EVENTS]
    in_lane = queue.filter(webhook__in=webhooks.values("pk"), lane=lane_of(label, key))
    unordered = queue.filter(
        _IsInArray(F("event_id"), ArraySubquery(newest)),
        webhook__in=webhooks.filter(ordered=False).values("pk"),
        lane=None,
    )
    return in_lane.values("pk").union(unordered.values("pk"), all=True)


TAB = ViewTab(label=gettext_lazy("Webhooks"), visible=_is_visible, badge=_badge, weight=WEIGHT)


# The page


class ObjectPage:
    """What the tab shows of an object, as far as the user may see it."""

    def __init__(self, registration: Registration, instance: models.Model, user: Any) -> None:
        label, key = registration.label, registration.key_of(instance)
        of_object, redacted = {"object_type": label, "object_id": key}, Redaction(user)
        self.may_view_webhooks = permissions.may_view_webhooks(user)
        self.may_view_deliveries = permissions.may_view_deliveries(user)
        self.may_view_skips = permissions.may_view_skips(user)
        content_type = ContentType.objects.get_for_model(registration.model)
        webhooks = permissions.visible_webhooks(user).filter(object_types=content_type).defer(*SECRET_FIELDS)
        self.webhooks = [(webhook, redacted.url(webhook.pk, webhook.payload_url)) for webhook in webhooks]
        """The webhooks of its model, with their URLs."""
        deliveries = list_deliveries(of_object, user).page(MAX_DELIVERIES, counts=False)
        retriable = _retriable(deliveries.rows, user)
        self.deliveries = [
            (
                delivery,
                redacted.error(delivery.webhook_id, delivery.reason, delivery.error_kind),
                retriable.get(delivery.pk),
            )
            for delivery in deliveries.rows
        ]
        """The newest ones, each with the reason of its last failure and the button to retry it."""
        seconds = [*map(refresh_after, deliveries.rows), _dispatched_after(of_object)]
        self.refresh_after = min(filter(None, seconds), default=None)
        """The seconds until the deliveries refresh themselves. None if nothing happens to them in a few seconds."""
        shows_actual = permissions.may_view_payloads(user)
        skips = list_skips(of_object, user).page(MAX_SKIPS, counts=False)
        self.skips = [(skip, skip_reason(skip, shows_actual)) for skip in skips.rows]
        """The newest changes that a webhook did not want, and why."""
        self.replay = _replay(of_object, user)
        """The button that sends the object as it is now. None if the user may not, or nothing of it is stored."""
        self.query = urlencode(of_object)
        """Its filters, for the addresses of lists."""
        self.why_url = f"{page_url('why')}?{self.query}" if self.may_view_webhooks else ""


def _dispatched_after(of_object: dict[str, str]) -> int | None:
    """The seconds after which a change may have its deliveries. None if no change waits for them."""
    waiting = Event.objects.undispatched().filter(**of_object).order_by("pk")
    since = waiting.values_list("timestamp", flat=True).first()
    return seconds_to_refresh(since) if since else None


def _retriable(deliveries: list[Delivery], user: Any) -> dict[Any, Link]:
    retriable = [delivery for delivery in deliveries if delivery.is_retriable]
    if not retriable or RETRY.missing_permissions(user):
        return {}
    permitted: Any = permissions.allowed(
        user, RETRY.operation, Delivery.objects.filter(pk__in=[delivery.pk for delivery in retriable])
    )
    keys = set(permitted.retriable().order_by().values_list("pk", flat=True))
    return {
        delivery.pk: Link(
            RETRY.button_in(delivery.state), "delivery", delivery.pk, RETRY.name, about=str(delivery), posts=True
        )
        for delivery in retriable
        if delivery.pk in keys
    }


def _replay(of_object: dict[str, str], user: Any) -> Link | None:
    if not permissions.has_perm(user, "rq_webhooks.replay_event"):
        return None
    events: Any = permissions.allowed(user, "replay", permissions.visible_events(user, Event.objects.for_list()))
    with index_plans(Event.objects.db, may_sort=True):
        newest = events.filter(**of_object, action__in=(Action.CREATED, Action.UPDATED)).order_by("-pk").first()
    if newest is None or (newest.error and newest.replayed_at):
        return None
    return Link(_("Send it as it is now"), "event", newest.pk, "replay", posts=True, is_main=True)


class ObjectWebhooksView(ConditionalLoginRequiredMixin, View):
    tab = TAB

    def get(self, request: HttpRequest, model: type[models.Model], **kwargs: Any) -> HttpResponse:
        registration = registry.registration_or_default(model)
        if not _may_open(request.user) or not permissions.may_view_model(request.user, model):
            return self.handle_no_permission()
        objects = model._default_manager.all()
        restricted = objects.restrict(request.user, "view") if hasattr(objects, "restrict") else objects
        instance = get_object_or_404(restricted, **kwargs)
        shown = ObjectPage(registration, instance, request.user)
        context = {
            "object": instance,
            "base_template": get_default_template(model),
            "tab": self.tab,
            "shown": shown,
        }
        template, goes_on = "rq_webhooks/netbox/object_tab.html", shown.refresh_after is not None
        return refreshing_page(request, template, context, goes_on=goes_on)


# The registration


def _add(model: type[models.Model]) -> None:
    views = netbox_registry["views"][model._meta.app_label].get(model._meta.model_name, ())
    if all(view["name"] != NAME for view in views):
        register_model_view(model, NAME, path=NAME, kwargs={"model": model})(ObjectWebhooksView)


def connect() -> None:
    """Give the tab to all registered models, and to the ones that are registered from now on."""
    for registration in registry.registrations():
        _add(registration.model)
    registry.registered.connect(_receive, dispatch_uid=f"{__name__}.connect")


def _receive(sender: type[models.Model], model: type[models.Model], **signal: Any) -> None:
    _add(model)
