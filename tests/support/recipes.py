"""The recipes as they are in the docs, for the tests that run them with their real receivers."""

from __future__ import annotations

import re
import shlex

import yaml

from tests.support.inbox import ROOT
from webhooks.models import Attempt, Webhook
from webhooks.models.permissions import Operator
from webhooks.operations import manifest


def block(page: str, head: str) -> str:
    """The block of a page that begins with this line."""
    text = (ROOT / "docs" / page).read_text()
    [found] = re.findall(rf"^```{re.escape(head)}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return str(found)


def command(page: str, program: str) -> list[str]:
    """The command of a page that begins with this program."""
    [line] = re.findall(rf"^{program} .*$", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    return shlex.split(line)


def define(identifier: str, url: str, environment: dict[str, str], **more: object) -> Webhook:
    """The webhook of a recipe, for a receiver at this URL."""
    head = f"webhooks:\n  - identifier: {identifier}\n"
    [settings] = yaml.safe_load(head + block("recipes.md", f"yaml\n{head}".rstrip("\n")))["webhooks"]
    operator = Operator("test")
    changes = manifest.plan({"webhooks": [settings | {"payload_url": url} | more]}, operator, environment=environment)
    manifest.apply(changes, operator)
    return Webhook.objects.get(identifier=identifier)


def statuses() -> list[int | None]:
    """The statuses of all attempts, in their order."""
    return [*Attempt.objects.order_by("pk").values_list("status", flat=True)]
