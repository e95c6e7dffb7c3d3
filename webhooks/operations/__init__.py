"""What users do to webhooks, deliveries and failed events, for the admin, the API and the commands.

webhooks     test, pause, resume and delete webhooks, rotate keys, and why a user may not save settings
validation   the rules for a webhook as a whole; ``Webhook.full_clean`` calls them
edits        whether the settings of a webhook changed since a user read them
trial        try a webhook on a real object, or its filters on stored events, before it is saved
kinds        the kinds of runs, one class each: retry, resend, discard, recover, and the list of all
retries      the base of the kinds that change deliveries, a few at once or many
replays      replay events, and the run that replays many
backfills    the runs that send missed changes to a webhook: stored events, or the objects of skipped changes
runs         act on many rows: begin, preview and steer a run; workers execute it (``delivery.runs.steps``)
run_filters  check the filters of a run, and say them in words
"""
