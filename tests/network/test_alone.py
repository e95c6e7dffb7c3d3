"""The system's own resolver and real sockets, in a network where every address that is forbidden would answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.inbox import ROOT

UNSHARE = ["unshare", "--map-root-user", "--mount", "--net"]


def is_possible() -> bool:
    try:
        return subprocess.run([*UNSHARE, "true"], capture_output=True, timeout=60, check=False).returncode == 0
    except OSError:
        return False


pytestmark = pytest.mark.skipif(not is_possible(), reason="this system lets nobody make a network of its own")


@dataclass
class Case:
    """What a name resolves to, lookup after lookup; what is sent; where it must have come out, and why else not."""

    title: str
    url: str
    reached: list[str]
    reasons: list[str]
    zone: dict[str, list[list[str]]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


META = "is a cloud metadata address"
LOOP = "is loopback"


def name(*lookups: list[str]) -> dict[str, list[list[str]]]:
    return {"hooks.example": list(lookups)}


URL = "http://hooks.example/"
CASES = [
    Case("a private address is reached", URL, ["10.0.0.1"], [""], name(["10.0.0.1"])),
    Case("and by IPv6", URL, ["fd12::1"], [""], name(["fd12::1"])),
    Case("private ones may be denied", URL, [], ["is private"], name(["10.0.0.1"]), {"DENY_PRIVATE": True}),
    Case("public ones then are not", URL, ["8.8.8.8"], [""], name(["8.8.8.8"]), {"DENY_PRIVATE": True}),
    Case("rebinding to metadata", URL, ["10.0.0.1"], ["", META, META], name(["10.0.0.1"], ["169.254.169.254"])),
    Case("rebinding to loopback", URL, ["10.0.0.1"], ["", LOOP], name(["10.0.0.1"], ["127.0.0.1"])),
    Case("rebinding to IPv6", URL, ["10.0.0.1"], ["", LOOP], name(["10.0.0.1"], ["::1"])),
    Case("rebinding back", URL, ["10.0.0.1"], [LOOP, ""], name(["127.0.0.1"], ["10.0.0.1"])),
    Case("one bad address among good ones", URL, [], [META], name(["10.0.0.1", "10.0.0.2", "169.254.169.254"])),
    Case("a bad IPv6 beside a good IPv4", URL, [], [LOOP], name(["10.0.0.1", "::1"])),
    Case("a bad IPv4 beside a good IPv6", URL, [], [LOOP], name(["fd12::1", "127.0.0.1"])),
    Case("AWS by IPv6", URL, [], [META], name(["fd00:ec2::254"])),
    Case("Alibaba", URL, [], [META], name(["100.100.100.200"])),
    Case("mapped loopback", URL, [], [LOOP], name(["::ffff:127.0.0.1"])),
    Case("metadata behind NAT64", URL, [], [META], name(["64:ff9b::a9fe:a9fe"])),
    Case("a private one behind NAT64", URL, ["64:ff9b::a00:1"], [""], name(["64:ff9b::a00:1"])),
    Case("local NAT64", URL, [], ["is reserved"], name(["64:ff9b:1::7f00:1"])),
    Case("6to4", URL, [], ["is reserved"], name(["2002:7f00:1::1"])),
    Case("unspecified", URL, [], ["is unspecified"], name(["0.0.0.0"])),
    Case("unspecified by IPv6", URL, [], ["is unspecified"], name(["::"])),
    Case("no such name", URL, [], ["the name does not resolve"]),
    Case("a redirect to metadata", URL + "redirect", ["10.0.0.1"], ["HTTP 302: redirects"], name(["10.0.0.1"])),
    Case("metadata that is allowed", URL, ["169.254.169.254"], [""], name(["169.254.169.254"]),
         {"ALLOW_NETWORKS": ["169.254.169.254"]}),
    Case("the address itself", "http://169.254.169.254/latest/meta-data/", [], [META]),
    Case("a number", "http://2852039166/", [], [META]),
    Case("hexadecimal", "http://0xa9.0xfe.0xa9.0xfe/", [], [META]),
    Case("octal and short", "http://0177.1/", [], [LOOP]),
    Case("octal and short, allowed", "http://0177.1/", ["127.0.0.1"], [""], settings={"ALLOW_NETWORKS": ["127.0.0.1"]}),
    Case("mapped", "http://[::ffff:169.254.169.254]/", [], [META]),
    Case("in full-width digits", "http://１６９.254.169.254/", [], ["InvalidURL"]),
    Case("with user info", "http://hooks.example@169.254.169.254/", [], [META], name(["10.0.0.1"])),
]  # fmt: skip


@pytest.fixture(scope="module")
def results() -> list[dict[str, Any]]:
    cases = [
        {"url": case.url, "zone": case.zone, "settings": case.settings, "times": len(case.reasons)} for case in CASES
    ]
    done = subprocess.run(
        [*UNSHARE, sys.executable, "-m", "tests.support.isolated_network"],
        input=json.dumps(cases),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'example'}", "DJANGO_SETTINGS_MODULE": "tests.settings"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.title for case in CASES])
def test_only_what_was_judged_is_reached(results: list[dict[str, Any]], number: int) -> None:
    case, result = CASES[number], results[number]
    assert result["reached"] == case.reached
    for told, expected in zip(result["reasons"], case.reasons, strict=True):
        assert (expected in told) if expected else told == ""
    # One lookup for each attempt, of each type: nothing is asked between the judgement and the connection.
    if case.zone and "@" not in case.url:
        assert result["asked"] == {"hooks.example 1": len(case.reasons), "hooks.example 28": len(case.reasons)}
