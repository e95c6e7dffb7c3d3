"""The permissions of the app, as NetBox's form of permissions grants them.

A permission of NetBox has object types and actions. The action ``retry`` and the model ``delivery`` make
``rq_webhooks.retry_delivery``.
"""

from __future__ import annotations

from django.apps import apps
from django.utils.translation import gettext as _
from netbox.registry import registry
from utilities.permissions import ModelAction, register_model_actions


def register() -> None:
    """Offer the actions of each model under their own names, and only the models that users need permissions for.

    NetBox takes the names of permissions for actions. It would offer "retry_delivery", and grant with it a permission
    that nothing asks for.
    """
    for model in apps.get_app_config("rq_webhooks").get_models():
        meta = model._meta
        registry["model_actions"].pop(meta.label_lower, None)
        names = [(codename.removesuffix(f"_{meta.model_name}"), text) for codename, text in meta.permissions]
        if names:
            register_model_actions(model, [ModelAction(name, _(text)) for name, text in names])
        if not meta.default_permissions:
            model._netbox_private = True
