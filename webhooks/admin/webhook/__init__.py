"""The pages of webhooks.

list      the list; enable, disable, pause, resume
page      one webhook: permissions, saving, tests, buttons, deletion
sections  the sections of its page: health on top, then those of ``webhooks.forms``
try_it    before the form is saved: the exact request for an object or a custom event, and a trial of the filters
"""
