"""The REST API as clients of NetBox expect it."""
