"""The management commands.

commands       one module for each
base           what they share: the errors of the database, and the start and progress of a run
import_plans   webhooks of NetBox and Nautobot, translated for ``webhooks_import``
import_source  where their webhooks come from
"""
