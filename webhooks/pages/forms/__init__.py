"""The forms of the pages, for any framework. They need no ``django.contrib.admin``.

webhook   ``WebhookForm``, with its fields and widgets: models, conditions, secrets
sections  how its fields belong together, and lines about their values
filters   the filters above the lists of deliveries, events, skips and runs
runs      the pages before a run: which rows it takes, or since when
"""

from webhooks.pages.forms.webhook import WebhookForm, initial_values

__all__ = ["WebhookForm", "initial_values"]
