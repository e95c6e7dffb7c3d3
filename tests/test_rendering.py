"""Templates: rendered as NetBox renders them, refused with the line of the error, and never without an end."""

from __future__ import annotations

import inspect
import json
import re
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.defaults import DEFAULT_FILTERS

from webhooks import rendering
from webhooks.rendering import RenderingError, TemplateError, growth
from webhooks.rendering.budgets import Budget, OverBudget

CAPTURED = json.loads((Path(__file__).parent / "captured" / "netbox_templates.json").read_text())
CONTEXTS = CAPTURED["contexts"]
UPDATE = CONTEXTS["update"]

# Where this differs from NetBox on purpose: docs/templates.md says why.
DIFFERENT = {
    ("body", ""): "",
    ("body", '{{ "env" }} {{ "CAP_SITE" | env }} {{ "HOME" | env }} {{ "CAP_NOPE" | env }}'): "No filter named 'env'",
    ("body", '{{ data.pop("id") }} {{ data.id }}|'): "access to attribute 'pop' of 'dict' object is unsafe",
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


def render(kind: str, template: str, context: Any = UPDATE) -> Any:
    return getattr(rendering, kind)(template, context)


@pytest.mark.parametrize(
    "case", [case for case in CAPTURED["cases"] if (case["kind"], case["template"]) not in DIFFERENT]
)
def test_a_template_is_rendered_as_netbox_renders_it(case: dict[str, Any]) -> None:
    context, expected = CONTEXTS[case["context"]], case["expected"]
    if isinstance(expected, str) and expected.startswith("error: "):
        with pytest.raises(TemplateError) as caught:
            render(case["kind"], case["template"], context)
        assert str(caught.value).startswith("line 1: ")
    else:
        assert render(case["kind"], case["template"], context) == expected


@pytest.mark.parametrize(("kind", "template"), DIFFERENT)
def test_a_difference_from_netbox_is_as_it_is_meant(kind: str, template: str) -> None:
    assert [case for case in CAPTURED["cases"] if (case["kind"], case["template"]) == (kind, template)]
    expected = DIFFERENT[kind, template]
    if not expected:
        assert render(kind, template) == expected
        return
    with pytest.raises(TemplateError, match=re.escape(expected)):
        render(kind, template)


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
    ],
)
def test_a_broken_template_is_refused_when_saved(template: str, line: int | None, problem: str) -> None:
    with pytest.raises(TemplateError, match=re.escape(problem)) as caught:
        rendering.check("body", template)
    said = str(caught.value)
    assert said.startswith(f"line {line}: ") if line else not said.startswith("line ")


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
def test_a_line_that_can_be_no_header_is_refused_when_saved(lines: str, line: int, problem: str) -> None:
    with pytest.raises(TemplateError, match=re.escape(problem)) as caught:
        rendering.check("headers", lines)
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
def test_a_line_that_turns_out_to_be_no_header_fails_with_a_reason(lines: str, problem: str) -> None:
    rendering.check("headers", lines)
    with pytest.raises(RenderingError, match=re.escape(problem)):
        render("headers", lines)


def test_header_safe_takes_line_breaks_out_of_a_value() -> None:
    assert render("headers", "X-A: {{ data.evil | header_safe }}") == {"X-A": "x X-Injected: 1"}


def test_a_value_cannot_add_a_header_on_any_way() -> None:
    for expression in ("data.evil", "data.evil | e", "data.evil ~ ''", "[data.evil] | join", "'%s' % data.evil"):
        with pytest.raises(RenderingError, match="header_safe"):
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
def test_a_value_cannot_add_a_header_by_way_of_a_block(template: str) -> None:
    with pytest.raises(RenderingError, match="header_safe"):
        render("headers", template)


def test_blocks_write_headers_as_expressions_do() -> None:
    evil = "{% filter replace('n', data.evil) | header_safe %}n{% endfilter %}"
    macro = "{% macro m() %}<{{ caller() }}>{% endmacro %}"
    template = f"X-A: {evil}\nX-B: {{% filter upper %}}b{{% endfilter %}}\n{macro}X-C: {{% call m() %}}c{{% endcall %}}"
    assert render("headers", template) == {"X-A": "x X-Injected: 1", "X-B": "B", "X-C": "<c>"}


def test_a_failure_while_rendering_names_the_line() -> None:
    with pytest.raises(RenderingError, match="'missing' is undefined") as caught:
        render("body", "{\n {% if true %}\n{{ missing.x }}{% endif %} }")
    assert str(caught.value).startswith("line 3: ")


def test_a_template_changes_nothing_for_those_that_come_after_it() -> None:
    context = {"data": {"tags": [1], "a": {"b": 1}}}
    for call in ("data.update(x=1)", "data.clear()", "data.tags.append(2)", "data.a.setdefault('c', 1)"):
        with pytest.raises(RenderingError, match="unsafe"):
            render("body", "{{ " + call + " }}", context)
    assert context == {"data": {"tags": [1], "a": {"b": 1}}}


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ '{0.__class__.__mro__}'.format(1).x.y }}",
        "{{ lipsum.__globals__.os }}",
        "{{ (1).to_bytes(1, 'big') }}",
        "{{ 'a'.encode() }}",
        "{{ dict.fromkeys('ab') }}",
    ],
)
def test_a_template_does_not_get_at_the_inside_of_python(template: str) -> None:
    with pytest.raises(RenderingError):
        render("body", template)


# Every way to make much of little. Each is refused, or ends, within the limits.
ENDLESS = [
    "{% for i in range(10**9) %}x{% endfor %}",
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "{% for i in range(100000) %}{% for j in range(100000) if false %}{% endfor %}{% endfor %}",
    "{% for k in 'a' * 1000000 %}{% for k in 'a' * 1000000 %}{% endfor %}{% endfor %}",
    "{% for i in range(100000) %}" + "0123456789" * 100 + "{% endfor %}",
    "{% set x %}{% for i in range(100000) %}" + "0123456789" * 100 + "{% endfor %}{% endset %}",
    "{{ 'a' * 10**9 }}",
    "{{ 1000000000 * [0] }}",
    "{{ ('a' | e) * 1000000000 }}",
    "{{ 'x' | center(1000000000) }}",
    "{{ 'x' | center(width=1000000000) }}",
    "{{ 'x'.center(1000000000) }}",
    "{{ ('\\t' * 1000).expandtabs(tabsize=1000000000) }}",
    "{{ '1'.zfill(1000000000) }}",
    "{{ 'x'.ljust(1000000000) }}{{ 'x'.rjust(1000000000) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%.1000000000f' % 1.5 }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ '%*d' | format(1000000000, 1) }}",
    "{{ ('%(' * 300000) % {} }}",
    "{{ ('%(a)s' * 100000) | format(a='x' * 100000) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{w}}'.format(1, w=1000000000) }}",
    "{{ ('{:1000000000}' | e).format(1) }}",
    "{{ '{x:1000000000}'.format_map({'x': 1}) }}",
    "{{ ('{0}' * 100000).format('a' * 1000000) }}",
    "{{ 9**9**9**9 * 9**9**9 }}{{ 10**10**10**10 }}{{ 2 ** 100000 }}",
    "{% set ns = namespace(n=3) %}{% for i in range(1000) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "{% set ns = namespace(n='ab') %}{% for i in range(1000) %}{% set ns.n = ns.n ~ ns.n %}{% endfor %}",
    "{% set ns = namespace(n='ab') %}{% for i in range(1000) %}{% set ns.n = ns.n + ns.n %}{% endfor %}",
    "{% set ns = namespace(n=[1]) %}{% for i in range(1000) %}{% set ns.n = ns.n + ns.n %}{% endfor %}",
    "{% set ns = namespace(n=[1]) %}{% for i in range(100) %}{% set ns.n = [ns.n, ns.n] %}{% endfor %}{{ ns.n }}",
    "{% set ns = namespace(n=1) %}{% for i in range(100) %}{% set ns.n = (ns.n, ns.n) %}{% endfor %}{{ ns.n == ns.n }}",
    "{% set ns = namespace(n=1) %}{% for i in range(100) %}{% set ns.n = {'a': ns.n, 'b': ns.n} %}{% endfor %}",
    "{% set ns = namespace(n=1) %}{% for i in range(100) %}{% set ns.n = dict(a=ns.n, b=ns.n) %}{% endfor %}",
    "{% set ns = namespace(n=[]) %}{% for i in range(100000) %}{% set ns.n = [ns.n] %}{% endfor %}{{ ns.n }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro m(a) %}{% if a %}{{ m(a - 1) }}{{ m(a - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% macro m() %}{{ m(varargs, varargs) }}{% endmacro %}{{ m(1) }}",
    "{% for a in [[1]] recursive %}{{ loop([a]) }}{% endfor %}",
    "{% block b %}{{ self.b() }}{% endblock %}",
    "{{ ('a' * 1000000) | replace('a', 'x' * 100000) }}",
    "{{ ('a' * 1000000).replace('', 'x' * 100000) }}",
    "{{ range(100000) | map('center', 100000) | join }}",
    "{{ range(100000) | map('center', 100000) | list | length }}",
    "{{ range(100000) | map(attribute='x', default='a' * 1000000) | sort | list }}",
    "{{ range(100000) | join('x' * 1000000) }}",
    "{{ ('x' * 1000000).join(['a'] * 10000) }}",
    "{{ ('a' | e).join('x' * 1000000) }}",
    "{{ ['a' * 1000000, 'b' * 1000000, 'c' * 1000000] | join }}",
    "{{ 'a' * 1000000 ~ 'b' * 1000000 ~ 'c' * 1000000 }}",
    "{{ range(100000) | select('in', range(100000) | list) | list }}",
    "{% set l = range(100000) | list %}{% for i in range(100000) %}{{ -1 in l }}{% endfor %}",
    "{% set l = range(100000) | list %}{% for i in range(100000) %}"
    + "{% if -1 in l %}{% endif %}" * 500
    + "{% endfor %}",
    "{% set r = range(100000) %}{% for i in range(10000) %}" + "{% if 1.5 in r %}{% endif %}" * 100 + "{% endfor %}",
    "{% set s = 'x' * 1900000 %}" + "".join(f"{{% set a{i} = s[1:] %}}" for i in range(500)),
    "{% set l = range(100000) | list %}" + "".join(f"{{% set a{i} = l[::-1] %}}" for i in range(500)),
    "{{ ('a' * 300000).rfind('ab' ~ 'a' * 100000) }}",
    "{{ ('a' * 300000).rpartition('ab' ~ 'a' * 100000) | length }}",
    "{{ ('a' * 300000).rsplit('ab' ~ 'a' * 100000) | length }}",
    "{{ ('a' * 300000).rsplit(sep='ab' ~ 'a' * 100000) | length }}",
    "{{ ('a' * 300000).strip('b' * 300000 ~ 'a') }}",
    "{{ ('a' * 300000) | trim('b' * 300000 ~ 'a') }}",
    "{{ range(100) | map('string') | map(attribute='0.' * 400000 ~ '0') | list | length }}",
    "{{ range(1000) | batch(1) | sum(start=[]) }}",
    "{{ 1 | round(-1000000000) }}",
    "{{ 1.5 | round(1000000000, 'ceil') }}",
    "{{ [1] | batch(1000000000, 'x') | list }}",
    "{{ [1] | slice(1000000000) | list }}",
    "{{ ('a\\n' * 100000) | indent('x' * 1000000) }}",
    "{{ ('a\\n' * 100000) | indent(1000000) }}",
    "{{ ('<b>' * 600000) | striptags }}",
    "{{ ('<b>' * 600000 | e).striptags() }}",
    "{{ ('ab ' * 20000) | wordwrap(1, wrapstring='x' * 900) }}",
    "{{ ('http://a.bc ' * 8000) | urlize(target='x' * 1000000) }}",
    "{{ (')' * 90000 ~ 'x)') | urlize }}",
    "{{ ('.>' * 9000 ~ 'x.') | urlize | length }}",
    "{{ [(',' * 5000 ~ 'x,')] * 18 | urlize }}",
    "{{ lipsum(1000000) }}",
    "{{ lipsum(n=1, min=100000000, max=1000000000) }}",
    "{{ [1] | tojson(indent=1000000000) }}",
    "{{ ('f' * 1000000) | int(base=16) }}",
    "{% filter center(1000000000) %}x{% endfilter %}",
    "{% filter replace('x', 'y' * 1000000) %}{{ 'x' * 1000000 }}{% endfilter %}",
]


@pytest.mark.parametrize("template", ENDLESS)
def test_a_template_without_an_end_is_ended(template: str) -> None:
    began = time.thread_time()
    with pytest.raises(TemplateError):
        render("body", template)
    assert time.thread_time() - began < 3 * rendering.SECONDS


READING = """
count('b') endswith('b') find('b') index('A') isalnum() isalpha() isascii() isdecimal() isdigit() isidentifier()
islower() isnumeric() isprintable() isspace() istitle() isupper() partition('b')[1] rfind('b') rindex('A')
startswith('b') format()[0] upper()[0]
"""
TESTS_AND_FILTERS = ("is lower", "is upper", "in 'abc'", "== 'abc'", "| first", "| title | length", "| wordcount")


@pytest.mark.parametrize(
    ("value", "read"),
    [
        *(("'A' + 'a ' * 100000", f".{method}") for method in READING.split()),
        *(("'A' + 'a ' * 100000", f" {reads}") for reads in TESTS_AND_FILTERS),
        *(("range(20000) | list", f".{method}") for method in ("count(-1)", "index(19999)")),
    ],
)
def test_whatever_reads_a_value_pays_for_it(monkeypatch: pytest.MonkeyPatch, value: str, read: str) -> None:
    monkeypatch.setattr(rendering, "SECONDS", 60)  # where coverage is measured, all takes longer
    template = f"{{% set v = {value} %}}{{% for i in range(TURNS) %}}{{% if v{read} %}}{{% endif %}}{{% endfor %}}"
    assert render("body", template.replace("TURNS", "1")) == ""
    with pytest.raises(RenderingError, match="does too much"):
        render("body", template.replace("TURNS", "600"))


@pytest.mark.parametrize(
    "template",
    [
        "{{ '%(a(b)c)30000000d' % {'a(b)c': 1} }}",
        "{{ '%(a(b)c)30000000d' | format(**{'a(b)c': 1}) }}",
        "{{ ('%(a(b)c)30000000d' | e) % {'a(b)c': 1} }}",
        "{{ '%%(%30000000d)' % 1 }}",
        "{{ '%(x)%(%(x)30000000d)' % {'x': 1} }}",
        "{{ '%.00000000000000000030000000d' % 1 }}",
        "{{ '%000000000000000000000000030000000ld' % 1 }}",
        "{{ '{:>00000000000000000030000000}'.format(1) }}",
        "{{ ('aB <' * 450000) | sort | first }}",
        "{{ ('aB <' * 450000) | groupby(0) | first }}",
        "{{ '{:>{w}}'.format(1, w='00000000000000000030000000') }}",
    ],
)
def test_nothing_large_is_made_and_then_refused(template: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(RenderingError):
            render("body", template)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        ("{{ '100%% of %(a b)5.1f%%' % {'a b': 2} }}", "100% of   2.0%"),
        ("{{ '%%(%s)%3ld%-4s|' | format('x', 7, 'y') }}", "%(x)  7y   |"),
        ("{{ '{:05.1f} {:>4}'.format(2.5, 'x') }}", "002.5    x"),
    ],
)
def test_formats_are_as_python_has_them(template: str, rendered: str) -> None:
    assert render("body", template) == rendered


def test_a_thread_that_renders_is_freed_too() -> None:
    failures: list[Exception] = []

    def work() -> None:
        try:
            render("body", "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}")
        except RenderingError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert ["does too much" in str(error) or "took longer" in str(error) for error in failures] == [True] * 3


def test_a_budget_that_was_overdrawn_pays_for_nothing_more() -> None:
    budget = Budget(units=10, largest=100, seconds=1)
    with pytest.raises(OverBudget):
        budget.pay(11)
    with pytest.raises(OverBudget):
        budget.pay(-100)


@pytest.mark.parametrize(
    ("kind", "template", "problem"),
    [
        ("headers", "X-A: {{ 'x' * 16000 }}", "the headers has"),
        ("url", "http://h.example/{{ 'x' * 2000 }}", "the url has 2,017 bytes"),
    ],
)
def test_what_is_rendered_has_a_limit(kind: str, template: str, problem: str) -> None:
    with pytest.raises(RenderingError, match=re.escape(problem)):
        render(kind, template)


def test_a_long_text_can_be_read_in_a_long_loop() -> None:
    context = {"data": {"comments": "one of many words " * 500, "interfaces": list(range(1_000))}}
    lines = "{% for i in data.interfaces %}{% if data.comments.find('one') == 0 %}{{ i }} {% endif %}{% endfor %}"
    assert render("body", lines, context).endswith("998 999 ")


def test_a_large_object_is_no_trouble() -> None:
    context = {"data": {"interfaces": [{"id": number, "name": f"eth{number}", "tags": []} for number in range(1_000)]}}
    rows = (
        "{% for i in data.interfaces %}{{ i.id }}: {{ i.name | upper }}{% if not loop.last %}, {% endif %}{% endfor %}"
    )
    assert render("body", rows, context).endswith("999: ETH999")
    assert json.loads(render("body", "{{ data | tojson(indent=2) }}", context)) == context["data"]


@pytest.mark.parametrize("name", growth.FILTERS)
def test_a_filter_is_checked_by_the_names_of_its_own_arguments(name: str) -> None:
    own = inspect.signature(inspect.unwrap(DEFAULT_FILTERS[name]))
    named = [name for name in own.parameters if name not in ("context", "environment", "eval_ctx")]
    checked = list(inspect.signature(growth.FILTERS[name]).parameters.values())[1:]
    if not any(one.kind is one.VAR_KEYWORD for one in checked):
        assert [one.name for one in checked][: len(named)] == named


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
def test_methods_can_be_called_in_a_loop_and_in_a_block(call: str, rendered: str, around: str) -> None:
    assert render("body", around.replace("HERE", "{{ " + call + " }}")) == rendered


@given(st.lists(pieces, max_size=25).map(" ".join))
def test_any_text_is_either_refused_or_rendered(template: str) -> None:
    try:
        rendering.check("body", template)
        assert isinstance(render("body", template), str)
    except TemplateError as error:
        assert str(error)
