"""The form of a webhook, for the pages of any framework. It needs no ``django.contrib.admin``.

webhook   ``WebhookForm``, with its fields and widgets: models, conditions, secrets
sections  how its fields belong together, and lines about their values
"""

from webhooks.forms.webhook import WebhookForm, initial_values

__all__ = ["WebhookForm", "initial_values"]
