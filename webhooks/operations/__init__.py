"""What users do with webhooks, deliveries and failed events. The admin, the API and the commands all call this room."""
