"""A real Prometheus scrapes a real site, and takes the rules and the queries of the dashboard."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

import webhooks.contrib.prometheus
from tests.support.draining import drain, sweep_step
from tests.support.inbox import Inbox
from tests.support.makers import make_event, make_webhook
from tests.support.servers import free_port
from tests.support.site import serve_site
from tests.support.waiting import PATIENCE, until
from tests.support.workers import Workers
from webhooks.delivery import rollup

pytestmark = pytest.mark.prometheus

[FOLDER] = map(Path, webhooks.contrib.prometheus.__path__)
RULES, DASHBOARD = FOLDER / "alerts.yml", FOLDER / "dashboard.json"

ALERTS = {rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}

# The samples of a site where all is well, each of a minute, and what is wrong for each alert.
HEALTHY = {
    "webhooks_up": "1x30",
    "webhooks_workers": "2x30",
    "webhooks_oldest_due_seconds": "0 3 0 200 0 4x25",
    'webhooks_problems{problem="redis"}': "0x30",
    'webhooks_problems{problem="fault"}': "0x30",
    'webhooks_problems{problem="disabled"}': "0x30",
    'webhooks_paused{webhook="CMDB"}': "0x30",
    'webhooks_given_up_total{webhook="CMDB"}': "7x30",
    "webhooks_failed_events": "0x30",
    "webhooks_lost_leases_total": "3x30",
}
BROKEN = {
    "WebhooksDatabase": ("webhooks_up", "0x30"),
    "WebhooksNotScraped": ("webhooks_up", "_x30"),
    "WebhooksNoWorker": ("webhooks_workers", "0x30"),
    "WebhooksRedis": ('webhooks_problems{problem="redis"}', "1x30"),
    "WebhooksOldestDue": ("webhooks_oldest_due_seconds", "0+60x30"),
    "WebhooksOwnFault": ('webhooks_problems{problem="fault"}', "1x30"),
    "WebhookPaused": ('webhooks_paused{webhook="CMDB"}', "1x30"),
    "WebhookDisabled": ('webhooks_problems{problem="disabled"}', "1x30"),
    "WebhookGivenUp": ('webhooks_given_up_total{webhook="CMDB"}', "7x10 9x20"),
    "WebhooksFailedEvents": ("webhooks_failed_events", "1x30"),
    "WebhooksLostLeases": ("webhooks_lost_leases_total", "3x10 4x20"),
}


def program(name: str) -> str:
    path = shutil.which(name)
    assert path, f"no {name} on this machine: install it (Debian: apt-get install prometheus)"
    return path


def promtool(*arguments: object) -> str:
    found = subprocess.run([program("promtool"), *map(str, arguments)], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def test_promtool_accepts_the_rules() -> None:
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)


@pytest.mark.parametrize("broken", ["", *ALERTS])
def test_each_alert_fires_for_its_cause_alone(broken: str, tmp_path: Path) -> None:
    series, values = BROKEN[broken] if broken else ("", "")
    samples = HEALTHY | ({series: values} if broken else {})
    firing = [{"labels": f'{{alertname="{broken}"}}', "value": 1}] if broken else []
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": given} for name, given in samples.items()],
        "promql_expr_test": [
            {"expr": 'count by (alertname) (ALERTS{alertstate="firing"})', "eval_time": "25m", "exp_samples": firing}
        ],
    }
    path = tmp_path / "tests.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}))
    promtool("test", "rules", path)


@contextmanager
def prometheus(directory: Path, target: str) -> Iterator[Callable[..., Any]]:
    """Run it with the rules. Gives a function that asks its API."""
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {
                "job_name": "webhooks",
                "metrics_path": "/metrics/webhooks",
                "authorization": {"credentials": "the token"},
                "static_configs": [{"targets": [target]}],
            }
        ],
    }
    path, address = directory / "prometheus.yml", f"127.0.0.1:{free_port()}"
    path.write_text(yaml.safe_dump(config))
    log = directory / "prometheus.log"
    options = (f"--config.file={path}", f"--storage.tsdb.path={directory / 'data'}", f"--web.listen-address={address}")

    def ask(endpoint: str, **parameters: str) -> Any:
        url = f"http://{address}/api/v1/{endpoint}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10 * PATIENCE) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        return answer["data"]

    def is_up() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return bool(ask("query", query="up == 1")["result"])
        except OSError:  # it does not listen yet
            return False

    with log.open("wb") as output:
        process = subprocess.Popen([program("prometheus"), *options], stdout=output, stderr=output)
    try:
        until(is_up, 30, lambda: f"Prometheus to scrape:\n{log.read_text()}")
        yield ask
    finally:
        process.terminate()
        process.wait(20 * PATIENCE)


def queries() -> list[str]:
    """The queries of the dashboard, as Grafana sends them."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [one["expr"].replace("$__rate_interval", "1m") for panel in panels for one in panel["targets"]]


@pytest.mark.usefixtures("redis", "live_worker")
def test_prometheus_shows_what_the_site_did(database: str, inbox: Inbox, redis_url: str, tmp_path: Path) -> None:
    good, bad = make_webhook(url=inbox.url(), name="good"), make_webhook(url=inbox.url("status/500"), name="bad")
    make_event(good, bad)
    drain()
    sweep_step(rollup.add_up, 1000)
    workers = Workers(tmp_path, redis_url)
    workers.is_forking = False  # other settings
    with (
        serve_site(workers, "tests.contrib.settings") as site,
        prometheus(tmp_path, site.url.removeprefix("http://")) as ask,
    ):
        [found] = ask("query", query='webhooks_attempts_total{webhook="good"}')["result"]
        assert found["value"][1] == "1"
        known = set(ask("label/__name__/values"))
        used = set(re.findall(r"\bwebhooks_\w+", RULES.read_text() + DASHBOARD.read_text()))
        assert used - known == set(), "each metric of the rules and of the dashboard is there"
        for query in queries():
            ask("query", query=query)
        by_name = [one for one in queries() if "rate" not in one and "> 0" not in one and "increase" not in one]
        assert all(ask("query", query=query)["result"] for query in by_name)

        def rules() -> dict[str, Any]:
            return {rule["name"]: rule for group in ask("rules")["groups"] for rule in group["rules"]}

        until(lambda: {one["health"] for one in rules().values()} == {"ok"}, 10, "Prometheus to evaluate the rules")
        assert rules().keys() == ALERTS.keys()
        # Until the first scrape, nothing is scraped.
        until(lambda: {one["state"] for one in rules().values()} == {"inactive"}, 10, "no rule to wait or fire")
