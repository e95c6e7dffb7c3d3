"""A host project without the admin, sessions and messages, and with a minimal user model."""
