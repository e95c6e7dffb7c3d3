"""What users do to webhooks, deliveries and failed events, for the admin, the API and the commands.

webhooks     test, pause, resume and delete webhooks, rotate keys, and why a user may not save settings
edits        whether the settings of a webhook changed since a user read them
trial        try a webhook on a real object, or its filters on stored events, before it is saved
retries      retry, resend and discard deliveries
replays      replay events; the runs that replay and recover
backfills    send a webhook the stored events that it did not get
skipped      send a webhook the objects of changes that it skipped
runs         act on many rows: begin, preview and steer a run; workers execute it (``delivery.runs.steps``)
run_filters  the filters that each kind of run can have
"""
