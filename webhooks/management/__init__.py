"""The management commands.

commands  one module for each
checks    Django's system checks, by id
base      the shared parts: errors of the database, and the start and progress of a run
imports   webhooks of NetBox and Nautobot, read and translated for ``webhooks_import``
"""
