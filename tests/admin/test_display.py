"""Highlighted code and charts: escaped, bounded, and without inline style."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from webhooks.templatetags import webhooks_display

HOSTILE = "</pre><script>alert(1)</script>"


def test_json_is_indented_and_highlighted_by_classes_alone() -> None:
    shown = webhooks_display.json_block('{"name": "Ams", "vlan": 7, "gone": null}', "Body of the request")
    assert 'class="wh-pre" tabindex="0" role="region" aria-label="Body of the request"' in shown
    assert '  <span class="nt">&quot;name&quot;</span>: <span class="s2">&quot;Ams&quot;</span>,\n' in shown
    assert '<span class="mi">7</span>' in shown
    assert '<span class="kc">null</span>' in shown
    assert "style=" not in shown


@pytest.mark.parametrize("text", [json.dumps({HOSTILE: HOSTILE}), HOSTILE, "[" * 5000, json.dumps([HOSTILE] * 5000)])
def test_what_others_wrote_is_escaped_whether_it_is_json_or_not_and_however_long(text: str) -> None:
    assert "<script" not in webhooks_display.json_text(text)
    assert "<script" not in webhooks_display.headers_block({"X-Name": HOSTILE, HOSTILE: "1"}, "Headers")


def test_a_long_text_has_no_element_for_each_token() -> None:
    shown = webhooks_display.json_text(json.dumps([{"id": number} for number in range(20_000)]))
    assert "<span" not in shown
    assert shown.count("\n") > 20_000


@pytest.mark.parametrize(("depth", "count"), [(95, 50_000), (900, 7_000)])
def test_a_deep_text_is_not_indented_to_many_times_its_length(depth: int, count: int) -> None:
    text = "[" * depth + ", ".join(["1"] * count) + "]" * depth
    assert webhooks_display.json_text(text).count("\n") <= 1


@pytest.mark.usefixtures("in_utc")
def test_one_failure_among_thousands_is_seen_in_a_chart() -> None:
    two = datetime(2026, 11, 26, 2, tzinfo=UTC)
    shown = webhooks_display.day_chart({two: (5000, 1), two + timedelta(hours=1): (0, 0)})
    label = "Attempts of the last 24 hours, by hour: 5,000 succeeded, 1 failed."
    assert f'role="img" aria-label="{label}"' in shown
    assert '<path class="wh-bar-bad" d="M48.00 0.00h384.00v1.00h-384.00z"/>' in shown
    assert '<path class="wh-bar-good" d="M48.00 1.00h384.00v47.00h-384.00z"/>' in shown
    assert "<title>02:00 to 03:00: 5,000 succeeded, 1 failed</title>" in shown
    assert "style" not in shown
