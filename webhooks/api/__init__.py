"""The REST API: define webhooks, read Events and Deliveries, send them again or discard them, and ask why.

A host includes it in its URLs: ``path("api/webhooks/", include("webhooks.api.urls"))``. It uses the host's
authentication, renderers, throttles and permission classes. Its own are model permissions, filters and pagination.

``webhooks``, ``events`` (with skips), ``deliveries``, ``runs`` and ``reports`` each have their serializers, filters and
views. ``base`` and ``fields`` serve all of them.
"""
