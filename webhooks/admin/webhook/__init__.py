"""The pages of webhooks.

list       the list; enable, disable, pause, resume
page       one webhook: permissions, saving, tests, buttons, deletion
health     the top of its page: state, figures, last deliveries
form       its form, with the fields and widgets that only it has
fieldsets  the sections of that form
try_it     “Try it” before the form is saved: the exact request for an object or a custom event
preview    a trial of the filters in the form on the last events
"""
