"""The real code in a simulated world, steered by a seed. See docs/simulation.md.

``world``        the scheduler: processes that take turns, on simulated time
``clocks``       the time that they see
``databases``    their connections: each statement and commit is a step, and faults of the database
``receivers``    what answers their requests, in place of HTTP
``redis``        wake-ups that are lost, late or doubled
``processes``    what a worker, a web process and an admin do
``story``        what happens to them: changes, acts of admins and faults, made from the seed
``ledger``       what the changes were, from a witness that knows nothing about webhooks
``invariants``   what must hold after each commit, and at the end
``runs``         a run of one story, and the search for its shortest form
``planted``      defects to find
``__main__``     the command
"""
