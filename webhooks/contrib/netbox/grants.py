"""The permissions of the app, as NetBox's form of permissions grants them.

A permission of NetBox has object types and actions. The action ``retry`` and the model ``delivery`` make
``rq_webhooks.retry_delivery``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import wraps
from typing import Any

from django.apps import apps
from django.utils.translation import gettext_lazy
from netbox.registry import registry
from utilities.permissions import ModelAction, register_model_actions


def register() -> None:
    """Offer the actions of each model under their own names, and only the models that users need permissions for.

    NetBox takes the names of permissions for actions. It would offer "retry_delivery", and grant with it a permission
    that nothing asks for.
    """
    texts: dict[str, Any] = {}
    for model in apps.get_app_config("rq_webhooks").get_models():
        meta = model._meta
        registry["model_actions"].pop(meta.label_lower, None)
        own = {codename.removesuffix(f"_{meta.model_name}"): gettext_lazy(text) for codename, text in meta.permissions}
        if own:
            register_model_actions(model, [ModelAction(name, text) for name, text in own.items()])
            texts |= own
        if not meta.default_permissions:
            model._netbox_private = True  # NetBox's _netbox_private: it has no other way to leave out a model
    _describe_actions(texts)


def _describe_actions(texts: Mapping[str, Any]) -> None:
    """Let the form of permissions show what each action allows as the label of its box, and its name as the help.

    NetBox has it the other way round: the labels would be words such as "chain".
    """
    from users.forms import ObjectPermissionForm  # importable only once all models are loaded

    build = ObjectPermissionForm.__init__

    @wraps(build)
    def build_described(form: Any, *args: Any, **kwargs: Any) -> None:
        build(form, *args, **kwargs)
        for name, text in texts.items():
            field = form.fields.get(f"action_{name}")
            if field is not None and field.help_text is text:  # not of another plugin with such an action
                field.label, field.help_text = text, name

    ObjectPermissionForm.__init__ = build_described
