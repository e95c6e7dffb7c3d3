"""The section of one attempt: a stored request as a command of curl, as a real shell reads it."""

from __future__ import annotations

import json
import subprocess
import sys

from webhooks.ground.text.redaction import REDACTED
from webhooks.pages.delivery import BODY_FILE, MAX_ARGUMENT, curl

# Stands in for curl, and prints its arguments.
PRINT = f"curl() {{ {sys.executable} -c 'import json, sys; print(json.dumps(sys.argv[1:]))' \"$@\"; }}"


def arguments(command: str, **variables: str) -> list[str]:
    """The arguments that a shell gives to curl."""
    done = subprocess.run(
        ["/bin/sh", "-c", f"{PRINT}\n{command}"], env=variables, capture_output=True, check=True, text=True
    )
    found: list[str] = json.loads(done.stdout)
    return found


def test_a_shell_reads_each_value_as_it_was_sent() -> None:
    url = "https://cmdb.example/it's?a=$HOME&b=`id`"
    body = '@{"name": "O\'Hara \\\\ $(id)\\n!"}\n'
    command = curl("POST", url, {"X-Odd": "\"; id; '", "X-Empty": "", "Content-Length": "3", "Host": "x"}, body)
    assert arguments(command) == [
        "--request", "POST", "--url", url, "--header", 'X-Odd: "; id; \'', "--header", "X-Empty;", "--data-raw", body,
    ]  # fmt: skip


def test_curl_takes_brackets_in_a_url_as_they_are() -> None:
    url = "http://127.0.0.1:1/in?filter[site]={a,b}"
    command = curl("POST", url, {}, "")
    assert arguments(command)[:5] == ["--request", "POST", "--url", url, "--globoff"]
    assert "--globoff" not in arguments(curl("POST", "https://a.example/in?filter=%5Bsite%5D", {}, ""))


def test_a_secret_is_a_variable_of_the_shell() -> None:
    command = curl("PUT", "https://a.example/", {"X-Hook-Signature": REDACTED, "Authorization": REDACTED}, "")
    assert REDACTED not in command
    found = arguments(command, X_HOOK_SIGNATURE="a b", AUTHORIZATION="Token 'x'")
    assert found[5::2][:2] == ["X-Hook-Signature: a b", "Authorization: Token 'x'"]
    command = curl("POST", "https://a.example/", {"3scale-Key": REDACTED}, "")
    assert arguments(command, _3SCALE_KEY="k")[5] == "3scale-Key: k"


def test_a_body_that_is_too_long_or_hidden_comes_from_a_file() -> None:
    for body in ("x" * (MAX_ARGUMENT + 1), None):
        assert arguments(curl("POST", "https://a.example/", {}, body))[-2:] == ["--data-binary", f"@{BODY_FILE}"]
