"""A process that saves labels, each in a transaction of its own, and prints how many milliseconds each took."""

from __future__ import annotations

import json
import sys
import time

if __name__ == "__main__":
    import django

    django.setup()
    from django.db import connection, transaction

    from tests.testapp.models import Label
    from webhooks.models import Webhook

    list(Webhook.objects.all())  # the connection to the database is no part of what is measured
    took = []
    for number in range(int(sys.argv[1])):
        began = time.perf_counter()
        with transaction.atomic():
            Label.objects.create(name=f"label {number}")
        took.append((time.perf_counter() - began) * 1000)
    connection.close()
    print(json.dumps(took))
