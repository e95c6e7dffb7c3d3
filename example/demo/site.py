"""A client of the site's REST API."""

import json
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any

from demo.supervisord import DemoError

SITES = "/api/dcim/sites/"
TENANTS = "/api/tenancy/tenants/"
DELIVERIES = "/api/webhooks/deliveries/"


@dataclass(frozen=True)
class Site:
    url: str
    token: str

    def call(self, method: str, path: str, data: object = None) -> Any:
        """Send a request as the administrator and return the parsed answer. Raises DemoError on failure."""
        headers = {"Authorization": f"Token {self.token}", "Content-Type": "application/json"}
        with closing(HTTPConnection(self.url.removeprefix("http://"), timeout=60)) as connection:
            try:
                connection.request(method, path, json.dumps(data) if data else None, headers)
                response = connection.getresponse()
                body = response.read().decode()
            except (OSError, HTTPException) as error:
                raise DemoError(f"{method} {self.url}{path} failed: {error!r}", "web") from error
        if not 200 <= response.status < 300:
            raise DemoError(f"{method} {self.url}{path} got HTTP {response.status}: {body[:500]}", "web")
        return json.loads(body) if body else None

    def find(self, path: str, slug: str) -> Any:
        """The object with this slug."""
        return self.call("GET", f"{path}?slug={slug}")["results"][0]
