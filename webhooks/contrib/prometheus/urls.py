"""The endpoint: ``path("metrics/webhooks", include("webhooks.contrib.prometheus.urls"))``."""

from __future__ import annotations

from django.contrib.auth.decorators import login_not_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client.exposition import choose_encoder

from webhooks.contrib.prometheus import WebhooksCollector
from webhooks.contrib.prometheus.exposition import as_text
from webhooks.ground.conf import conf
from webhooks.models import permissions

collector = WebhooksCollector(closes_connections=False)


@login_not_required  # LoginRequiredMiddleware would lead a scrape with the token to the login
@never_cache
@require_safe
@transaction.non_atomic_requests
def metrics(request: HttpRequest) -> HttpResponse:
    """The metrics in the text format. They show all webhooks, so not everyone may read them."""
    if not may_scrape(request):
        refusal = 'Send the header "Authorization: Bearer …" with WEBHOOKS["METRICS_TOKEN"].\n'
        return HttpResponse(refusal, "text/plain", 401, headers={"WWW-Authenticate": "Bearer"})
    _, content_type = choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(as_text(collector.collect(), "openmetrics" in content_type), content_type)


def may_scrape(request: HttpRequest) -> bool:
    """Whether the request has the token of the setting ``METRICS_TOKEN``, or is of a user who may see everything."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if conf.metrics_token and scheme.lower() == "bearer":
        return constant_time_compare(given.strip(), conf.metrics_token)
    user = getattr(request, "user", None)
    return bool(user and user.is_authenticated and permissions.sees_everything(user))


urlpatterns = [path("", metrics, name="webhooks_metrics")]
