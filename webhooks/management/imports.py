"""Webhooks and event rules of NetBox and Nautobot as webhooks of this app: read, translate, compare and create them.

They come from files, page by page from the REST API, or from a source in the database of the site that a module in
``contrib`` knows. NetBox has event rules, and each uses one webhook: every rule
becomes one webhook here. A webhook of Nautobot, or of NetBox before 3.7, has its own models and actions.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes, urlsplit

import requests
from django.core.exceptions import ValidationError
from django.db import transaction

from webhooks.ground import headers, registry
from webhooks.ground.conf import MAX_TIMEOUT
from webhooks.ground.errors import about, get_logger, reraise_job_timeout
from webhooks.ground.payloads import templates
from webhooks.ground.registry import label_of
from webhooks.ground.registry.registration import is_sensitive
from webhooks.ground.security import url_policy
from webhooks.ground.text import clean
from webhooks.management.left_out import Path as FieldPath
from webhooks.management.left_out import left_out, read_by_conditions, read_by_template
from webhooks.models import Webhook
from webhooks.models.permissions import Operator
from webhooks.models.webhook import SETTINGS
from webhooks.operations.webhooks import check_webhook, save_webhook
from webhooks.workers.network.attempt import explain

T = TypeVar("T")

logger = get_logger(__name__)

OPERATOR = Operator("webhooks_import")

ACTIONS = {"object_created": "on_created", "object_updated": "on_updated", "object_deleted": "on_deleted"}
FLAGS = {"type_create": "on_created", "type_update": "on_updated", "type_delete": "on_deleted"}
LEFT_OUT = ("owner", "tags", "custom_fields")

DURABLY = "rq_webhooks.deliver"
"""The action of this app for NetBox's event rules."""

# The actions of event rules that send a webhook.
SENDING = ("webhook", DURABLY)

ESCAPING = (
    "Nautobot escapes HTML in templates (& becomes &amp;), and this app does not: write {{ … | e }} where the receiver "
    "relies on it"
)

# A header with one of these words in its name contains credentials, in addition to sensitive names of fields.
SECRET_WORDS = {"auth", "authorization", "cookie", "key"}

_USER = re.compile(r"(https?://)([^/?#@{}\s]*)@", re.IGNORECASE)

PAGE = 1000  # items, the default maximum of both
TIMEOUT = 30  # seconds for each read
DETAIL_LENGTH = 200  # characters of the reason in an answer
MOST_LISTED = 20  # fields in one line

WEBHOOKS, RULES = "webhooks", "event rules"
WEBHOOKS_PATH, RULES_PATH = "/api/extras/webhooks/", "/api/extras/event-rules/"


# Reading


class Item(dict[str, Any]):
    """A webhook or an event rule, with typed values. A value of another type counts as missing."""

    def typed(self, key: str, default: T) -> T:
        """The value, if it has the type of the default."""
        value = self.get(key)
        return value if isinstance(value, type(default)) else default

    def text(self, key: str) -> str:
        return clean(self.typed(key, "").strip())

    def texts(self, key: str) -> list[str]:
        return [item for item in self.typed(key, list[Any]()) if isinstance(item, str)]

    def choice(self, key: str) -> str:
        """The value of a choice. Some versions write it with its label."""
        return str(self.typed(key, {"value": self.get(key)}).get("value") or "")


class UnreadableSource(Exception):
    """A source without webhooks, with the reason."""


class _NotFound(UnreadableSource):
    pass


@dataclass
class Responses:
    """Webhooks and event rules by id. ``counts`` has the number of each that the server reports."""

    webhooks: dict[Any, Item] = field(default_factory=dict)
    rules: dict[Any, Item] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        """A sentence for each list with missing pages."""
        return [
            f"only {len(items)} of {self.counts[kind]} {kind} were given: give the files of the other pages too"
            for kind, items in ((WEBHOOKS, self.webhooks), (RULES, self.rules))
            if len(items) < self.counts.get(kind, 0)
        ]

    def add(self, response: Any, source: str) -> None:
        """Add one response, a list of responses, or a list of items. Raises UnreadableSource."""
        for part in response if isinstance(response, list) else [response]:
            if isinstance(part, dict) and isinstance(part.get("results"), list):
                kinds = {self._add_item(item, source) for item in part["results"]}
                count = part.get("count")
                if isinstance(count, int):
                    self.counts |= dict.fromkeys(kinds, count)
            else:
                self._add_item(part, source)

    def _add_item(self, item: Any, source: str) -> str:
        keys = item.keys() if isinstance(item, dict) else ()
        kind = WEBHOOKS if "payload_url" in keys else RULES if "action_type" in keys else ""
        if not kind or not isinstance(item.get("id"), int | str):
            raise UnreadableSource(
                f"{source} is no response of {WEBHOOKS_PATH} or {RULES_PATH}: it contains something that is neither a "
                "webhook nor an event rule"
            )
        items = self.webhooks if kind == WEBHOOKS else self.rules
        known = items.setdefault(item["id"], Item(item))
        if known.get("name") != item.get("name"):
            raise UnreadableSource(f"two {kind} have the id {item['id']}: import from one server at a time")
        return kind


@dataclass(frozen=True)
class LocalSource:
    """Event rules and webhooks in the database of this site."""

    option: str
    """Of the command, such as "--from-this-netbox"."""
    help: str
    read: Callable[[], Responses]
    disable: Callable[[Collection[Any]], list[str]]
    """Disables event rules by their ids, and returns the names of those that it disabled."""


local_sources: list[LocalSource] = []
"""Modules in ``contrib`` add theirs."""


def read(sources: Iterable[str], token: str = "") -> Responses:  # nosec B107 # none by default
    """Read files and URLs. For a URL outside the API, read both lists. Raises UnreadableSource.

    The ``token`` goes only to the server of each URL."""
    responses = Responses()
    for source in sources:
        if source.lower().startswith(("http://", "https://")):
            for url, response in _fetch_lists(source, token):
                responses.add(response, url)
        elif "://" in source:
            raise UnreadableSource("Only http:// and https:// URLs can be read.")
        else:
            try:
                responses.add(json.loads(Path(source).read_bytes()), source)
            except OSError as error:
                raise UnreadableSource(f"{source} cannot be read: {error.strerror}") from error
            except (ValueError, RecursionError) as error:
                raise UnreadableSource(f"{source} is no JSON: {error}") from error
    return responses


def _fetch_lists(url: str, token: str) -> Iterator[tuple[str, Any]]:
    if problem := url_policy.problem(url):
        raise UnreadableSource(problem)
    if "/api/extras/" in urlsplit(url).path:
        yield from _fetch_pages(url, token)
        return
    root = url.partition("?")[0].partition("#")[0].rstrip("/").removesuffix("/api")
    yield from _fetch_pages(root + WEBHOOKS_PATH, token)
    try:
        yield from _fetch_pages(root + RULES_PATH, token)
    except _NotFound:
        return  # Nautobot, and NetBox before 3.7, have no event rules: webhooks have their own models and actions


def _fetch_pages(url: str, token: str) -> Iterator[tuple[str, Any]]:
    """The pages of a list, found by number: behind a proxy, the ``next`` of a response may name another server."""
    read = 0
    while True:
        response = _fetch(url, token, read)
        yield url, response
        page = response if isinstance(response, dict) else {}
        results, count = page.get("results"), page.get("count")
        if not results or not isinstance(count, int) or read + len(results) >= count:
            return
        read += len(results)


def _fetch(url: str, token: str, offset: int) -> Any:
    def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if token:
            # NetBox's tokens of version 2 have this prefix. Older ones, and Nautobot's, have another scheme.
            request.headers["Authorization"] = f"{'Bearer' if token.startswith('nbt_') else 'Token'} {token}"
        return request

    try:
        response = requests.get(
            url,
            params={"limit": PAGE, "offset": offset},
            headers={"Accept": "application/json"},
            auth=authorize,  # also without a token: otherwise requests would read a password from a .netrc
            timeout=TIMEOUT,
            allow_redirects=False,
        )
    except requests.RequestException as error:
        raise UnreadableSource(f"{url} cannot be read: {explain(error, TIMEOUT)[1]}") from error
    _check_status(url, response)
    try:
        return response.json()
    except (ValueError, RecursionError) as error:
        raise UnreadableSource(f"{url} did not answer with JSON: {error}") from error


def _check_status(url: str, response: requests.Response) -> None:
    status = response.status_code
    problem = f"{url} answered HTTP {status}"
    if status == 404:
        raise _NotFound(f"{problem}: there is no such list. Is it the URL of a NetBox or Nautobot?")
    if status in (401, 403):
        problem += f": the token needs permission to view webhooks and event rules{_detail(response)}"
    if 300 <= status < 400:
        problem += f", a redirect to {response.headers.get('Location', 'nowhere')}, which is not followed"
    if status != 200:
        raise UnreadableSource(problem)


def _detail(response: requests.Response) -> str:
    """Why the API refused, in its own words. Empty if it does not say, or repeats the token."""
    try:
        answer = response.json()
    except (ValueError, RecursionError):
        return ""
    detail = answer.get("detail") if isinstance(answer, dict) else None
    token = response.request.headers.get("Authorization", "").rpartition(" ")[2]
    if not isinstance(detail, str) or not detail or (token and token in detail):
        return ""
    return f". Its reason: {detail[:DETAIL_LENGTH]}"


# Planning


@dataclass(frozen=True)
class Plan:
    """A webhook to create: fields and labels of models, and the differences from the original, each a clause."""

    origin: str
    fields: dict[str, Any]
    object_types: tuple[str, ...]
    differences: tuple[str, ...] = ()
    rule: Any = None
    """The id of the event rule."""
    lost: tuple[str, ...] = ()
    """Those of the differences that keep it from sending all that the original sends."""

    @property
    def name(self) -> str:
        return str(self.fields["name"])


@dataclass(frozen=True)
class Skipped:
    """A rule or webhook without an equivalent here, with the reason."""

    origin: str
    reason: str


@dataclass
class ImportPreview:
    """The result of an import before it changes anything."""

    new: list[Plan] = field(default_factory=list)
    existing: list[tuple[Plan, list[str]]] = field(default_factory=list)
    """Plans with the name of a stored webhook, and the fields that differ."""
    skipped: list[Skipped] = field(default_factory=list)


def preview(responses: Responses, disabled: bool = False) -> ImportPreview:
    """Translate and validate. ``disabled`` disables all new webhooks."""
    result, origins, left_out_of = ImportPreview(), dict[str, str](), cache(_left_out)
    for plan in translate(responses, registry.registered_models()):
        if isinstance(plan, Skipped):
            result.skipped.append(plan)
            continue
        plan.fields["enabled"] = plan.fields["enabled"] and not disabled
        lost = tuple(_lost_fields(plan, left_out_of))
        plan = replace(plan, differences=plan.differences + lost, lost=plan.lost + lost)
        if stored := Webhook.objects.filter(name=plan.name).first():
            result.existing.append((plan, _differing_fields(stored, plan)))
        elif problem := f"{origins[plan.name]} has the same name" if plan.name in origins else _problem(plan):
            result.skipped.append(Skipped(plan.origin, problem))
        else:
            origins[plan.name] = plan.origin
            result.new.append(plan)
    return result


def replaced_by(preview: ImportPreview) -> list[Plan]:
    """The plans with an enabled webhook that does all that the original does: both would send."""
    same = [plan for plan, differing in preview.existing if not differing]
    return [plan for plan in (*preview.new, *same) if not plan.lost and plan.fields["enabled"]]


def create(plans: Iterable[Plan]) -> None:
    """Create a webhook for each plan, or none. Raises ChangedMeanwhile if another user took one of the names."""
    with transaction.atomic(Webhook.objects.db):
        for plan in plans:
            chosen = registry.object_types_of(plan.object_types)
            webhook = save_webhook(Webhook(), plan.fields, chosen, OPERATOR, is_checked=True)
            logger.info("Webhook %s was imported from %s", webhook, plan.origin, extra=about(webhook=webhook))


def _problem(plan: Plan) -> str:
    try:
        check_webhook(Webhook(), plan.fields, registry.object_types_of(plan.object_types), OPERATOR)
    except ValidationError as error:
        refused = [f"{name}: {' '.join(messages)}" for name, messages in error.message_dict.items()]
        return f"refused: {'; '.join(refused)}"
    return ""


def _differing_fields(stored: Webhook, plan: Plan) -> list[str]:
    planned = Webhook(**plan.fields)
    names = [name for name in SETTINGS if name != "object_types" and getattr(stored, name) != getattr(planned, name)]
    object_types = set(map(label_of, stored.object_types.all()))
    return names + (["object_types"] if object_types != set(plan.object_types) else [])


# Fields that are left out


def _left_out(label: str) -> list[FieldPath] | str:
    """The fields of a registered model that are not sent, or why they are not known."""
    registration = registry.registration_by_label(label)
    try:
        return left_out(registration) if registration else []
    except Exception as error:  # of the serializer
        reraise_job_timeout(error)
        return f"{type(error).__name__}: {error}"


def _lost_fields(plan: Plan, left_out_of: Callable[[str], list[FieldPath] | str]) -> Iterator[str]:
    """A clause for each model, template and condition that misses fields here. ``left_out_of`` takes a label."""
    fields = plan.fields
    templates_of = {
        "its URL": fields["payload_url"],
        "its headers": fields["additional_headers"],
        "its body template": fields["body_template"],
    }
    for label in plan.object_types:
        paths = left_out_of(label)
        if isinstance(paths, str):
            yield f"the fields of {label} are not known: {paths}"
            continue
        if paths and not fields["body_template"]:
            yield f"left out of the data of {label}: {_listed(paths)}"
        read = {what: read_by_template(paths, source) for what, source in templates_of.items()}
        read["its conditions"] = read_by_conditions(paths, fields["conditions"])
        for what, lost in read.items():
            if lost:
                verb = "judge" if what == "its conditions" else "read" if what == "its headers" else "reads"
                yield f"{what} {verb} what is left out of the data of {label}: {_listed(lost)}"


def _listed(paths: list[FieldPath]) -> str:
    names = [".".join(path) for path in paths[:MOST_LISTED]]
    return ", ".join(names) + (f" and {len(paths) - MOST_LISTED} more" if len(paths) > MOST_LISTED else "")


# Translating


class _NoEquivalent(Exception):
    pass


def translate(responses: Responses, registered: Collection[str]) -> Iterator[Plan | Skipped]:
    """A plan, or a reason against it, for each rule and webhook. ``registered`` are the labels of registered models."""
    webhooks, used = responses.webhooks, set()
    for rule in responses.rules.values():
        pk = rule.get("action_object_id")
        webhook = webhooks.get(pk) if isinstance(pk, int | str) else None
        if webhook and rule.choice("action_type") in SENDING:
            used.add(pk)
        yield _plan_or_skip(rule, webhook, registered)
    for pk, webhook in webhooks.items():
        if any(key in webhook for key in ("content_types", "object_types", *FLAGS)):
            yield _plan_or_skip(webhook, webhook, registered)
        elif pk not in used:
            yield Skipped(_title_of("webhook", webhook), "no event rule uses it")


def _title_of(kind: str, item: Item) -> str:
    return f'{kind} "{item.get("name") or item["id"]}"'


def _plan_or_skip(rule: Item, webhook: Item | None, registered: Collection[str]) -> Plan | Skipped:
    """``rule`` and ``webhook`` are the same for a webhook with its own models and actions."""
    origin = _title_of("webhook" if rule is webhook else "event rule", rule)
    kind = rule.choice("action_type") if rule is not webhook else "webhook"
    if kind not in SENDING:
        action = f"is a {kind}" if kind else "is not given"
        return Skipped(origin, f"its action {action}: only webhooks have an equivalent here")
    if webhook is None:
        return Skipped(origin, f"its webhook {rule.get('action_object_id')} is missing in the responses")
    differences: list[str] = []
    try:
        object_types = _object_types(rule, registered, differences)
        actions = _action_fields(rule, differences)
        lost = tuple(differences)
        fields = _webhook_fields(rule, webhook, actions, differences)
    except _NoEquivalent as error:
        return Skipped(origin, str(error))
    if rule is not webhook:
        origin = f"{origin} with {_title_of('webhook', webhook)}"
    return Plan(origin, fields, object_types, tuple(differences), rule["id"], lost)


def _webhook_fields(rule: Item, webhook: Item, actions: dict[str, bool], differences: list[str]) -> dict[str, Any]:
    fields = {
        "name": rule.text("name"),
        "enabled": rule.typed("enabled", True),
        **actions,
        **request_fields(webhook, differences),
        "description": rule.text("description") or webhook.text("description"),
        "conditions": rule.get("conditions") or None,
        "static_data": rule.typed("action_data", dict[str, Any]()) or None,
        "prechange": True,  # always sent there
    }
    is_nautobot = isinstance(webhook["id"], str)  # a UUID; NetBox has numbers
    if not fields["body_template"]:
        if is_nautobot:
            differences.append("snapshots.differences: only templates have it, and this one sends the plain payload")
        if Webhook(content_type=fields["content_type"]).is_form:
            differences.append(
                "its payload is JSON there, whatever the content type says, and a form here: choose another content "
                "type, or write a body template"
            )
    if is_nautobot and any("{{" in fields[name] for name in ("body_template", "additional_headers")):
        differences.append(ESCAPING)
    if lost := [name for name in LEFT_OUT if _has_content(rule.get(name)) or _has_content(webhook.get(name))]:
        differences.append(f"left out: {', '.join(lost)}".replace("_", " "))
    return fields


def _has_content(value: Any) -> bool:
    return any(value.values()) if isinstance(value, dict) else bool(value)


def _object_types(rule: Item, registered: Collection[str], differences: list[str]) -> tuple[str, ...]:
    labels = sorted({label.lower() for label in rule.texts("object_types") or rule.texts("content_types")})
    if not labels:
        raise _NoEquivalent("it names no models")
    known, unknown = (
        [label for label in labels if label in registered],
        [label for label in labels if label not in registered],
    )
    if not known:
        raise _NoEquivalent(f"none of its models is registered here: {', '.join(unknown)}")
    if unknown:
        differences.append(f"not registered here: {', '.join(unknown)}")
    return tuple(known)


def _action_fields(rule: Item, differences: list[str]) -> dict[str, bool]:
    if "event_types" in rule:
        given = rule.texts("event_types")
        chosen = {action: name in given for name, action in ACTIONS.items()}
        others = sorted({*given} - ACTIONS.keys())
    else:
        chosen = {action: rule.typed(flag, False) for flag, action in FLAGS.items()}
        others = [flag for flag in ("type_job_start", "type_job_end") if rule.get(flag)]
    if not any(chosen.values()):
        raise _NoEquivalent(f"none of its event types has an equivalent here: {', '.join(others) or 'there are none'}")
    if others:
        differences.append(f"event types: {', '.join(others)}")
    return chosen


def request_fields(webhook: Item, differences: list[str]) -> dict[str, Any]:
    """The settings that a webhook of NetBox or Nautobot determines. Adds to ``differences``."""
    url, credentials = _without_user(webhook.text("payload_url"))
    lines = webhook.text("additional_headers").splitlines()
    additional, secret = _split_headers(lines, credentials, differences)
    if webhook.get("secret") is None:
        differences.append("its secret is not in the response: set it by hand if it has one")
    timeout = webhook.get("timeout")
    if not isinstance(timeout, int) or isinstance(timeout, bool):
        timeout = None
    elif timeout > MAX_TIMEOUT:
        differences.append(f"its timeout of {timeout} s: the maximum here is {MAX_TIMEOUT} s")
        timeout = MAX_TIMEOUT
    return {
        "payload_url": url,
        "http_method": webhook.choice("http_method") or "POST",
        "content_type": webhook.text("http_content_type") or "application/json",
        "additional_headers": additional,
        "secret_headers": secret,
        "body_template": webhook.text("body_template"),
        "secret": webhook.text("secret"),
        "ssl_verification": webhook.typed("ssl_verification", True),
        "ca_file_path": webhook.text("ca_file_path"),
        "timeout": timeout,
    }


def _without_user(url: str) -> tuple[str, str]:
    """A URL without user and password, and these encoded for Basic authentication, as ``requests`` sends them."""
    match = _USER.match(url)
    if not match:
        return url, ""
    credentials = base64.b64encode(unquote_to_bytes(match[2] if ":" in match[2] else f"{match[2]}:")).decode()
    return match[1] + url[match.end() :], credentials


def _split_headers(lines: Sequence[str], credentials: str, differences: list[str]) -> tuple[str, str]:
    """Additional and secret headers from header lines and the ``credentials`` of a URL, which take precedence.

    Appends to ``differences``, without any value.
    """
    additional: list[str] = []
    secret: dict[str, str] = {}
    # The lines from the first statement or comment of a template to the last.
    marked = [number for number, line in enumerate(lines) if any(mark in line for mark in ("{%", "%}", "{#", "#}"))]
    in_block = range(marked[0], marked[-1] + 1) if marked else ()
    for number, line in enumerate(lines):
        name = line.partition(":")[0].strip()
        is_plain = number not in in_block and not templates.is_template(line)
        if is_plain and line.strip() and ":" not in line:
            differences.append(f"line {number + 1} of its headers has no colon: left out, as it was not sent there")
        elif is_plain and _is_secret(name) and not headers.problem(line):
            secret[name.lower()] = line.strip()  # of two with one name, the later is sent
        else:
            additional.append(line)
    if secret:
        names = [line.partition(":")[0].strip() for line in secret.values()]
        differences.append(f"headers that become secret ones, which are not shown again: {', '.join(names)}")
    if credentials:
        secret["authorization"] = f"Authorization: Basic {credentials}"
        differences.append("the user and password in its URL: they become a secret header, Authorization")
    return "\n".join(additional).strip("\n"), "\n".join(secret.values())


def _is_secret(name: str) -> bool:
    return is_sensitive(name) or not SECRET_WORDS.isdisjoint(re.split(r"[-_]", name.lower()))
