"""The REST API: webhooks to define, events and deliveries to read, Retry and Discard.

A host mounts it: ``path("api/webhooks/", include("webhooks.api.urls"))``. It keeps to the host's authentication,
renderers and throttles; permissions, filters and the paging of long lists are its own.
"""
