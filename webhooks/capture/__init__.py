"""A change becomes an Event, in the transaction of the change.

signals        receivers of Django's signals; with ``bulk`` and ``custom``, the ways in
recording      called by these three: record a change, a batch, a custom event
transaction    what the open transaction did to each object so far
events         merge with that, then insert, update or delete the Event
subscriptions  which enabled webhooks want which model and action
serialize      the object and its previous state as JSON, by the project's own serializers
matching       the webhooks' conditions and other filters
context        who makes the change
errors         log errors instead of raising them, and record the missed change later
"""
