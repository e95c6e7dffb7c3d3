"""The REST API of the plugin, where NetBox looks for it."""
