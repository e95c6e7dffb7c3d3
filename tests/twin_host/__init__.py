"""A host project that has an app called webhooks itself, with a table, migrations and a page in the admin."""
