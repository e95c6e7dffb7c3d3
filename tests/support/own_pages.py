"""The pages of docs/own-pages.md, run unchanged: a host without Django's admin has these, and so do the tests.

Also what such a page must do, as functions: they need no fixture, so that a host with other settings calls them, too.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.apps import apps
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.db import models
from django.http import HttpResponse
from django.test import RequestFactory
from django.test.utils import override_settings
from django.urls import resolve
from django.utils import timezone
from django.views.generic import UpdateView

from tests.support.html_forms import fields_of
from tests.support.makers import make_delivery, make_event
from webhooks.models import Delivery, State, Webhook
from webhooks.models.permissions import Operator
from webhooks.pages.forms import initial_values

PAGE = Path(__file__).parents[2] / "docs" / "own-pages.md"
FORM = 'method="post"'
URL = "http://127.0.0.1:1/hook"
SECRET, OTHER_SECRET = "one of the secrets", "another of the secrets"
RULE = {"attr": "id", "op": "gt", "value": 3}


def fence(title: str) -> str:
    [found] = re.findall(rf'^```\w+ title="{re.escape(title)}"\n(.*?)^```', PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


views: dict[str, Any] = {"__name__": __name__}
urlpatterns: list[Any] = []
for title in ("views.py", "pages.py"):
    exec(compile(fence(title), str(PAGE), "exec"), views)
    urlpatterns += views["urlpatterns"]
# A user model of a host may have no has_perms(), which Django's mixin wants.
for mixin in (views["WebhookPage"], views["ViewerPage"]):
    mixin.has_permission = lambda page: page.request.user.has_perm(page.permission_required)
    mixin.raise_exception = True

TEMPLATES = {
    **{name: fence(name) for name in ("webhook_form.html", "status.html", "delivery.html")},
    "webhook_delete.html": "Delete {{ object }}?",
    "webhooks.html": "{% for webhook in object_list %}{{ webhook }}{% endfor %}",
}
LOADERS = [("django.template.loaders.locmem.Loader", TEMPLATES), "django.template.loaders.app_directories.Loader"]
SETTINGS = {
    "ROOT_URLCONF": __name__,
    "TEMPLATES": [{"BACKEND": "django.template.backends.django.DjangoTemplates", "OPTIONS": {"loaders": LOADERS}}],
}


class Pages:
    """The pages as one user sees them, and the history of what was done."""

    def __init__(self, user: Any, model: type[models.Model]) -> None:
        self.user, self.model = user, model
        self.logged: list[str] = []

    def ask(self, path: str, data: dict[str, Any] | None = None, user: Any = None) -> HttpResponse:
        factory = RequestFactory()
        request = factory.get(path) if data is None else factory.post(path, data)
        request.user = user or self.user
        found = resolve(path)
        response = found.func(request, *found.args, **found.kwargs)
        return response.render() if hasattr(response, "render") else response

    def opened(self, path: str) -> dict[str, Any]:
        """The fields of the form on a page, as a browser would post them."""
        return fields_of(self.ask(path).content.decode(), FORM)

    def filled(self, **values: Any) -> dict[str, Any]:
        """The form of a new webhook with these values."""
        own = {"name": "CMDB", "payload_url": URL, "object_types": [ContentType.objects.get_for_model(self.model).pk]}
        return self.opened("/webhooks/add/") | own | values

    def save(self, path: str, data: dict[str, Any]) -> None:
        response = self.ask(path, data)
        assert response.status_code == 302, errors_of(response)

    def history(self) -> list[str]:
        """Entries as text: of the admin's table, or lines of the log."""
        if not apps.is_installed("django.contrib.admin"):
            return self.logged
        from django.contrib.admin.models import LogEntry

        return [str(one) for one in LogEntry.objects.order_by("pk")]


@contextmanager
def own_pages(user: Any, model: type[models.Model]) -> Iterator[Pages]:
    pages = Pages(user, model)
    handler, logger = logging.Handler(), logging.getLogger("webhooks")
    handler.emit = lambda record: pages.logged.append(record.getMessage())  # type: ignore[method-assign]
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with override_settings(**SETTINGS):
            yield pages
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def errors_of(response: Any) -> dict[str, str]:
    form = response.context_data["form"]
    return {name: " ".join(map(str, texts)) for name, texts in form.errors.items()}


def page_of(webhook: Webhook) -> str:
    return f"/webhooks/{webhook.pk}/"


def stored(pages: Pages, **fields: Any) -> Webhook:
    fields = {"name": "CMDB", "payload_url": URL, "on_created": True, "secret": SECRET} | fields
    webhook = Webhook.objects.create(**fields)
    webhook.object_types.add(ContentType.objects.get_for_model(pages.model))
    return webhook


# What such pages must do


def a_webhook_is_defined_with_models_conditions_and_secrets(pages: Pages) -> None:
    rule = json.dumps(RULE)
    pages.save("/webhooks/add/", pages.filled(conditions=rule, secret=SECRET, secret_headers="X-Token: t"))
    webhook = Webhook.objects.get()
    assert (webhook.name, webhook.conditions, webhook.secret, webhook.ordered) == ("CMDB", RULE, SECRET, True)
    assert webhook.secret_headers == "X-Token: t"
    assert (webhook.on_created, webhook.on_updated, webhook.on_deleted) == (True, True, True)
    assert [one.model_class() for one in webhook.object_types.all()] == [pages.model]


def the_history_says_who_added_and_changed_it(pages: Pages) -> None:
    pages.save("/webhooks/add/", pages.filled())
    webhook = Webhook.objects.get()
    pages.save(page_of(webhook), pages.opened(page_of(webhook)) | {"timeout": "7", "conditions": json.dumps(RULE)})
    added, changed = (entry for entry in pages.history() if "CMDB" in entry)
    assert "added" in added.lower()
    assert "changed" in changed.lower()
    assert "Conditions" in changed
    assert "Timeout" in changed


def the_page_shows_the_form_with_its_scripts_and_no_secret(pages: Pages) -> None:
    webhook = stored(pages, conditions=RULE, secret_headers=f"X-Token: {OTHER_SECRET}")
    shown = pages.ask(page_of(webhook)).content.decode()
    assert "rq_webhooks/form.css" in shown
    assert "rq_webhooks/conditions.js" in shown
    assert "data-wh-models" in shown
    assert "wh-condition-builder" in shown
    assert 'name="opened"' in shown
    assert "data-url" not in shown
    assert not [secret for secret in (SECRET, OTHER_SECRET) if secret in shown]


def secrets_are_kept_replaced_and_cleared(pages: Pages) -> None:
    webhook = stored(pages)
    pages.save(page_of(webhook), pages.opened(page_of(webhook)) | {"name": "renamed"})
    webhook = Webhook.objects.get()
    assert (webhook.name, webhook.secret, webhook.previous_secret) == ("renamed", SECRET, "")
    pages.save(page_of(webhook), pages.opened(page_of(webhook)) | {"secret": OTHER_SECRET})
    webhook = Webhook.objects.get()
    assert (webhook.secret, webhook.previous_secret) == (OTHER_SECRET, SECRET)
    pages.save(page_of(webhook), pages.opened(page_of(webhook)) | {"clear_secret": "on"})
    assert not Webhook.objects.get().secret


def errors_are_shown_at_their_fields_and_nothing_is_saved(pages: Pages) -> None:
    wrong = {"conditions": '{"attr": ', "payload_url": "ftp://example.com", "secret": SECRET, "object_types": []}
    response = pages.ask("/webhooks/add/", pages.filled(**wrong))
    assert errors_of(response).keys() == wrong.keys()
    shown = response.content.decode()
    assert "This is not JSON" in shown
    assert "{&quot;attr&quot;: " in shown, "as it was entered"
    assert SECRET not in shown
    assert not Webhook.objects.exists()
    assert not [entry for entry in pages.history() if "CMDB" in entry]


def a_change_by_another_user_is_shown_and_kept(pages: Pages) -> None:
    webhook = stored(pages)
    form = pages.opened(page_of(webhook)) | {"name": "renamed"}
    Webhook.objects.update(timeout=7)
    response = pages.ask(page_of(webhook), form)
    assert "Save again to keep it." in errors_of(response)["timeout"]
    pages.save(page_of(webhook), fields_of(response.content.decode(), FORM))
    webhook = Webhook.objects.get()
    assert (webhook.name, webhook.timeout) == ("renamed", 7)


def a_name_that_is_taken_meanwhile_is_an_error_of_the_form(pages: Pages) -> None:
    webhook, save_settings = stored(pages), Webhook.save_settings

    def save(webhook: Webhook, *args: Any, **kwargs: Any) -> bool:
        Webhook.objects.create(name="renamed", payload_url=URL, on_created=True)
        return save_settings(webhook, *args, **kwargs)

    Webhook.save_settings = save  # type: ignore[method-assign]
    try:
        response = pages.ask(page_of(webhook), pages.opened(page_of(webhook)) | {"name": "renamed"})
    finally:
        Webhook.save_settings = save_settings  # type: ignore[method-assign]
    assert "Meanwhile another webhook of this name was saved" in errors_of(response)["__all__"]


def a_pause_and_failures_during_an_edit_stay(pages: Pages) -> None:
    webhook = stored(pages)
    form = pages.opened(page_of(webhook)) | {"name": "renamed"}
    Webhook.objects.filter(pk=webhook.pk).pause("a colleague")
    Webhook.objects.update(failures_in_a_row=3, last_failure="HTTP 500")
    pages.save(page_of(webhook), form)
    saved = Webhook.objects.get()
    assert (saved.name, saved.paused_by, saved.failures_in_a_row) == ("renamed", "a colleague", 3)
    assert (saved.is_paused, saved.last_failure) == (True, "HTTP 500")


def a_stale_instance_in_any_generic_view_loses_no_pause(pages: Pages) -> None:
    """As a host may write it, without the form of this app."""
    webhook = stored(pages)

    class Plain(UpdateView):
        model, fields, success_url = Webhook, ["name", "enabled", "timeout"], "/"

        def form_valid(self, form: Any) -> Any:
            Webhook.objects.filter(pk=webhook.pk).pause("a colleague")
            Webhook.objects.update(enabled=False, disabled_reason="gone", last_failure_at=timezone.now(), probes=2)
            return super().form_valid(form)

    request = RequestFactory().post("/", {"name": "renamed", "enabled": "on", "timeout": "5"})
    assert Plain.as_view()(request, pk=webhook.pk).status_code == 302
    saved = Webhook.objects.get()
    assert (saved.name, saved.timeout, saved.enabled, saved.disabled_reason) == ("renamed", 5, False, "gone")
    assert (saved.paused_by, saved.probes, saved.last_failure_at is None) == ("a colleague", 2, False)
    assert (saved.secret, saved.on_created) == (SECRET, True)


def a_copy_begins_with_the_settings_and_without_the_secrets(pages: Pages) -> None:
    values = initial_values(stored(pages, conditions=RULE))
    assert (values["name"], values["conditions"], values["object_types"] != []) == ("CMDB (copy)", RULE, True)
    assert "secret" not in values


def a_deleted_webhook_is_gone_at_once_and_its_name_is_free(pages: Pages) -> None:
    webhook, other = stored(pages), stored(pages, name="other")
    pages.save(f"{page_of(webhook)}delete/", {})
    assert list(Webhook.objects.all()) == [other]
    pages.save("/webhooks/add/", pages.filled())
    assert pages.ask("/webhooks/").content.decode() == "CMDBother"


def the_pages_are_for_users_with_permission(pages: Pages) -> None:
    class Reader(Operator):
        def has_perm(self, permission: str) -> bool:
            return permission == "rq_webhooks.view_webhook"

    webhook, reader = stored(pages), Reader("reader")
    for path in ("/webhooks/add/", page_of(webhook), f"{page_of(webhook)}delete/"):
        try:
            pages.ask(path, {}, reader)
        except PermissionDenied:
            continue
        raise AssertionError(path)
    assert Webhook.objects.get().name == "CMDB"


def failed_delivery(pages: Pages) -> Delivery:
    model = pages.model._meta.label_lower
    event = make_event(object_type=model, object_repr="a", dispatched=True)
    failed = {"reason": "HTTP 503 Service Unavailable", "error_kind": "http_503", "attempt_count": 2}
    return make_delivery(stored(pages), State.FAILED, event=event, **failed)


def the_status_names_a_problem_and_links_to_its_delivery(pages: Pages) -> None:
    delivery = failed_delivery(pages)
    Webhook.objects.update(failures_in_a_row=2, error_kind="http_503", last_failure="HTTP 503 Service Unavailable")
    shown = pages.ask("/status/").content.decode()
    assert "The last attempt for “CMDB” failed: HTTP 503 Service Unavailable." in shown
    assert f'<a href="/deliveries/{delivery.pk}/">See request</a>' in shown


def a_delivery_is_shown_with_its_buttons_and_retried_and_discarded(pages: Pages) -> None:
    delivery = failed_delivery(pages)
    address = f"/deliveries/{delivery.pk}/"
    shown = pages.ask(address).content.decode()
    assert "HTTP 503 Service Unavailable" in shown
    assert buttons_of(shown) == {"retry": "Retry", "discard": "Discard"}
    assert "“CMDB” does not get this change." in shown
    for act, state, buttons in (
        ("retry", State.PENDING, {"discard": "Discard"}),
        ("discard", State.DISCARDED, {"retry": "Retry"}),
    ):
        assert pages.ask(f"{address}{act}/", {}).headers["Location"] == address
        assert Delivery.objects.get(pk=delivery.pk).state == state
        assert buttons_of(pages.ask(address).content.decode()) == buttons


def buttons_of(shown: str) -> dict[str, str]:
    return dict(re.findall(r'<form method="post" action="(\w+)/">.*?<button>(.*?)</button>', shown, re.DOTALL))


DUTIES: dict[str, Callable[[Pages], None]] = {
    duty.__name__: duty
    for duty in (
        a_webhook_is_defined_with_models_conditions_and_secrets,
        the_history_says_who_added_and_changed_it,
        the_page_shows_the_form_with_its_scripts_and_no_secret,
        secrets_are_kept_replaced_and_cleared,
        errors_are_shown_at_their_fields_and_nothing_is_saved,
        a_change_by_another_user_is_shown_and_kept,
        a_name_that_is_taken_meanwhile_is_an_error_of_the_form,
        a_pause_and_failures_during_an_edit_stay,
        a_stale_instance_in_any_generic_view_loses_no_pause,
        a_copy_begins_with_the_settings_and_without_the_secrets,
        a_deleted_webhook_is_gone_at_once_and_its_name_is_free,
        the_pages_are_for_users_with_permission,
        the_status_names_a_problem_and_links_to_its_delivery,
        a_delivery_is_shown_with_its_buttons_and_retried_and_discarded,
    )
}
