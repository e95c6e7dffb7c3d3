"""Templates: rendered as NetBox renders them, refused with the line of the error, and never without an end."""

from __future__ import annotations

import itertools
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.defaults import DEFAULT_FILTERS

from tests.support.fork_server import ForkServer
from tests.support.hostile_templates import BOMBS, ENDLESS, INTO_PYTHON
from tests.support.waiting import PATIENCE
from webhooks.ground.conf import conf
from webhooks.ground.payloads import templates
from webhooks.ground.payloads.templates import Renderer, TemplateError

CAPTURED = json.loads((Path(__file__).parents[1] / "captured" / "netbox_templates.json").read_text())
CONTEXTS = CAPTURED["contexts"]
UPDATE = CONTEXTS["update"]

# Where this differs from NetBox on purpose: docs/templates.md says why. Some are rendered differently, others refused.
RENDERED = {("body", ""): "", ("body", "{{ missing | tojson }}"): "null"}
REFUSED = {
    ("body", '{{ "env" }} {{ "CAP_SITE" | env }} {{ "HOME" | env }} {{ "CAP_NOPE" | env }}'): "No filter named 'env'",
    ("headers", "X-A"): "there is no colon",
    ("headers", "X-Evil: {{ data.evil }}"): "line break",
    ("headers", "X-A: a\x1cX-B: b"): "control character",
    ("headers", "X-A: a\x1dX-B: b"): "control character",
    ("headers", "X-A: a\x00b"): "control character",
    ("headers", 'X-E: {{ "CAP_SITE" | env }}'): "No filter named 'env'",
    ("headers", 'X-A: {{ "a: b" }}\n{{ "X-B: c\nX-D: d" }}'): "line break",
    ("url", "http://h.example/{{ data.evil }}"): "control character",
}


NOT_YOURS = [
    *("Host", "content-length", "Transfer-Encoding", "connection", "Keep-Alive", "TE", "trailer", "upgrade"),
    *("Proxy-Authorization", "webhook-id", "Webhook-Signature", "webhook-timestamp", "x-hook-signature"),
    *("Proxy-Anything", "HTTP2-Settings", "Content-Encoding", "Expect", "X-Webhook-Depth", "Proxy-Connection"),
    *("Webhook_Signature", "Transfer_Encoding"),
]


Render = Callable[..., Any]


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    with Renderer() as made:
        yield made


@pytest.fixture(scope="module")
def render(renderer: Renderer) -> Render:
    def rendered(kind: str, template: str, context: Any = UPDATE) -> Any:
        return getattr(renderer, kind)(template, json.dumps(context))

    return rendered


@pytest.mark.parametrize("kind", ["body", "headers", "url"])
def test_a_template_is_rendered_like_in_netbox(render: Render, kind: str) -> None:
    different = RENDERED.keys() | REFUSED.keys()
    cases = [case for case in CAPTURED["cases"] if case["kind"] == kind and (kind, case["template"]) not in different]
    assert cases
    for case in cases:
        context, expected = CONTEXTS[case["context"]], case["expected"]
        try:
            rendered = render(kind, case["template"], context)
        except TemplateError as error:
            assert str(error).startswith("line 1: "), case
            assert str(expected).startswith("error: "), case
        else:
            assert rendered == expected, case


@pytest.mark.parametrize(("kind", "template"), [*RENDERED, *REFUSED])
def test_intended_differences_from_netbox(render: Render, kind: str, template: str) -> None:
    assert [case for case in CAPTURED["cases"] if (case["kind"], case["template"]) == (kind, template)]
    if (kind, template) in RENDERED:
        assert render(kind, template) == RENDERED[kind, template]
        return
    with pytest.raises(TemplateError, match=re.escape(REFUSED[kind, template])):
        render(kind, template)


def test_a_number_that_json_does_not_have_is_refused(render: Render) -> None:
    with pytest.raises(TemplateError, match="not JSON compliant"):
        render("body", "{{ (1e308 * 10) | tojson }}")


def test_a_missing_value_is_null_in_json(render: Render) -> None:
    assert render("body", "{{ data.nope | tojson }} {{ {'a': [nope]} | tojson }}") == 'null {"a": [null]}'
    with pytest.raises(TemplateError, match="not JSON serializable"):
        render("body", "{{ range | tojson }}")


TEST = {"event": "ping", "data": {"id": 1, "display": "A test"}, "snapshots": {"prechange": None}}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ('{"text": {{ (data.name ~ " is " ~ data.status.label) | tojson }}}', '{"text": " is "}'),
        ("{{ data.display }}, {{ data.site.name | tojson }}", "A test, null"),
        ("{% for tag in data.tags %}{{ tag.name }}{% else %}none{% endfor %}", "none"),
        ("{{ data.name.upper() }}{{ data.comments[:10] }}{{ data.tags | map(attribute='slug') | join }}", ""),
        ("{{ data.speed / 1000 }}{{ 1 - data.a.b }}{{ -data.x ** 2 // 3 % 4 }}{{ data.x | round(2) }}", ""),
        (
            "{{ '%d %.1f' | format(data.speed, data.speed) }} {{ data.speed | int }} {{ data.tags | length }}",
            "0 0.0 0 0",
        ),
        ("{% if data.n > 5 or data.n <= 5 or data.n >= 5 or data.n < 5 %}fast{% endif %}", ""),
        ("{{ snapshots.prechange.name }}{{ snapshots.prechange.site.name }}", ""),
    ],
)
def test_templates_of_objects_can_be_tested_without_one(render: Render, template: str, text: str) -> None:
    assert render("body", template, TEST) == text


def test_only_a_test_lacks_its_values(render: Render) -> None:
    with pytest.raises(TemplateError, match="UndefinedError"):
        render("body", "{{ data.nope.name }}", TEST | {"event": "updated"})


@pytest.mark.parametrize(
    ("template", "line", "problem"),
    [
        ("a\n{{ b", 2, "unexpected end of template"),
        ("a\n\n{% if %}{% endif %}", 3, "Expected an expression"),
        ("{% if false %}\n{{ 1 | nope }}{% endif %}", 2, "No filter named 'nope'"),
        ("{% if false %}{{ 1 is nope }}{% endif %}", 1, "No test named 'nope'"),
        ('a\n{% include "x" %}', 2, "cannot take in others"),
        ('{% extends "x" %}', 1, "cannot take in others"),
        ('{% from "x" import y %}', 1, "cannot take in others"),
        ("{{ " + "(" * 500 + "1" + ")" * 500 + " }}", None, "nested too deeply"),
        ("{% if a %}" * 300 + "{% endif %}" * 300, None, "nested too deeply"),
        ("{% for a in b %}" * 30 + "{% endfor %}" * 30, None, "nested too deeply"),
        ("{{ " + "9" * 5_000 + " }}", None, "limit"),
        ("a\n{{ 1e999 }}", 2, "a number is too large"),
        ("{% if false %}{{ [-1e999] | first }}{% endif %}", 1, "a number is too large"),
        ("x" * 50_001, None, "50,001 characters"),
        ("{% autoescape {{}: 1} %}{% endautoescape %}", None, "unhashable type: 'dict'"),
    ],
)
def test_a_broken_template_is_refused_when_saved(
    renderer: Renderer, template: str, line: int | None, problem: str
) -> None:
    with pytest.raises(TemplateError, match=re.escape(problem)) as caught:
        renderer.check("body", template)
    message = str(caught.value)
    assert message.startswith(f"line {line}: ") if line else not message.startswith("line ")


@pytest.mark.parametrize(
    ("lines", "line", "problem"),
    [
        ("X-A: 1\nno colon\nX-B: 2", 2, "no colon"),
        ("\n\n{{ event }}: ok\nX A: 1", 4, "'X A' cannot be the name of a header"),
        (": 1", 1, "cannot be the name"),
        ("X-A: {{ event }} \x07", 1, "control character"),
        ("X-A: \u2603", 1, "beyond Latin-1"),
        *((f"X-A: 1\n{name}: {{{{ event }}}}", 2, f"{name} is not for a template to set") for name in NOT_YOURS),
    ],
)
def test_an_impossible_header_line_is_refused_when_saved(
    renderer: Renderer, lines: str, line: int, problem: str
) -> None:
    with pytest.raises(TemplateError, match=re.escape(problem)) as caught:
        renderer.check("headers", lines)
    assert str(caught.value).startswith(f"line {line}: ")


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("{{ event }}", "no colon in 'updated'"),
        ("{{ data.site.name }}: 1", "cannot be the name"),
        ("X-A: {{ data.site.name }}", "beyond Latin-1"),
        ("X-A: {{ data.evil }}", "line 1: ValueError: a value has a line break"),
        ("X-A: 1\nX-B: {{ data.rack.name.x }}", "line 2: UndefinedError"),
    ],
)
def test_a_rendered_line_that_is_no_header_fails_with_a_reason(
    render: Render, renderer: Renderer, lines: str, problem: str
) -> None:
    renderer.check("headers", lines)
    with pytest.raises(TemplateError, match=re.escape(problem)):
        render("headers", lines)


def test_header_safe_removes_line_breaks(render: Render) -> None:
    assert render("headers", "X-A: {{ data.evil | header_safe }}") == {"X-A": "x X-Injected: 1"}


def test_a_value_cannot_add_a_header(render: Render) -> None:
    for expression in ("data.evil", "data.evil | e", "data.evil ~ ''", "[data.evil] | join", "'%s' % data.evil"):
        with pytest.raises(TemplateError, match="header_safe"):
            render("headers", f"X-A: {{{{ {expression} }}}}")


@pytest.mark.parametrize(
    "template",
    [
        "X-A: {% filter replace('n', data.evil) %}n{% endfilter %}",
        "X-A: {% filter replace('n', data.evil) | upper %}n{% endfilter %}",
        "X-A: {% filter default(data.evil, true) %}{% endfilter %}",
        "X-A: {% call data.evil.format() %}{% endcall %}",
        "{% macro m() %}{{ caller() }}{% endmacro %}X-A: {% call m() %}{{ data.evil }}{% endcall %}",
        "X-A: {% for _ in 'a' %}{% filter replace('n', data.evil) %}n{% endfilter %}{% endfor %}",
    ],
)
def test_a_block_cannot_add_a_header(render: Render, template: str) -> None:
    with pytest.raises(TemplateError, match="header_safe"):
        render("headers", template)


def test_blocks_can_write_headers(render: Render) -> None:
    evil = "{% filter replace('n', data.evil) | header_safe %}n{% endfilter %}"
    macro = "{% macro m() %}<{{ caller() }}>{% endmacro %}"
    template = f"X-A: {evil}\nX-B: {{% filter upper %}}b{{% endfilter %}}\n{macro}X-C: {{% call m() %}}c{{% endcall %}}"
    assert render("headers", template) == {"X-A": "x X-Injected: 1", "X-B": "B", "X-C": "<c>"}


def test_a_failure_while_rendering_names_the_line(render: Render) -> None:
    with pytest.raises(TemplateError, match="'missing' is undefined") as caught:
        render("body", "{\n {% if true %}\n{{ missing.x }}{% endif %} }")
    assert str(caught.value).startswith("line 3: ")


OF_NO_USE = {"", "[]", "['']", "[Undefined]", "[(Undefined, [''])]"}


def test_a_template_cannot_reach_python_internals(render: Render) -> None:
    for template in INTO_PYTHON:
        try:
            assert render("body", template) in OF_NO_USE, template
        except TemplateError as error:
            assert str(error).startswith("line 1: "), template


# The data of one rendering, which the next one must not see changed.
CHANGES = [
    "{{ dict['x'].update(data, {'name': 'EVIL'}) }}",
    "{% set _ = data.update({'name': 'EVIL'}) %}",
    "{% set _ = data.update(name='EVIL') %}{{ data.name }}",
    "{% set _ = data.clear() %}",
    "{% set _ = data.pop('name') %}",
    "{% set _ = data.setdefault('evil', 'EVIL') %}",
    "{% set _ = data.tags.append('EVIL') %}",
    "{% for tag in data.tags %}{% set _ = loop.changed('EVIL') %}{% set _ = data.tags.insert(0, 'EVIL') %}"
    "{% break %}{% endfor %}",
    "{% set data = {'name': 'EVIL'} %}{% set event = 'EVIL' %}",
    "{% set namespace.name = 'EVIL' %}",
    "{% set _ = namespace(data).data.update({'name': 'EVIL'}) %}",
    "{% macro m(l=[]) %}{% set _ = l.append('EVIL') %}{{ l }}{% endmacro %}{{ m() }}",
    "{% set l = [] %}{% set _ = l.append('EVIL') %}{{ l }}",
    "{% macro range() %}EVIL{% endmacro %}{{ range() }}",
]


@pytest.mark.parametrize("template", CHANGES)
def test_a_template_cannot_change_the_data_of_the_next(render: Render, template: str) -> None:
    context = {"data": {"name": "core-01", "tags": [1]}, "event": "updated"}
    healthy = "{{ data | tojson }} {{ event }} {{ l is defined }} {{ range(2) | list }}"
    before = render("body", healthy, context)
    for _ in range(2):
        with suppress(TemplateError):
            assert render("body", template, context).count("EVIL") <= 1, "nothing is left from the rendering before"
    assert render("body", healthy, context) == before


def test_a_rendering_can_change_its_lists_and_objects(render: Render) -> None:
    template = (
        "{% set l = [] %}{% for i in data.tags %}{% set _ = l.append(i * 2) %}{% endfor %}"
        "{% set d = {} %}{% set _ = d.update({'l': l}) %}{% set _ = d.l.sort(reverse=true) %}{{ d | tojson }}"
    )
    assert render("body", template, {"data": {"tags": [1, 2]}}) == '{"l": [4, 2]}'


@pytest.fixture(scope="module")
def fork_server() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def limited() -> Iterator[Renderer]:
    """A renderer for templates with little time and memory, so that many can be tried."""
    with Renderer() as made:
        yield made


@pytest.mark.parametrize("template", [*ENDLESS, *BOMBS], ids=lambda template: template[:60])
def test_an_endless_template_is_ended(
    limited: Renderer, fork_server: ForkServer, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    monkeypatch.setattr(templates, "_started", fork_server.start)
    monkeypatch.setattr(templates, "CPU_SECONDS", 0.05)
    monkeypatch.setattr(templates, "MEMORY_MB", 150)
    began = time.monotonic()
    try:
        rendered = limited.body(template, json.dumps(UPDATE), hash(template))
    except TemplateError as error:
        assert not re.search(r"SIG(?!KILL)|open files|No module|status", str(error))
    else:
        assert len(rendered) <= conf.payload_bytes
    assert time.monotonic() - began < templates.SECONDS * PATIENCE
    assert limited.body("{{ data.id }}", json.dumps(UPDATE)) == "7"


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "more than 0.3 s"),
        ("{{ 'a' * 10 ** 9 }}", "more than 300 MB"),
        (
            "{% for i in range(20) %}{{ 'a' * 10 ** 5 }}{% endfor %}",
            "more than the 1,000,000 bytes that the setting PAYLOAD_BYTES allows",
        ),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "line 1: a macro, block or loop calls itself too often"),
    ],
)
def test_a_template_beyond_its_limits_fails_with_a_reason(
    render: Render, monkeypatch: pytest.MonkeyPatch, template: str, problem: str
) -> None:
    monkeypatch.setattr(templates, "SECONDS", 60)  # on a busy machine, 0.3 s of CPU can take more than 5 s
    with pytest.raises(TemplateError, match=re.escape(problem)):
        render("body", template)
    assert render("body", "{{ data.id }}") == "7", "the process is started again"


CONFUSING = {
    "a request": '"}\n{"source": "{{ 1 }}"}\n',
    "lines": "\n\n\n",
    "an answer": "t\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1x",
    "separators": "\u2028\x85\x00",
    "half characters": "\udc80 \ud800",
    "characters of four bytes": "\U0001f512",
}


@pytest.mark.parametrize("text", CONFUSING.values(), ids=CONFUSING)
def test_no_text_breaks_the_protocol(render: Render, text: str) -> None:
    for _ in range(2):
        assert render("body", "{{ data.text }}", {"data": {"text": text}}) == text
        assert render("body", f"{text}{{{{ data.text }}}}", {"data": {"text": text}}).endswith(text)
        with pytest.raises(TemplateError):
            render("body", "{{ data.text }}{{ a.b.c }}", {"data": {"text": text}})


@pytest.mark.parametrize(
    "answer", [b"", b"x", b"t" + b"\0" * 8 + b"\xff" * 8, b"t" + b"\0" * 15 + b"\1xy", b"t" + b"\0" * 15 + b"\1\xff"]
)
def test_an_invalid_answer_is_refused(answer: bytes, monkeypatch: pytest.MonkeyPatch, renderer: Renderer) -> None:
    boot = "import os, struct; os.write(1, struct.pack('!cdQ', b't', 0, 0)); os.read(0, 100); os.write(1, {!r})"
    with Renderer() as misled, monkeypatch.context() as patched:
        patched.setattr(templates, "_BOOT", boot.format(answer))
        with pytest.raises(TemplateError, match=r"gave an invalid answer|ended"):
            misled.body("{{ 1 }}", "{}")


def test_a_process_that_does_not_start_is_an_error_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Renderer() as broken:
        monkeypatch.setattr(templates, "_BOOT", "import nothing_of_this_name")
        with pytest.raises(TemplateError, match="does not start: ModuleNotFoundError: No module named 'nothing_"):
            broken.body("{{ 1 }}", "{}")
        monkeypatch.setattr(templates, "_python", lambda: "/nowhere/python")
        with pytest.raises(TemplateError, match=r"does not start: .*No such file"):
            broken.body("{{ 1 }}", "{}")
    assert len(caplog.messages) == 2


def test_the_interpreter_is_found_under_uwsgi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/usr/bin/uwsgi")
    with Renderer() as renderer:
        assert renderer.body("{{ 1 }}", "{}") == "1"


def test_a_filter_needs_no_file(render: Render) -> None:
    for name, value in itertools.product(DEFAULT_FILTERS, ("'a <b> http://x.y'", "[{'a': 1}]", "1.5")):
        with suppress(TemplateError):
            render("body", f"{{{{ {value} | {name} }}}}")
        try:
            render("body", f"{{{{ {value} | {name}('a') }}}}")
        except TemplateError as error:
            assert not re.search(r"open files|No module", str(error)), (name, value)


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        ("{{ '100%% of %(a b)5.1f%%' % {'a b': 2} }}", "100% of   2.0%"),
        ("{{ '%%(%s)%3ld%-4s|' | format('x', 7, 'y') }}", "%(x)  7y   |"),
        ("{{ '{:05.1f} {:>4}'.format(2.5, 'x') }}", "002.5    x"),
    ],
)
def test_formats_work_like_in_python(render: Render, template: str, rendered: str) -> None:
    assert render("body", template) == rendered


@pytest.mark.parametrize(
    ("kind", "template", "problem"),
    [
        ("headers", "X-A: {{ 'x' * 16000 }}", "the headers would have more than the 16,000 bytes"),
        ("url", "http://h.example/{{ 'x' * 2000 }}", "the URL would have more than the 2,000 bytes"),
    ],
)
def test_rendered_text_has_a_limit(render: Render, kind: str, template: str, problem: str) -> None:
    with pytest.raises(TemplateError, match=re.escape(problem)):
        render(kind, template)


def test_a_long_text_can_be_read_in_a_long_loop(render: Render) -> None:
    context = {"data": {"comments": "one of many words " * 500, "interfaces": list(range(1_000))}}
    lines = "{% for i in data.interfaces %}{% if data.comments.find('one') == 0 %}{{ i }} {% endif %}{% endfor %}"
    assert render("body", lines, context).endswith("998 999 ")


def test_a_large_object_is_rendered(render: Render) -> None:
    context = {"data": {"interfaces": [{"id": number, "name": f"eth{number}", "tags": []} for number in range(1_000)]}}
    rows = (
        "{% for i in data.interfaces %}{{ i.id }}: {{ i.name | upper }}{% if not loop.last %}, {% endif %}{% endfor %}"
    )
    assert render("body", rows, context).endswith("999: ETH999")
    assert json.loads(render("body", "{{ data | tojson(indent=2) }}", context)) == context["data"]


PIECES = """
{{ }} {% %} for in if else endif endfor set macro endmacro block call ( ) [ ] { } | ~ . , : = * ** + - % 9 'a'
data x range join map center format loop namespace tojson is not and
"""
pieces = st.sampled_from(PIECES.split())


@pytest.mark.parametrize("around", ["{% for i in [1] %}HERE{% endfor %}", "{% block b %}HERE{% endblock %}"])
@pytest.mark.parametrize(
    ("call", "rendered"),
    [
        ("'a-b'.replace('-', '+')", "a+b"),
        ("'ab'.center(4)", " ab "),
        ("'-'.join(['a', 'b'])", "a-b"),
        ("'--a'.strip('-')", "a"),
        ("'a.b.c'.rsplit(sep='.', maxsplit=1)[0]", "a.b"),
    ],
)
def test_methods_can_be_called_in_a_loop_and_in_a_block(render: Render, call: str, rendered: str, around: str) -> None:
    assert render("body", around.replace("HERE", "{{ " + call + " }}")) == rendered


@given(st.lists(pieces, max_size=25).map(" ".join))
def test_random_text_is_either_refused_or_rendered(render: Render, renderer: Renderer, template: str) -> None:
    try:
        renderer.check("body", template)
        assert isinstance(render("body", template), str)
    except TemplateError as error:
        assert str(error)
