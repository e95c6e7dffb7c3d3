"""A day of the twin host. It migrates and saves a row of its own. With a receiver's URL, it has the app: it installs it
beside its own app, and sends a webhook for a change of its own model."""

import sys

import django
from django.core.management import call_command

django.setup()
call_command("check", fail_level="WARNING")
call_command("migrate", verbosity=0)

from django.apps import apps  # noqa: E402
from django.contrib.auth import get_user_model  # noqa: E402
from django.contrib.contenttypes.models import ContentType  # noqa: E402
from django.test import Client  # noqa: E402

theirs = apps.get_model("webhooks", "Webhook")
if len(sys.argv) == 1:
    theirs.objects.create(name="older than the app")
    sys.exit()

from webhooks.ground import registry  # noqa: E402

assert registry.registered_models() == {"webhooks.webhook": theirs}  # and no draft
call_command("check", deploy=True, databases=["default"], fail_level="ERROR")
assert [one.name for one in theirs.objects.all()] == ["older than the app"]
ours = apps.get_model("rq_webhooks", "Webhook")
assert (theirs._meta.db_table, ours._meta.db_table) == ("webhooks_webhook", "rq_webhooks_webhook")
webhook = ours.objects.create(name="CMDB", payload_url=sys.argv[1], on_created=True)
webhook.object_types.add(ContentType.objects.get_for_model(theirs))

admin = get_user_model().objects.create_superuser("admin")
browser = Client()
browser.force_login(admin)
assert browser.post("/admin/webhooks/webhook/add/", {"name": "newer"}).status_code == 302
call_command("rqworker", "webhooks", burst=True)

for address in (
    "",
    "webhooks/",
    "webhooks/webhook/",
    "rq_webhooks/",
    "rq_webhooks/delivery/",
    "webhook-backend-status/",
):
    page = browser.get(f"/admin/{address}")
    assert page.status_code == 200, address
    assert ("older than the app" in page.text) == (address == "webhooks/webhook/"), address
assert "succeeded" in browser.get("/admin/rq_webhooks/delivery/").text
