"""The code behind ``scripts/bench``: it measures speed and cost against baselines in the same run.

targets      figures, their targets, and whether a target is met
workloads/   the measurements: one module for each subject, and the list of all workloads
runner       runs workloads in turn and collects their results
report       the Markdown table, the JSON, and the description of the machine
servers      PostgreSQL, Valkey, the receiver and the workers
receiver     a very fast HTTP receiver in its own process, and the inboxes that show its requests
sample_data  devices, and millions of events and deliveries, inserted by SQL
deliveries   deliveries by this app's workers, and the baselines: RQ jobs and bare loops
clients      the HTTP clients of the baselines, which run in other processes
steady       a steady load, and how it arrives before, during and after some trouble
unused_host  a host that uses nothing optional, in a process of its own
timed_worker the worker of such a load, which also writes how long its transactions take
pinned       two busy workers in turn, with and without a pinned snapshot
rates_plot   one worker and its baselines as bars, from the JSON of a run
plot         bar charts as SVG
measure      seconds, CPU and memory
"""
