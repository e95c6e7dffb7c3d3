"""The test suites of other projects, without the app and with a webhook on every model: ``nox -s others``.

``projects`` lists them, ``__main__`` runs one of them, ``everywhere`` is the pytest plugin in its processes, and
``comparison`` says what differs.
"""
