"""What pages show to one user, for the admin and for pages of other frameworks: values, without HTML and addresses.

status, delivery, event, run, webhook, why
             one page each: what ``insight`` knows of it, and what the user may do about it by ``operations``
acts         acts on some rows of a list, and what a page says about them afterwards
switches     enable, disable, pause and resume chosen webhooks
try_it       the part of the form of a webhook that tries its values before they are saved
links        the links and buttons of pages, in terms of models
"""
