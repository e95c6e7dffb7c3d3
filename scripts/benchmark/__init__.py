"""Measures what the app costs and delivers, against baselines in the same run: ``scripts/bench``.

figures      what a figure is, and when its target is met. Pure
report       the table and the JSON. Pure
catalogue    every experiment, in the order of the table; a new one is added there
experiments/ one module for each subject: sets up, measures, gives runs
lab          the servers, databases, receiver and workers that experiments use
receiver     a process that takes requests far faster than anything here sends; ``mailbox`` asks it what came
loops        the baselines that know no database: a bare loop over requests, and over urllib3
usual        the baseline that people use: one RQ job for each delivery
"""
