"""What pages show to one user, for the admin and for pages of other frameworks: values, without HTML and addresses.

status, delivery, event, run, webhook, why
             one page each: what ``insight`` knows of it, and what the user may do about it by ``operations``
run_start    the pages that ask before a run begins, and its beginning
acts         acts on chosen rows, such as retry or pause, and what a page says about them afterwards
try_it       the part of the form of a webhook that tries its values before they are saved
links        the links and buttons of pages, in terms of models
forms        the form of a webhook, the filters of lists, and the forms before a run
"""
