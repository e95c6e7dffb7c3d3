"""What pages show to one user, for the admin and for pages of other frameworks: values, without HTML and addresses.

status, delivery, event, why
             one page each: what ``insight`` knows of it, and what the user may do about it by ``operations``
links        the links and buttons of pages, in terms of models
"""
