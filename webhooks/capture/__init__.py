"""A change becomes an Event, in the transaction of the change.

signals        receivers of Django's signals; with ``bulk`` and ``custom``, the ways in
transaction    what the open transaction did to each object so far
prechange      what the objects were before it
events         merge the change with that, then insert, update or delete the Event
subscriptions  which enabled webhooks want which model and action
serialize      the object as JSON, by the project's own serializers
matching       the webhooks' conditions and other filters
skips          why webhooks do not want a change
context        who makes the change
"""
