"""A day of the bare host, with a receiver's URL as the argument: from ``check`` to a retry. It has none of the extras,
and pays nothing for them."""

import sys
from base64 import b64encode

import django
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command

for extra in ("drf_spectacular", "health_check", "opentelemetry", "prometheus_client", "yaml"):
    sys.modules[extra] = None  # importing it raises ImportError

django.setup()
assert not apps.is_installed("django.contrib.admin")

call_command("check", fail_level="WARNING")
call_command("migrate", verbosity=0, run_syncdb=True)

from django.contrib.auth import get_user_model  # noqa: E402
from django.template import Context, Engine  # noqa: E402
from rest_framework.test import APIClient  # noqa: E402

from webhooks.insight.paging import list_deliveries  # noqa: E402
from webhooks.pages.delivery import DeliveryPage  # noqa: E402
from webhooks.pages.event import EventPage  # noqa: E402
from webhooks.pages.status import StatusPage  # noqa: E402
from webhooks.pages.why import WhyPage  # noqa: E402


def client_of(email: str, is_operator: bool) -> APIClient:
    user = get_user_model()(email=email, is_operator=is_operator)
    user.set_password("secret")
    user.save()
    credentials = b64encode(f"{email}:secret".encode()).decode()
    return APIClient(HTTP_AUTHORIZATION=f"Basic {credentials}")


def answered(response, status):
    assert response.status_code == status, response.content
    return response.json() if response.content else None


operator, other = client_of("operator@example.org", True), client_of("other@example.org", False)

wanted = {
    "name": "notes", "payload_url": sys.argv[1], "object_types": ["bare_host.note"], "on_created": True,
    "on_updated": True,
}  # fmt: skip
webhook = answered(operator.post("/webhooks/webhooks/", wanted, format="json"), 201)
answered(other.post("/webhooks/webhooks/", wanted, format="json"), 403)

note = answered(other.post("/notes/", {"text": "first"}), 201)
call_command("rqworker", "webhooks", burst=True)
[delivery] = answered(operator.get("/webhooks/deliveries/"), 200)["results"]
assert delivery["state"] == "succeeded", delivery
[event] = answered(operator.get("/webhooks/events/"), 200)["results"]
assert event["username"] == "other@example.org", event
for path in ("webhooks", "deliveries", "events"):
    answered(other.get(f"/webhooks/{path}/"), 403)

address = f"/webhooks/webhooks/{webhook['id']}/"
answered(operator.patch(address, {"payload_url": "http://127.0.0.1:1/"}, format="json"), 200)
answered(other.patch(f"/notes/{note['id']}/", {"text": "second"}), 200)
call_command("rqworker", "webhooks", burst=True)
[delivery] = answered(operator.get("/webhooks/deliveries/?state=pending"), 200)["results"]
answered(operator.post(f"/webhooks/deliveries/{delivery['id']}/retry/"), 200)

# Pages of the host itself show the values of the admin's pages, by templates of its own.
user = get_user_model().objects.get(email="operator@example.org")
row = list_deliveries({"state": ["pending"]}, user)[0]
values = {
    "status": StatusPage(user),
    "page": DeliveryPage(row, user),
    "event": EventPage(row.event, user),
    "why": WhyPage({"object_type": "bare_host.note", "object_id": note["id"]}, user),
}
filters = Engine(libraries={"webhooks_display": "webhooks.templatetags.webhooks_display"})
template = """
    {% load webhooks_display %}
    {% for one in status.webhooks %}{{ one.webhook.name }}: {{ one.waits|up_to_each }},{% endfor %}
    {{ page.delivery.state|delivery_state }} {{ page.verdict.reason }} {{ event.event|event_state:event.outcomes }}
    {% for answer in why.answers %}{% for row in answer.verdicts %}why: {{ row.verdict.cause }}{% endfor %}{% endfor %}
"""
shown = filters.from_string(template).render(Context(values))
for text in ("notes: 1,", ">pending</span>", "connection refused", ">1 not sent yet</span>", "why: due"):
    assert text in shown, shown

answered(operator.post(f"/webhooks/deliveries/{delivery['id']}/discard/"), 200)

try:
    import webhooks.urls  # noqa: F401
except ImproperlyConfigured as error:
    assert "Add django.contrib.admin to INSTALLED_APPS" in str(error)
else:
    raise AssertionError("webhooks.urls must refuse a host without the admin")

from django.db import transaction  # noqa: E402

from tests.bare_host.models import Note  # noqa: E402
from tests.support.own_pages import DUTIES, own_pages  # noqa: E402
from webhooks.models import Webhook  # noqa: E402

for name, duty in DUTIES.items():
    with transaction.atomic(), own_pages(get_user_model().objects.get(is_operator=True), Note) as pages:
        Webhook.objects.all().delete()
        pages.logged.clear()
        duty(pages)
        transaction.set_rollback(True)
    print(f"Own pages: {name}", file=sys.stderr)

call_command("webhooks_sweep")
call_command("webhooks_rotate_keys")
call_command("webhooks_import", "tests/captured/nautobot_webhooks.json", dry_run=True)
answered(operator.delete(address), 204)

imported = sorted(name for name in sys.modules if name.startswith("webhooks.contrib"))
assert not imported, f"a host that names none of these has imported {imported}"
