"""Actions of users on webhooks, deliveries and failed events, for the admin, the API and the commands.

webhooks        test, pause, resume and delete webhooks, rotate keys
refusals        why a user may not save settings of a webhook
trial           try a webhook on a real object before it is saved
retries         retry, resend and discard deliveries, replay events
runs, run_acts  the same for many rows: begin, preview and steer a run; workers execute it (``delivery.run_steps``)
run_filters     the filters that a run can have, and their values
history         who changed which row
why             why did nothing arrive?
skip_reasons    the reasons of skips as sentences
status          the alarms and counts of the site, read by ``alarms``, ``overview``, ``counts`` and ``vacuum``
statistics      percentages, rates and times of attempts
wording         numbers and times in words
"""
