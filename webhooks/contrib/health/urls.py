"""The endpoints: ``path("health/webhooks/", include("webhooks.contrib.health.urls"))``.

They need no login, and show no more than names of problems.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from webhooks.contrib.health import problems_of_delivery, problems_of_recording


def endpoint(find: Callable[[], list[str]]) -> Any:
    """A view that answers 200 if it finds no problems, else 503."""

    @login_not_required
    @never_cache
    @require_safe
    @transaction.non_atomic_requests  # with ATOMIC_REQUESTS, Django would fail before it, if the database is away
    def health(request: HttpRequest) -> JsonResponse:
        problems = find()
        status = "unhealthy" if problems else "healthy"
        return JsonResponse({"status": status, "problems": problems}, status=503 if problems else 200)

    return health


urlpatterns = [
    path("", endpoint(problems_of_delivery), name="webhooks_health"),
    path("ready/", endpoint(problems_of_recording), name="webhooks_ready"),
]
