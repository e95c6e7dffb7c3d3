"""Actions of users on webhooks, deliveries and failed events, for the admin, the API and the commands.

webhooks     test, pause, resume and delete webhooks, rotate keys, and why a user may not save settings
edits        whether the settings of a webhook changed since a user read them
trial        try a webhook on a real object, or its filters on stored events, before it is saved
retries      retry, resend and discard deliveries
replays      replay events; the runs that replay and recover
backfills    send a webhook the stored events that it did not get
skipped      send a webhook the objects of changes that it skipped
runs         act on many rows: begin, preview and steer a run; workers execute it (``delivery.runs.steps``)
run_filters  the filters that each kind of run can have
history      who changed which row
silence      enabled webhooks that send nothing, although nothing fails
why          why did nothing arrive?
status       the alarms and figures of the site, read by ``alarms``, ``overview`` and ``dead_rows``
counts       counts of deliveries, each up to a cap, for pages and alarms
paging       pages of long lists, which read few rows
statistics   percentages, rates and times of attempts
wording      numbers, times and the reasons of skips in words
"""
