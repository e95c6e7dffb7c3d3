"""The recipes of docs/recipes.md: each can be applied, and sends what its receiver expects."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from django.contrib.contenttypes.models import ContentType

from dcim.models import Site
from tests.support.inbox import ROOT
from webhooks.ground import registry
from webhooks.ground.payloads.templates import Renderer
from webhooks.models import Action, Webhook
from webhooks.models.permissions import Operator
from webhooks.operations import manifest
from webhooks.operations.trial import Sample, try_out
from webhooks.workers.network.attempt import Request

PAGE = (ROOT / "docs" / "recipes.md").read_text()
BLOCKS = re.findall(r"^```yaml\n(webhooks:\n.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
RECIPES = {one["webhooks"][0]["identifier"]: one for one in map(yaml.safe_load, BLOCKS)}

NAME = 'Oslo "OSL1" & more'

# A part of the body, or of the URL, as the documentation of the receiver wants it.
EXPECTED: dict[str, Any] = {
    "ansible-eda": {"event": "updated", "object_type": "dcim.site"},
    "awx-job": {"extra_vars": {"site": "osl1", "action": "updated", "by": ""}},
    "slack": {"text": f"updated the site {NAME}"},
    "teams": {"type": "message"},
    "servicenow": {"u_name": NAME, "u_action": "updated"},
    "rundeck": {"options": {"site": "osl1", "action": "updated"}},
    "jenkins": {},
    "github": {"event_type": "inventory"},
    "n8n": {"event": "updated"},
}


def test_each_recipe_of_the_page_is_tested() -> None:
    assert RECIPES.keys() == EXPECTED.keys()
    titles = re.findall(r"^\| \[.*?\]\(#(.*?)\)", PAGE, re.MULTILINE)
    assert len(titles) == len(RECIPES)


@pytest.mark.one_database
@pytest.mark.parametrize("name", EXPECTED)
def test_a_recipe_is_applied_and_sends_what_the_receiver_expects(name: str, db: None) -> None:
    environment = dict.fromkeys(re.findall(r"\{env: (\w+)\}", PAGE), "X-Token: s3cret")
    operator = Operator("test")
    changes = manifest.plan(RECIPES[name], operator, environment=environment)
    manifest.apply(changes, operator)
    assert manifest.plan(RECIPES[name], operator, environment=environment) == []
    request = sent(Webhook.objects.get())
    body = json.loads(request.body)
    assert EXPECTED[name].items() <= body.items()
    if name == "jenkins":
        assert request.url.endswith("?SITE=osl1")
    if name == "github":
        assert len(body["client_payload"]) <= 10
        assert request.headers["X-GitHub-Api-Version"] == "2022-11-28"


@pytest.mark.parametrize("username", ["jane", ""])
def test_a_message_has_the_name_of_an_object_without_a_display_and_needs_no_user(username: str) -> None:
    change = {"event": "created", "model": "site", "username": username, "timestamp": "12:00", "data": {"name": "Oslo"}}
    templates = [RECIPES[name]["webhooks"][0]["body_template"] for name in ("slack", "teams")]
    with Renderer() as renderer:
        slack, teams = (json.loads(renderer.body(one, json.dumps(change))) for one in templates)
    assert slack == {"text": "jane created the site Oslo" if username else "created the site Oslo"}
    [title, when] = teams["attachments"][0]["content"]["body"]
    assert (title["text"], when["text"]) == ("Oslo: created", "jane, 12:00" if username else "12:00")


def sent(webhook: Webhook) -> Request:
    """The request for an update of a site."""
    site = Site.objects.create(name=NAME, slug="osl1")
    sample = Sample(registry.registration_of(Site), site.pk, Action.UPDATED)
    trial = try_out(webhook, [ContentType.objects.get_for_model(Site)], sample, Operator("test"))
    assert trial.request, trial.problems
    return trial.request
