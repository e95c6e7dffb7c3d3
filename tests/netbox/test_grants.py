"""NetBox's form of permissions grants the permissions of the app, with constraints."""

from __future__ import annotations

from typing import Any

import pytest
from django.apps import apps
from django.test import Client
from django.urls import reverse
from netbox.registry import registry

from core.models import ObjectType
from dcim.models import Site
from tests.support.makers import make_site_delivery, make_webhook
from tests.support.netbox_users import make_user
from users.models import ObjectPermission
from webhooks.models import Attempt, Delivery, Event, Run, Skip, State, Webhook, permissions

pytestmark = pytest.mark.django_db

MODELS = (Webhook, Event, Delivery, Skip, Run)
OWN_ACTIONS = {
    Webhook: {"chain"},
    Event: {"replay", "read_payload"},
    Delivery: {"retry", "resend", "discard"},
}
ADD = "users:objectpermission_add"


def names_of(model: Any) -> list[str]:
    """All permissions for a model: Django's, and those with other names."""
    meta = model._meta
    return [
        *(f"{action}_{meta.model_name}" for action in meta.default_permissions),
        *(name for name, _ in meta.permissions),
    ]


def type_of(model: Any) -> Any:
    return ObjectType.objects.get_for_model(model)


def post_form(client: Client, user: Any, *models: Any, constraints: str = "", **fields: str) -> None:
    form = {
        "name": f"permission {ObjectPermission.objects.count()}",
        "enabled": "on",
        "object_types_1": [type_of(model).pk for model in models],
        "users": [user.pk],
        "constraints": constraints,
        **fields,
    }
    answer = client.post(reverse(ADD), form)
    assert answer.status_code == 302, answer.context["form"].errors


def test_the_form_offers_each_action_under_its_own_name(admin_client: Client) -> None:
    html = admin_client.get(reverse(ADD)).content.decode()
    for model, actions in OWN_ACTIONS.items():
        assert {one.name for one in registry["model_actions"][model._meta.label_lower]} == actions
        for action in actions:
            assert f'name="action_{action}"' in html
    assert 'name="action_retry_delivery"' not in html
    assert "Can retry deliveries" in html


def test_the_form_says_what_each_action_allows(admin_client: Client) -> None:
    form = admin_client.get(reverse(ADD)).context["form"]
    shown = {name: (form[f"action_{name}"].label, form[f"action_{name}"].help_text) for name in ("chain", "retry")}
    assert shown == {
        "chain": (dict(Webhook._meta.permissions)["chain_webhook"], "chain"),
        "retry": ("Can retry deliveries", "retry"),
    }


def test_the_form_offers_the_models_that_users_need_permissions_for(admin_client: Client) -> None:
    html = admin_client.get(reverse(ADD)).content.decode()
    for model in MODELS:
        assert f'<option value="{type_of(model).pk}"' in html
    private = [one for one in apps.get_app_config("rq_webhooks").get_models() if one not in MODELS]
    assert Attempt in private
    for model in private:
        assert not type_of(model).public
        assert f'<option value="{type_of(model).pk}"' not in html


@pytest.mark.parametrize("model", MODELS)
def test_a_user_gets_every_permission_by_the_form(admin_client: Client, model: Any) -> None:
    user = make_user()
    boxes = {f"action_{action}": "on" for action in OWN_ACTIONS.get(model, ())}
    boxes |= {f"can_{action}": "on" for action in model._meta.default_permissions}
    post_form(admin_client, user, model, **boxes)
    user = type(user).objects.get(pk=user.pk)
    missing = [name for name in names_of(model) if not user.has_perm(f"rq_webhooks.{name}")]
    assert missing == []


def test_constraints_of_the_form_choose_rows(admin_client: Client) -> None:
    mine, other = (make_site_delivery(make_webhook(Site, name=name), State.FAILED) for name in ("mine", "other"))
    user = make_user("view_webhook", "view_delivery", "view_event", "dcim.view_site")
    post_form(admin_client, user, Delivery, constraints='{"webhook__name": "mine"}', action_retry="on")
    user = type(user).objects.get(pk=user.pk)
    assert permissions.may(user, "retry", mine)
    assert not permissions.may(user, "retry", other)
    assert not permissions.may(user, "discard", mine)


def test_payloads_need_the_action_for_the_event(admin_client: Client) -> None:
    event = make_site_delivery(make_webhook(Site)).event
    user = make_user("view_event", "dcim.view_site")
    assert not permissions.may_view_payloads(user, event)
    post_form(admin_client, user, Event, constraints='{"object_type": "dcim.site"}', action_read_payload="on")
    assert permissions.may_view_payloads(type(user).objects.get(pk=user.pk), event)
