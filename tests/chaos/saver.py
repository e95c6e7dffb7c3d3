"""A process that saves labels, one a transaction."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    import django

    django.setup()
    from django.db import connection, transaction

    from tests.testapp.models import Label

    for number in range(int(sys.argv[1])):
        with transaction.atomic():
            Label.objects.create(name=f"label {number}")
    connection.close()
