"""The site's REST API, used as any client would."""

from __future__ import annotations

import http.client
import json
from typing import Any

from demo import ports
from demo.errors import DemoError
from demo.run import Run


class Site:
    def __init__(self, here: Run) -> None:
        self._here = here

    def request(self, method: str, path: str, data: object = None) -> tuple[int, Any]:
        """One request with the administrator's token. Raises OSError or HTTPException without an answer."""
        connection = http.client.HTTPConnection(ports.HOST, self._here.web_port, timeout=30)
        headers = {"Authorization": f"Token {self._here.key}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, json.dumps(data) if data is not None else None, headers)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        is_json = response.headers.get_content_type() == "application/json"
        return response.status, json.loads(body) if body and is_json else None

    def call(self, method: str, path: str, data: object = None) -> Any:
        """The answer to a request. Raises DemoError when it is no success."""
        status, answer = self.request(method, path, data)
        if not 200 <= status < 300:
            raise DemoError(
                f"{method} {path} was answered with HTTP {status}: {answer}", self._here.log("web")
            )
        return answer

    def find(self, path: str, slug: str) -> Any:
        """The one object with this slug."""
        return self.call("GET", f"{path}?slug={slug}")["results"][0]

    def as_sent(self, answer: Any) -> Any:
        """An answer as the payload of a webhook has it: without a request, URLs are paths."""
        return json.loads(json.dumps(answer).replace(self._here.site_url, ""))
