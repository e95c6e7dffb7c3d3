"""The list of secrets that users enter: the form, the REST API and copies follow it."""

from __future__ import annotations

import pytest

from webhooks.api.webhooks import WebhookSerializer
from webhooks.models import Webhook
from webhooks.models.permissions import Operator
from webhooks.models.webhook import SETTINGS
from webhooks.models.webhook_secrets import CREDENTIAL_FIELDS, SECRET_FIELDS, SENT_CREDENTIALS
from webhooks.operations.edits import secret_tags, settings_of
from webhooks.pages.forms import WebhookForm, initial_values
from webhooks.pages.forms.webhook import unused_fields

SECRET = "one of the secrets"


def test_the_list_has_each_encrypted_column_that_users_enter() -> None:
    editable = [name for name in SECRET_FIELDS if Webhook._meta.get_field(name).editable]
    assert editable == [*CREDENTIAL_FIELDS]
    assert {*SENT_CREDENTIALS} <= {*CREDENTIAL_FIELDS} <= {*SETTINGS}


@pytest.mark.usefixtures("db")
@pytest.mark.parametrize("name", CREDENTIAL_FIELDS)
def test_a_secret_of_the_list_is_entered_cleared_and_never_shown(name: str) -> None:
    webhook = Webhook.objects.create(name="CMDB", payload_url="http://127.0.0.1:1/", on_created=True, **{name: SECRET})
    form = WebhookForm(user=Operator("tests"), instance=webhook)
    assert "data-wh-secret" in str(form[name])
    assert "A value is stored." in form.fields[name].help_text
    assert f"clear_{name}" in form.fields
    assert f"clear_{name}" in unused_fields(Webhook())
    assert SECRET not in str(form)

    fields = WebhookSerializer(webhook).get_fields()
    assert fields[name].write_only
    assert fields[name].max_length == Webhook._meta.get_field(name).max_length
    assert fields[f"has_{name}"].to_representation(getattr(webhook, name)) is True

    assert name not in initial_values(webhook)
    assert name not in settings_of(webhook)
    assert name in secret_tags(webhook)
