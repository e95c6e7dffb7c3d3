"""Actions of users on webhooks, deliveries and failed events, for the admin, the API and the commands."""
