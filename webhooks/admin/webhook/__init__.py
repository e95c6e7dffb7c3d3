"""The pages of webhooks.

list      the list; enable, disable, pause, resume
page      one webhook: its health, the sections of its form, tests, buttons, deletion
try_it    before the form is saved: the exact request for an object or a custom event, and a trial of the filters
"""
