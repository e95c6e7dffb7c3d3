"""The management commands.

commands  one module for each
base      the shared parts: errors of the database, and the start and progress of a run
imports   webhooks of NetBox and Nautobot, read and translated for ``webhooks_import``
"""
