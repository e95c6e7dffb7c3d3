"""What users want to know: for ``pages``, the REST API and the commands.

why          why did nothing arrive?
status       the alarms and figures of the site, read by ``alarms`` and ``overview``
silence      enabled webhooks that send nothing, although nothing fails
statistics   percentages, rates and times of attempts
counts       counts of deliveries, each up to a cap, for pages and alarms
paging       long lists by cursors or as a queryset, which read few rows
bodies       the bodies that attempts sent
history      who changed which row
wording      numbers, times and the reasons of skips in words
"""
