"""A process that saves labels, one a transaction, and prints how many milliseconds each took."""

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

    list(Webhook.objects.all())  # connect before the clock starts
    took = []
    for number in range(int(sys.argv[1])):
        began = time.perf_counter()
        with transaction.atomic():
            Label.objects.create(name=f"label {number}")
        took.append((time.perf_counter() - began) * 1000)
    connection.close()
    print(json.dumps(took))
