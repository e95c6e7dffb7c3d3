"""Open the URLs in the arguments as the user admin. Fails if one is not shown by Grappelli."""

import sys

import django
from django.test import Client

django.setup()

from django.contrib.auth.models import User  # noqa: E402

client = Client()
client.force_login(User.objects.get(username="admin"))
for address in sys.argv[1:]:
    answer = client.get(address)
    assert answer.status_code == 200, f"{address} answers {answer.status_code}"
    assert b"grp-" in answer.content, f"{address} is not in Grappelli's look"
