"""The management commands.

commands       one module for each
base           the shared parts: errors of the database, and the start and progress of a run
import_plans   webhooks of NetBox and Nautobot, translated for ``webhooks_import``
import_source  the webhooks as their REST APIs give them, or as files
"""
