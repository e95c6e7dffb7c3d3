"""What users want to know: for the admin, the API and the commands, and for pages of other frameworks.

status_page, webhook_page, delivery_page, event_page, why_page
             what a page shows to one user, as a dataclass with values: no HTML and no address is in it
links        the links and buttons of pages, in terms of models
why          why did nothing arrive?
status       the alarms and figures of the site, read by ``alarms``, ``overview`` and ``dead_rows``
silence      enabled webhooks that send nothing, although nothing fails
statistics   percentages, rates and times of attempts
counts       counts of deliveries, each up to a cap, for pages and alarms
paging       long lists by cursors or as a queryset, which read few rows
history      who changed which row
wording      numbers, times and the reasons of skips in words
"""
