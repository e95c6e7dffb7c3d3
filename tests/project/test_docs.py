"""The pages in docs/ match the code: they describe each setting, check, log line and package, and no other."""

from __future__ import annotations

import ast
import base64
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.apps import apps
from django.core.management import BaseCommand, load_command_class
from standardwebhooks.webhooks import Webhook as Reference

import webhooks
from webhooks.api import urls as api_urls
from webhooks.api.base import query_filters
from webhooks.api.runs import RunFilters
from webhooks.api.webhooks import WebhookFilters
from webhooks.capture.conditions import OPERATORS
from webhooks.contrib.prometheus import Metrics
from webhooks.ground import payloads
from webhooks.ground.conf import conf
from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.security import signing
from webhooks.insight import paging
from webhooks.insight.why import Cause
from webhooks.management.base import help_of
from webhooks.models import Event, Webhook
from webhooks.models.event import Action
from webhooks.models.filters import FILTERS, Filter
from webhooks.models.queue import State
from webhooks.models.skip import Rule
from webhooks.models.webhook import SETTINGS
from webhooks.operations.kinds import RUN_KINDS
from webhooks.testing import CapturedEvent

ROOT = Path(__file__).resolve().parents[2]
DOCS, APP = ROOT / "docs", ROOT / "webhooks"

# A row of a table with code in its first cell: | `KEY` | `default` | …
ROW = re.compile(r"^\| `([^`]+)` \| (.*)$", re.MULTILINE)
# The first cell of a row of any table.
FIRST_CELL = re.compile(r"^\| (.*?) \|", re.MULTILINE)
LEVELS = ("debug", "info", "warning", "error", "exception")
LOGGING = {f"logger.{level}" for level in LEVELS} | {"log_errors"}
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def page(name: str) -> str:
    return (DOCS / name).read_text()


def rows(name: str) -> dict[str, str]:
    return dict(ROW.findall(page(name)))


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda path: path.stem)
def test_every_table_begins_with_a_header(path: Path) -> None:
    """A row after an empty line would be shown as text."""
    lines = ["", *path.read_text().splitlines(), ""]
    first = [place for place, line in enumerate(lines) if line.startswith("|") and not lines[place - 1].startswith("|")]
    assert [lines[place] for place in first if not lines[place + 1].startswith("| ---")] == []


def test_every_setting_is_described_and_no_other() -> None:
    assert set(rows("settings.md")) == set(conf.by_key)


@pytest.mark.parametrize("key", sorted(conf.by_key))
def test_a_setting_has_the_default_in_its_description(key: str, settings: Any) -> None:
    settings.WEBHOOKS = {}
    documented = re.match(r"`([^`]+)`", rows("settings.md")[key])
    assert documented, f"{key} has no default in the table"
    default = getattr(conf, key.lower())
    expected = list(default) if isinstance(default, tuple) else default
    assert ast.literal_eval(documented[1]) == expected


def test_every_error_kind_is_described_with_its_texts() -> None:
    table = {kind.value: f"{kind.label} | {kind.cause()} | {kind.remedy()} |" for kind in ErrorKind}
    assert rows("error-kinds.md") == table


def test_every_cause_is_described_and_no_other() -> None:
    assert set(rows("why.md")) == set(Cause.values)


def test_every_operator_is_described_with_its_words_and_value() -> None:
    described = {name: cells.split(" | ")[:2] for name, cells in rows("conditions.md").items() if name in OPERATORS}
    assert described == {name: [str(one.words), str(one.wanted) or "none"] for name, one in OPERATORS.items()}


def test_every_rule_of_a_skip_is_described() -> None:
    section = page("webhooks.md").partition("## Skipped changes")[2].partition("\n## ")[0]
    assert set(dict(ROW.findall(section))) == set(Rule.values)


def test_every_setting_of_a_webhook_is_described_for_the_form_and_for_rest() -> None:
    labels = {str(Webhook._meta.get_field(name).verbose_name).lower() for name in SETTINGS}  # type: ignore[union-attr]
    section = page("webhooks.md").partition("## The fields")[2].partition("\n## ")[0]
    assert {name for cell in FIRST_CELL.findall(section) for name in cell.lower().split(", ")} >= labels
    section = page("rest-api.md").partition("### Fields")[2].partition("\n### ")[0]
    assert {name for cell in FIRST_CELL.findall(section) for name in re.findall(r"`(\w+)`", cell)} >= {*SETTINGS}


def test_every_filter_and_every_option_of_a_run_is_described_with_its_texts() -> None:
    table = {}
    for name, one in FILTERS.items():
        of = [rows for rows in one.queries if name in query_filters(rows)().fields and (name, rows) != IN_THE_ADDRESS]
        if of:
            table[name] = f"{', '.join(of)} | {one.help} |"
    assert plain(rows_of("rest-api.md", "Filters")) == table
    taken = [one for one in FILTERS.values() if any(one.name in kind.filters for kind in RUN_KINDS.values())]
    options = {f"{one.command_option} {option_value(one)}".strip(): f"{help_of(one)} |" for one in taken}
    shown = plain(rows_of("commands.md", "Retry, resend, replay and backfill"))
    others = {"--dry-run", "--no-wait", "--resume", "--all"}
    assert {name: text for name, text in shown.items() if name not in others} == options


IN_THE_ADDRESS = ("webhook", "skips")


def rows_of(name: str, title: str) -> dict[str, str]:
    return dict(ROW.findall(page(name).partition(f"\n## {title}\n")[2].partition("\n## ")[0]))


def plain(table: dict[str, str]) -> dict[str, str]:
    """Without links."""
    return {name: re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text) for name, text in table.items()}


def option_value(one: Filter) -> str:
    return "" if one.type == "flag" else one.metavar or one.name.upper()


def test_every_public_name_is_on_the_page_of_the_python_api() -> None:
    names = re.findall(r"`(\w+)(?:\(\))?`", " ".join(FIRST_CELL.findall(page("python-api.md").partition("\n## ")[0])))
    assert set(names) - {"capture_webhooks", "deliver", "deliver_to"} == set(webhooks.__all__)
    assert all(hasattr(webhooks, name) for name in webhooks.__all__)


@pytest.mark.parametrize("name", ["register", "verify", "why"])
def test_a_signature_on_the_page_is_that_of_the_function(name: str) -> None:
    [text] = [text for text in PYTHON.findall(page("python-api.md")) if text.startswith(f"def {name}(")]
    described: dict[str, Any] = {}
    exec(text, described)
    shown, real = (inspect.signature(one).parameters.values() for one in (described[name], getattr(webhooks, name)))
    assert [str(one) for one in shown] == [str(one.replace(annotation=one.empty)) for one in real]
    assert [one.kind for one in shown] == [one.kind for one in real]


def test_every_command_is_on_the_page_of_the_commands() -> None:
    commands = {path.stem for path in (APP / "management" / "commands").glob("webhooks_*.py")}
    assert set(re.findall(r"`(webhooks_\w+)`", " ".join(FIRST_CELL.findall(page("commands.md"))))) == commands


def test_every_check_is_described_and_no_other() -> None:
    code = "".join(path.read_text() for path in APP.rglob("checks.py"))
    ids = set(re.findall(r'"(webhooks\.[EIW]\d{3})"', code))
    assert ids
    described = [name for name, _text in ROW.findall(page("install.md")) if re.fullmatch(r"webhooks\.[EIW]\d{3}", name)]
    assert sorted(described) == sorted(ids)  # each once


def test_the_map_of_the_app_has_every_package_and_its_modules_exist() -> None:
    table = page("how-it-works.md").partition("## Modules")[2].partition("\n## ")[0]
    mapped = dict(re.findall(r"^\| `(\w+)` \|.*\|(.*)\|$", table, re.MULTILINE))
    assert set(mapped) == stems(APP)
    for package, modules in mapped.items():
        assert set(re.findall(r"`(\w+)`", modules)) <= stems(APP / package), package


@pytest.mark.parametrize("package", [path.parent for path in APP.rglob("__init__.py")], ids=lambda path: path.name)
def test_a_docstring_maps_only_modules_that_exist(package: Path) -> None:
    lines = (ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or "").splitlines()
    mapped = [found[1] for line in lines if (found := re.match(r" *(\w+(?:, \w+)*) {2,}\S", line))]
    assert set(re.findall(r"\w+", " ".join(mapped))) <= {path.stem for path in package.rglob("*")}


def stems(package: Path) -> set[str]:
    """The names of the modules and packages in a package."""
    packages = {path.parent.name for path in package.glob("*/__init__.py")}
    return ({path.stem for path in package.glob("*.py")} | packages) - {"__init__", "migrations"}


def test_each_line_of_python_in_the_docs_runs_without_a_project(tmp_path: Path) -> None:
    lines = [
        line for page in DOCS.glob("*.md") for line in page.read_text().splitlines() if line.startswith("python -c")
    ]
    printed = {}
    for line in lines:
        arguments = [sys.executable, *shlex.split(line)[1:]]
        environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
        ran = subprocess.run(
            arguments, cwd=tmp_path, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        )
        assert ran.returncode == 0, f"{line}: {ran.stderr}"
        printed[line] = ran.stdout.strip()
    [folder] = [Path(text) for line, text in printed.items() if "prometheus" in line]
    assert (folder / "alerts.yml").is_file()
    assert (folder / "dashboard.json").is_file()


def test_every_line_that_the_app_logs_is_explained() -> None:
    section = page("operations.md").partition("## Logs")[2]
    texts = [text for row in FIRST_CELL.findall(section) for text in re.findall(r"`([^`]+)`", row)]
    known = [re.escape(text).replace("…", ".*") for text in texts]
    logged = [text for path in APP.rglob("*.py") for text in logged_by(path)]
    assert len(logged) > 25
    assert [text for text in logged if not any(re.match(pattern, text) for pattern in known)] == []


def logged_by(path: Path) -> list[str]:
    """The messages that a module logs, except messages from its callers."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    logging = [node.args for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) in LOGGING]
    texts = [[arg.value for arg in args if isinstance(arg, ast.Constant)] for args in logging]
    # A long message is assigned to a variable first.
    named = [ast.literal_eval(node.value) for node in nodes if isinstance(node, ast.Assign) and is_message(node)]
    assert texts.count([]) == len(named) or path == APP / "ground" / "errors.py", path  # where log_errors is
    return [found[0] for found in texts if found] + named


def is_message(node: ast.Assign) -> bool:
    return ast.unparse(node.targets[0]) == "message" and isinstance(node.value, ast.Constant)


def test_every_test_that_the_threat_model_names_exists() -> None:
    threats = [row for row in page("threat-model.md").splitlines() if row.startswith(("| to ", "| the same"))]
    assert len(threats) > 40
    for row in threats:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named, f"no test is named in: {row}"
        for path, name in named:
            assert re.search(rf"^def {name}\(", (ROOT / "tests" / path).read_text(), re.MULTILINE), f"{path}::{name}"


def test_every_metric_is_described_with_its_labels() -> None:
    metrics = vars(Metrics()).values()
    names = {f"{one.name}{'_total' if one.type == 'counter' else ''}": one._labelnames for one in metrics}
    expected = {f"{name}{{{','.join(labels)}}}" if labels else name for name, labels in names.items()}
    assert {name for name in rows("monitoring.md") if name.startswith("webhooks_")} == expected


def test_every_attribute_of_a_span_is_described() -> None:
    code = (APP / "contrib" / "opentelemetry.py").read_text()
    set_by_code = set(re.findall(r'"((?:messaging|http|server|error|webhooks)\.[a-z_.]+)"', code))
    table = page("monitoring.md").partition("## Traces")[2]
    assert {name for cell in FIRST_CELL.findall(table) for name in re.findall(r"`([^`]+)`", cell)} == set_by_code


def test_every_attribute_of_a_captured_event_is_described() -> None:
    attributes = {one.name for one in fields(CapturedEvent)} | {"differences"}
    cells = FIRST_CELL.findall(page("testing.md"))
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == attributes


def test_every_address_of_the_rest_api_is_in_the_table() -> None:
    routes = {str(one.pattern) for one in api_urls.urlpatterns if one.name != "api-root"}
    addresses = {re.sub(r"\(\?P<\w+>[^)]*\)|<\w+:\w+>", "<id>", one).strip("^$") for one in routes}
    table = page("rest-api.md").partition("\n## ")[0]
    described = set[str]()
    for cell in FIRST_CELL.findall(table):
        first, *others = re.findall(r"`([^`]+)`", cell) or [""]
        described |= {first.removesuffix("?…")} | {first.replace("pause/", one.removeprefix("…/")) for one in others}
    # The skips of a webhook are a list alone.
    assert described - {""} == {one for one in addresses if not re.search(r"skips/<id>/", one)}


@pytest.mark.parametrize(("name", "filters"), [("webhooks", WebhookFilters), ("runs", RunFilters)])
def test_every_filter_of_the_other_lists_is_described(name: str, filters: Any) -> None:
    assert set(re.findall(r"`(\w+)`", rows_of_list(name))) - {*Action.values} == set(filters().fields)


def rows_of_list(name: str) -> str:
    [row] = re.findall(rf"^\| {name} \| (.*) \|$", page("rest-api.md"), re.MULTILINE)
    return str(row)


def test_every_option_of_a_command_is_described_and_no_other() -> None:
    text = "".join(path.read_text() for path in DOCS.glob("*.md"))
    described = {*re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)}
    commands = [path.stem for path in (APP / "management" / "commands").glob("webhooks_*.py")]
    own = set[str]().union(*(options_of(load_command_class("webhooks", name)) for name in commands))
    own -= options_of(BaseCommand())
    assert own - described == set()
    of_page = {*re.findall(r"`(--[a-z][a-z-]+)", page("commands.md"))}
    assert of_page - own - {"--from-this-netbox", "--disable-originals", "--burst"} == set()


def options_of(command: BaseCommand) -> set[str]:
    actions = command.create_parser("manage.py", "")._actions
    return {option for action in actions for option in action.option_strings if option.startswith("--")}


def test_every_state_of_a_delivery_is_in_the_glossary() -> None:
    assert set(rows("glossary.md")) == set(State.values)


def test_every_permission_of_the_app_is_described() -> None:
    models = apps.get_app_config("rq_webhooks").get_models()
    names = {f"rq_webhooks.{name}" for model in models for name, _title in model._meta.permissions}
    assert names
    assert names - set(re.findall(r"`(rq_webhooks\.\w+)`", page("security.md"))) == set()


def test_the_page_says_how_many_rows_a_list_looks_through() -> None:
    together, scattered = sum(paging.LOOK_THROUGH), sum(paging.LOOK_THROUGH_SCATTERED)
    text = " ".join(page("worker.md").split())
    assert f"up to {together:,} of them for the rest of the filters, or {scattered:,} where" in text


def test_the_readme_leads_to_every_page() -> None:
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)\)", (ROOT / "README.md").read_text()))
    assert linked == {path.name for path in DOCS.glob("*.md")}


# Examples in code


def check_shell(text: str) -> None:
    subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=True)


READERS: dict[str, Callable[[str], object]] = {
    "python": ast.parse,
    "json": json.loads,
    "yaml": lambda text: list(yaml.safe_load_all(text)),
    "sh": check_shell,
}


def blocks() -> Iterator[Any]:
    for path in (ROOT / "README.md", *sorted(DOCS.glob("*.md"))):
        text = path.read_text()
        for one in re.finditer(r"^( *)```(\w+)[^\n]*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
            if one[2] in READERS:
                line = text.count("\n", 0, one.start()) + 1
                yield pytest.param(one[2], textwrap.dedent(one[3]), id=f"{path.stem}:{line}")


@pytest.mark.parametrize(("language", "text"), [*blocks()])
def test_an_example_can_be_parsed(language: str, text: str) -> None:
    READERS[language](text)


def test_every_command_line_is_one_that_its_command_takes() -> None:
    text = "".join(text for language, text in (one.values for one in blocks()) if language == "sh")
    lines = re.findall(r"^python manage\.py (webhooks_\w+)([^\n#&>]*)", text, re.MULTILINE)
    assert len(lines) > 15
    for name, arguments in lines:
        if "--from-this-netbox" not in arguments:
            load_command_class("webhooks", name).create_parser("manage.py", name).parse_args(shlex.split(arguments))


# The request in payload.md, for readers who test a receiver.


def fenced(title: str) -> str:
    found = re.search(rf'^```text title="{title}"\n(.*?)\n```', page("payload.md"), re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def body() -> bytes:
    return fenced("body").encode()


@pytest.fixture
def headers() -> dict[str, str]:
    pairs = (line.split(": ", 1) for line in fenced("headers").splitlines())
    return {name.lower(): value for name, value in pairs}


def snippets() -> list[dict[str, Any]]:
    found = []
    for source in PYTHON.findall(page("payload.md")):
        names: dict[str, Any] = {}
        exec(compile(source, "payload.md", "exec"), names)
        found.append(names)
    return found


@pytest.fixture
def at_that_time(monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]) -> None:
    monkeypatch.setattr("time.time", lambda: float(headers["webhook-timestamp"]))
    monkeypatch.setattr(Reference, "_Webhook__verify_timestamp", lambda self, value: _moment(value))


def _moment(timestamp: str) -> Any:
    return datetime.fromtimestamp(float(timestamp), tz=UTC)


def test_the_request_of_the_page_is_signed_as_the_code_signs(body: bytes, headers: dict[str, str]) -> None:
    [secret] = {names["SECRET"] for names in snippets()}
    made = signing.headers(secret, headers["webhook-id"], int(headers["webhook-timestamp"]), body)
    assert {name.lower(): value for name, value in made.items()} == headers


def test_the_request_of_the_page_has_the_keys_that_are_sent(body: bytes) -> None:
    sent = payloads.json_body(Event(pk=1, action="created", object_type="dcim.site", timestamp=datetime.now(UTC)))
    assert list(json.loads(body)) == list(json.loads(sent))


@pytest.mark.usefixtures("at_that_time")
def test_the_snippets_of_the_page_take_its_request_and_no_other(body: bytes, headers: dict[str, str]) -> None:
    by_package, by_hand, as_netbox = snippets()
    assert by_package["verified"](body, headers)["object_type"] == "tenancy.tenantgroup"
    for check in (by_hand["is_genuine"], as_netbox["is_genuine"]):
        assert check(body, headers)
        assert not check(body.replace(b"created", b"deleted"), headers)
    with pytest.raises(Exception, match="No matching signature"):
        by_package["verified"](body.replace(b"created", b"deleted"), headers)


def test_a_plain_secret_verifies_by_hand(headers: dict[str, str]) -> None:
    _, by_hand, _ = snippets()
    assert by_hand["key_of"]("plain") == signing.key_of("plain")
    assert by_hand["key_of"]("whsec_" + base64.b64encode(b"key").decode()) == b"key"
