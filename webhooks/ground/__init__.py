"""What everything else may stand on. Nothing here knows the tables of this app, or how a request is sent.

``conf`` has the settings, ``errors`` and ``error_kinds`` what can go wrong, ``db`` the databases in general,
``registry`` the registered models, ``payloads`` and ``headers`` what a request is made of, and ``security`` secrets and
the addresses that are allowed.
"""
