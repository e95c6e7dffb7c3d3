"""The status page, /admin/webhook-backend-status/: what is wrong, what to do, and what the webhooks do now.

views      the page, and the parts that it refreshes
problems   a box for each cause, with its buttons
figures    rates, percentages, times, and the chart of 24 hours
tables     webhooks, failed deliveries by reason, runs, workers, the database
acts       the buttons: retry, resume, enable, test, cancel a run
"""
