"""Modules for other projects, each behind the seams of the app. A project that does not use one does not import it."""
