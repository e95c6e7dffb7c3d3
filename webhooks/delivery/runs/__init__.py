"""Runs: acts on many rows. Workers take them forward step by step, alongside live traffic.

steps  one worker's part: choose the rows of a step, take it, send what it has claimed
acts   what each kind of run does with its rows; ``operations`` adds the kinds that need capture
notes  which step is being tried, so that an event that ends or stalls its workers is found
time_limit  ends a step that hangs
pace   how many events one query looks at
"""
