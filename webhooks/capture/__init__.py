"""A change becomes an Event, in the transaction of the change.

The docstring of ``webhooks`` follows it from module to module. ``batch`` records the changes of a block together.
``bulk`` and ``custom_events`` record what Django does not signal. ``context`` knows the user and request of a change,
``conditions`` what a webhook asks of an Event.
"""
