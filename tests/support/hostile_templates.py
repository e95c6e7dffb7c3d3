"""Hostile templates: to reach Python's internals, to run without an end, to burst when compiled."""

from __future__ import annotations

# Attributes, formats, filters and types that could lead to the inside of Python, or out of the process.
INTO_PYTHON = r"""
{{ ''.__class__.__mro__ }}
{{ ''.__class__ }}
{{ ''['__class__'] }}
{{ ''|attr('__class__') }}
{{ ''|attr('__cla' ~ 'ss__') }}
{{ ['']|map(attribute='__class__')|list }}
{{ ['']|map('attr','__class__')|list }}
{{ ['']|map(attribute='__class__.__mro__')|list }}
{{ ['']|groupby('__class__')|list }}
{{ ['']|sum('__class__') }}
{{ ['']|selectattr('__class__')|list }}
{{ ['']|rejectattr('__class__')|list }}
{{ ['']|sort(attribute='__class__')|list }}
{{ ['']|unique(attribute='__class__')|list }}
{{ ['']|min(attribute='__class__') }}
{{ ['a']|join(attribute='__class__') }}
{{ cycler.__init__.__globals__ }}
{{ cycler('a').__init__ }}
{{ joiner.__init__.__globals__.os }}
{{ namespace.__init__ }}
{{ namespace(a=1).__class__ }}
{{ namespace(a=1)._Namespace__attrs }}
{{ lipsum.__globals__.os }}
{{ range.__globals__ }}
{{ dict.__globals__ }}
{{ dict.__code__ }}
{{ dict.mro() }}
{{ dict[dict] }}
{{ dict[dict[dict]] }}
{{ range[1] }}
{{ namespace[1] }}
{{ cycler[1] }}
{{ dict.fromkeys('ab') }}
{{ {}.fromkeys('ab') }}
{{ (1).to_bytes(1, 'big') }}
{{ (1).from_bytes('a') }}
{{ (1.5).fromhex('0') }}
{{ 'a'.encode() }}
{{ 'a'.translate({}) }}
{{ 'a'.maketrans('a','b') }}
{{ ('a'|e).escape('b') }}
{{ '{0.__class__}'.format(1) }}
{{ '{0.__class__.__mro__}'.format(1).x.y }}
{{ '{0[__class__]}'.format(1) }}
{{ '{x.__class__}'.format(x=1) }}
{{ '{x.__class__}'.format_map({'x': 1}) }}
{{ ('{0.__class__}'|e).format(1) }}
{{ ('{x.__class__}'|e).format_map({'x': 1}) }}
{{ '{0.__globals__}'.format(lipsum) }}
{{ '{0._env}'.format(self) }}
{{ '{0.environment}'.format(self) }}
{{ ['{0.__class__}']|map('format', 1)|list }}
{% set f = '{0.__class__}'.format %}{{ f(1) }}
{% set f = '{0.__class__}'|attr('format') %}{{ f(1) }}
{% set f = '{0.__class__}'['format'] %}{{ f(1) }}
{% set f = ['{0.__class__}']|map(attribute='format')|first %}{{ f(1) }}
{{ ''.format.__self__ }}
{{ ''.upper.__self__.__class__ }}
{{ self.__class__ }}
{{ self._TemplateReference__context }}
{{ self|attr('_TemplateReference__context') }}
{% block b %}{{ self.b.__class__ }}{{ self.b._context }}{{ self.b._stack }}{% endblock %}
{% block b %}{{ super.__class__ }}{{ super._context }}{% endblock %}
{% for a in [1] %}{{ loop.__class__ }}{{ loop._iterable }}{{ loop._undefined }}{% endfor %}
{% for a in [1] recursive %}{{ loop._recurse }}{% endfor %}
{% macro m() %}{{ caller.__class__ }}{% endmacro %}{{ m._func }}{{ m.__call__ }}{{ m._environment }}
{% macro m() %}{{ varargs.__class__ }}{{ kwargs.__class__ }}{% endmacro %}{{ m() }}
{{ m.__init__ }}
{{ nope.__class__ }}
{{ nope._undefined_exception }}
{{ nope|attr('_undefined_message') }}
{{ ([1]|map('upper')).gi_frame }}
{{ ([1]|map('upper')).gi_code.co_consts }}
{{ ([1]|map('upper')).send }}
{{ ([1]|map('upper')).throw('x') }}
{{ (1,2).__add__ }}
{{ [].__class__.__base__.__subclasses__() }}
{{ {}.__class__.__base__ }}
{{ true.__class__ }}
{{ none.__class__ }}
{{ environment }}
{{ context }}
{{ get_flashed_messages.__globals__ }}
{{ url_for }}
{{ request.__class__ }}
{{ __builtins__ }}
{{ __import__('os') }}
{{ _ }}
{{ undefined }}
{{ missing }}
{{ resolve }}
{{ cond_expr_undefined }}
{% set namespace.x = 1 %}
{% set dict.x = 1 %}
{% set x = namespace() %}{% set x.__class__ = 1 %}{{ x.a }}
{% set x = namespace() %}{% set x._Namespace__attrs = {} %}{{ x.a }}
{% import 'os' as os %}
{% include '/etc/passwd' %}
{% from 'os' import system %}
{% extends '/etc/passwd' %}
{% do data.clear() %}
{% debug %}
{% trans %}x{% endtrans %}
{{ data|tojson|attr('__html__') }}
{{ (data|items).__class__ }}
{{ 'os'|env }}
{{ 'a'|write }}
{{ ['a']|map('write!')|list }}
{{ ['a']|map('header_safe')|list }}
{{ open('/etc/passwd') }}
""".strip().split("\n")

# Every way to make much of little.
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
    "{% set ns = namespace(d=dict) %}{% for i in range(100000) %}{% set ns.d = dict[ns.d] %}{% endfor %}{{ ns.d }}",
    "{{ ('a ' * 900000) | title | length }}",
    "{% set ns = namespace(n=()) %}{% for i in range(90000) %}{% set ns.n = (ns.n,) %}{% endfor %}{{ {ns.n: 1} }}",
    "{% set ns = namespace(n=()) %}{% for i in range(40) %}{% set ns.n = (ns.n, ns.n) %}{% endfor %}{{ {ns.n: 1} }}",
    "{{ range(-10 ** 300, 10 ** 300, 10 ** 297) | map('string') | sum(start='') }}",
    "{{ range(0, 10 ** 4000 * 99999, 10 ** 4000) | map('string') | join | length }}",
    "{% set ns = namespace() %}{% set ns.n = ns %}{{ ns" + ".n" * 24000 + " }}",
    "{% set ns = namespace(d={}) %}{% for i in range(20000) %}"
    "{% set _ = ns.d.update({i * (2 ** 61 - 1): 1}) %}{% endfor %}",
    "{% set l = [] %}{% for i in range(100000) %}{% set _ = l.extend(l) or l.append(i) %}{% endfor %}",
    "{% set l = [1] %}{% for i in l %}{% set _ = l.append(i) %}{% endfor %}",
    "{% set d = {} %}{% for i in range(100000) %}{% set _ = d.update({'x' * i: d.copy()}) %}{% endfor %}{{ d }}",
    "{% set l = [] %}{% set _ = l.append(l) %}{{ l }}{{ l == l }}{{ l | tojson }}",
    "{% set l = [] %}{% set m = [] %}{% set _ = l.append(m) %}{% set _ = m.append(l) %}{{ l == m }}",
    "{{ ('a' * 1000000) | wordwrap(1) | length }}",
    "{{ ['a' * 1000000] * 1000 | sort | join | length }}",
]


def _filled(unit: str, around: str = "{{ HERE }}", start: str = "") -> str:
    """A template as long as it may be, of one piece over and over."""
    return around.replace("HERE", start + unit * ((49_900 - len(around) - len(start)) // len(unit)))


# Little to write and much to compile.
BOMBS = [
    *(_filled(unit, start="a") for unit in ("+1", "~a", " and a", "<1", "|e", ".a", "[0]", "()", "**9", " is defined")),
    *(
        _filled(unit, "HERE")
        for unit in ("{{a}}", "{{a}}b", "{%set a=1%}", "{%if a%}", "{%if a%}{%endif%}", "{#", "{{")
    ),
    *(_filled(f"{{%{block}%}}{{%end{block.split()[0]}%}}", "HERE") for block in ("macro m()", "call m()", "filter e")),
    *(_filled(unit, "HERE") for unit in ("{%for a in b%}", "{%set x%}", "{%raw%}", "{%raw%}{%endraw%}", "{%", "}}")),
    *(_filled(unit, "{{ HERE") for unit in ("(", "[", "{'a':", "-", "not ", "a|map(", "1 if a else ", "a is b and ")),
    "{{ " + "[" * 10_000 + "]" * 10_000 + " }}",
    "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
    "{%for a in b%}" * 1_500 + "{%endfor%}" * 1_500,
    "{%for a in b recursive%}" * 700 + "{%endfor%}" * 700,
    "".join(f"{{%block b{number}%}}{{%endblock%}}" for number in range(1_400)),
    "{% if a %}" + "{% elif a %}" * 4_000 + "{% endif %}",
    "{%macro m(" + ",".join(f"a{number}={number}" for number in range(4_000)) + ")%}{%endmacro%}",
    "{{ m(" + ",".join(f"a{number}=1" for number in range(4_000)) + ") }}",
    *(_filled(unit, around) for unit, around in [("a,", "{% set HERE a = b %}"), ("1,", "{{ [HERE] }}")]),
    *(_filled(unit, around) for unit, around in [("a,", "{{ m(HERE 1) }}"), ("a:b,", "{{ {HERE} }}")]),
    *(_filled(unit, "{{ 'HERE' }}") for unit in ("x", "\\N{DASH}", "\\x", "\\U0010ffff", "' '")),
    *(_filled(unit, "{{ 1HERE }}") for unit in ("9", "_0", "e9", "\n", "\r\n")),
    *(_filled(unit, "HERE") for unit in ("{{ 'a' * 100000 }}", "{{ range(100000) | list }}", "{{ 'a' * 10 ** 9 }}")),
]
