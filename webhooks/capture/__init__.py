"""A change becomes an Event, in the transaction of the change.

signals        receivers of Django's signals
bulk           batches, and querysets that record their own changes
custom         events that code sends
transaction    the earlier changes of the open transaction, by object
prechange      the objects as they were before the transaction
events         merge the change with the earlier ones, then insert, update or delete the Event
subscriptions  the models and actions that each webhook wants
serialize      the object as JSON, by the project's own serializers
matching       the webhooks' conditions and other filters
skips          the changes that webhooks do not want, with the reasons
context        the user and request behind a change
"""
