"""The statements that run over and over, as SQL, the same for PostgreSQL and SQLite.

The ORM takes several times longer to put one of these together than a database takes to run it, and a lane
waits for each of them. What runs now and then, or for an admin, is on the models' ``querysets``.
"""
