"""The host project: what its admin keeps, and what the demo gives a newcomer."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client

from dcim.models import Site
from demo import showcase
from demo.run import Run
from webhooks.models import Webhook

ADDRESS = "Science Park 610\n1098 XH Amsterdam\nNetherlands"


@pytest.mark.usefixtures("database")
def test_the_admin_keeps_the_lines_of_an_address_and_does_not_change_them() -> None:
    site = Site.objects.create(name="Amsterdam", slug="ams1", physical_address=ADDRESS)
    client = Client()
    client.force_login(User.objects.create_superuser("admin"))
    page = client.get(f"/admin/dcim/site/{site.pk}/change/").text
    shown = re.search(r'<textarea name="physical_address"[^>]*>\s*(.*?)</textarea>', page, re.DOTALL)
    assert shown
    assert shown[1] == ADDRESS
    form = {"name": "Amsterdam", "slug": "ams1", "status": "active", "custom_field_data": "{}"}
    as_a_browser = {**form, "physical_address": shown[1].replace("\n", "\r\n"), "facility": "Hall 3"}
    answer = client.post(f"/admin/dcim/site/{site.pk}/change/", as_a_browser)
    assert answer.status_code == 302, answer.text
    site.refresh_from_db()
    assert (site.physical_address, site.facility) == (ADDRESS, "Hall 3")


@pytest.mark.usefixtures("database")
def test_the_sample_webhook_of_sites_sends_the_state_before() -> None:
    call_command("demo_webhooks", "http://127.0.0.1:1", stdout=io.StringIO())
    assert list(Webhook.objects.filter(prechange=True).values_list("name", flat=True)) == ["Sites and racks"]


def test_the_demo_prints_a_url_of_its_receiver_for_a_webhook_of_ones_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    here = Run(tmp_path, "k" * 40, 8000, 6379, 9000)
    showcase.print_addresses(here)
    assert "give it the payload URL http://127.0.0.1:9000/kkkkkkkk/mine\n" in capsys.readouterr().out
