"""“Why didn't it fire?”: the question, and below it the answer, with a verdict for each webhook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django import forms
from django.http import HttpRequest, HttpResponse
from django.urls import NoReverseMatch, path
from django.views.generic import View
from utilities.forms.fields import DynamicModelChoiceField
from utilities.views import ContentTypePermissionRequiredMixin, get_action_url

from webhooks.contrib.netbox.pages.display import page
from webhooks.ground import registry
from webhooks.models import permissions
from webhooks.pages.why import WhyPage


class WhyView(ContentTypePermissionRequiredMixin, View):
    def has_permission(self) -> bool:
        return permissions.may_view_webhooks(self.request.user)

    def get(self, request: HttpRequest) -> HttpResponse:
        given = request.GET.dict()
        if not given.get("object_id"):
            given["object_id"] = given.get("object", "")
        shown = WhyPage(given, request.user)
        chooser = _chooser(shown.asked, request.user)
        is_chosen = chooser is not None and chooser.field.queryset.exists()
        context = {"shown": shown, "chooser": chooser, "is_chosen": is_chosen}
        return page(request, "rq_webhooks/netbox/why.html", context)


def _chooser(asked: Mapping[str, str], user: Any) -> Any:
    """NetBox's field to choose an object of the chosen model, by the REST API. None if there is no such model."""
    registration = registry.registration_by_label(asked.get("object_type", "").lower())
    if registration is None or not permissions.may_view_model(user, registration.model):
        return None
    try:
        get_action_url(registration.model, action="list", rest_api=True)
    except NoReverseMatch:
        return None
    form = forms.Form(initial={"object": asked.get("object_id")})
    objects = permissions.viewable_objects(user, registration.model)
    form.fields["object"] = DynamicModelChoiceField(queryset=objects, required=False)
    return form["object"]


urlpatterns = [path("why/", WhyView.as_view(), name="why")]
