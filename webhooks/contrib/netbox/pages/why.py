"""“Why didn't it fire?”: the question, and below it the answer, with a verdict for each webhook."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.generic import View
from utilities.views import ContentTypePermissionRequiredMixin

from webhooks import permissions
from webhooks.contrib.netbox.pages.display import page
from webhooks.pages.why import WhyPage


class WhyView(ContentTypePermissionRequiredMixin, View):
    def has_permission(self) -> bool:
        return permissions.may_view_webhooks(self.request.user)

    def get(self, request: HttpRequest) -> HttpResponse:
        shown = WhyPage(request.GET.dict(), request.user)
        return page(request, "rq_webhooks/netbox/why.html", {"shown": shown})


urlpatterns = [path("why/", WhyView.as_view(), name="why")]
