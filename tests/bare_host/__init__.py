"""A host project without the admin, sessions and messages, and with a user model that has little of Django's."""
