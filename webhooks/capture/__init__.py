"""A change becomes an Event, in the transaction of the change.

The docstring of ``webhooks`` follows it from module to module. ``bulk`` and ``custom_events`` record what Django does
not signal, and ``context`` knows the user and request of the change.
"""
