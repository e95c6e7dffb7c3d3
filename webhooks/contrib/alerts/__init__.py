"""Alerts: problems reach the operators, as e-mails and as events that webhooks may send. Each is a class of hooks.

``WEBHOOKS["HOOKS"]`` lists ``webhooks.contrib.alerts.emails.Emails`` and ``webhooks.contrib.alerts.events.Events``.
"""
