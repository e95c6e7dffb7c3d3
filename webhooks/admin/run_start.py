"""The pages before a run in the admin: ``pages.run_start`` has what they show and begin."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse

from webhooks.admin.base import address, page, redirect_back, show
from webhooks.pages.run_start import StartPages


def start_page(request: HttpRequest, name: str, context: dict[str, Any]) -> HttpResponse:
    return page(request, f"rq_webhooks/admin/run/{name}.html", admin.site.each_context(request) | context)


START_PAGES = StartPages(start_page, show, address, redirect_back, "next")
