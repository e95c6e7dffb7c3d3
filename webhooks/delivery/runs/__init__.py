"""Runs: acts on many rows. Workers take them forward step by step, alongside live traffic.

steps  one worker's part: choose the rows of a step, take it, send what it has claimed
late   waits for open transactions, and reads again what they committed
risky  notes a step that may end or stall its worker, and limits its time
kinds  what a kind of run is; ``operations.kinds`` has all kinds
"""
