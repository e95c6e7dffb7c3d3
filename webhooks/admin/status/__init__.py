"""The status page, /admin/webhook-backend-status/: problems with their remedies, figures and tables.

views      the page, the parts that it refreshes, and the button that retries all
problems   a box for each cause, with its buttons
figures    rates, percentages, times, and the chart of 24 hours
tables     webhooks, failed deliveries by reason, runs, workers, the database

Its other buttons are those of the pages of deliveries, webhooks and runs, and return to this page.
"""
