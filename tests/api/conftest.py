"""Clients of the REST API."""

from __future__ import annotations

import pytest
from rest_framework.test import APIClient

from tests.support.rest import client_of


@pytest.fixture
def committing(database: str) -> APIClient:
    """``api`` with real commits, for requests that are no transaction: an error would break the test's own."""
    return client_of(is_superuser=True)
