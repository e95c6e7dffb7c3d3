"""Webhooks and event rules of NetBox and Nautobot, read from what their REST APIs answer: ``answers`` reads,
``plans`` translates, with ``headers``, and ``making`` judges and makes."""
