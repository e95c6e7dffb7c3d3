"""The pages of runs.

list   the list; pause, resume, cancel
page   one run with its progress
start  the page that asks before a run of the rows of a list begins
"""
