"""The recipes for Ansible as they are in the docs, run by Ansible: ``nox -s ansible`` installs it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rest_framework.authtoken.models import Token

from dcim.models import Site
from tests.support.draining import drain
from tests.support.recipes import block, command, define, statuses
from tests.support.servers import free_port
from tests.support.waiting import until
from users.models import User
from webhooks.ground.security.encryption import Secret
from webhooks.models import Webhook

pytestmark = [pytest.mark.one_database, pytest.mark.usefixtures("redis")]

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
INVENTORY = "all: {hosts: {localhost: {ansible_connection: local}}}\n"
ENVIRONMENT = {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "0", "ANSIBLE_INVENTORY_UNPARSED_WARNING": "0"}


# Webhooks by the REST API


def play(directory: Path, url: str, **variables: str) -> subprocess.CompletedProcess[str]:
    (directory / "webhooks.yml").write_text(block("as-code.md", 'yaml title="webhooks.yml"'))
    (directory / "variables.yml").write_text(yaml.safe_dump({"site": url, "cmdb_secret": SECRET, **variables}))
    given = command("as-code.md", "ansible-playbook")
    environment = os.environ | ENVIRONMENT
    return subprocess.run(given, cwd=directory, env=environment, capture_output=True, text=True, check=False)


def test_the_playbook_creates_a_webhook_and_repeats_the_same_request(
    transactional_db: None, live_server: Any, tmp_path: Path
) -> None:
    token = Token.objects.create(user=User.objects.create_superuser("root")).key
    first = play(tmp_path, live_server.url, token=token)
    assert first.returncode == 0, first.stdout + first.stderr
    webhook = Webhook.objects.get(identifier="cmdb-sync")
    assert (webhook.name, webhook.on_updated, webhook.on_created) == ("CMDB sync", True, False)
    assert [one.model for one in webhook.object_types.all()] == ["site"]
    assert webhook.secret.reveal() == SECRET
    Webhook.objects.update(timeout=5)
    second = play(tmp_path, live_server.url, token=token)
    assert second.returncode == 0, second.stdout + second.stderr
    assert Webhook.objects.get().pk == webhook.pk
    assert Webhook.objects.get().timeout is None  # it is left out
    for shown in (first.stdout, second.stdout):
        assert SECRET not in shown
        assert token not in shown


def test_a_refused_setting_fails_the_task_and_says_why(
    transactional_db: None, live_server: Any, tmp_path: Path
) -> None:
    token = Token.objects.create(user=User.objects.create_superuser("root")).key
    refused = play(tmp_path, live_server.url, token=token, cmdb_secret="whsec_no base64")
    assert refused.returncode != 0
    assert '"secret": [' in refused.stdout
    assert not Webhook.objects.exists()


# Event-Driven Ansible


class Rulebook:
    """A running ansible-rulebook with the files of the recipe; ``log`` has its output."""

    def __init__(self, directory: Path) -> None:
        self.port, self.log = free_port(), directory / "log"
        rulebook = block("recipes.md", 'yaml title="rulebook.yml"')
        assert rulebook.count("port: 5000") == rulebook.count("host: 0.0.0.0") == 1
        rulebook = rulebook.replace("port: 5000", f"port: {self.port}").replace("host: 0.0.0.0", "host: 127.0.0.1")
        (directory / "rulebook.yml").write_text(rulebook)
        (directory / "configure.yml").write_text(block("recipes.md", 'yaml title="configure.yml"'))
        (directory / "inventory.yml").write_text(INVENTORY)
        given, environment = (
            command("recipes.md", "ansible-rulebook"),
            os.environ | ENVIRONMENT | {"EDA_SECRET": SECRET},
        )
        with self.log.open("w") as log:
            self.process = subprocess.Popen(given, cwd=directory, env=environment, stdout=log, stderr=log)
        until(lambda: self._listens() or self.process.poll() is not None, 60, "ansible-rulebook to listen")
        assert self.process.poll() is None, self.log.read_text()

    def _listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def shown(self) -> list[str]:
        """What the playbook has written so far."""
        return re.findall('"msg": "(.*)"', self.log.read_text())

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture
def rulebook(tmp_path: Path) -> Iterator[Rulebook]:
    running = Rulebook(tmp_path)
    yield running
    running.stop()


def test_a_rulebook_runs_a_playbook_for_a_signed_event_and_refuses_another_signature(
    transactional_db: None, rulebook: Rulebook
) -> None:
    webhook = define("ansible-eda", f"http://127.0.0.1:{rulebook.port}/endpoint", {"EDA_SECRET": SECRET})
    site = create_site("Oslo ⚡")
    site.name = "Bergen"
    site.save()  # an update: no rule wants it
    drain()
    for secret, name in (("another", "Narvik"), (SECRET, "Bodø")):
        webhook.secret = Secret(secret)
        webhook.save()
        create_site(name)
    assert statuses() == [200, 200, 401, 200]
    # One after the other: the last one has been shown after all others.
    until(lambda: "Bodø" in rulebook.shown(), 60, rulebook.log.read_text)
    assert rulebook.shown() == ["Oslo ⚡", "Bodø"]


def create_site(name: str) -> Site:
    site = Site.objects.create(name=name, slug=f"site-{Site.objects.count()}")
    drain()
    return site
