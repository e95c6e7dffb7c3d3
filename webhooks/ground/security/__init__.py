"""Encryption of secrets in the database, and signatures of requests."""
