"""The files of docs/deploy/ are what systemd, Docker and Kubernetes accept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.inbox import ROOT

DEPLOY = ROOT / "docs" / "deploy"
WORKER = ["rqworker", "webhooks", "--worker-class", "webhooks.workers.WebhookWorker"]

# Seconds that a worker needs to stop, as docs/operations.md has them.
WARM = 12


def run(*command: str) -> str:
    """What a checker prints. Fails if it finds something."""
    program = shutil.which(command[0]) or str(Path(sys.executable).parent / command[0])
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        assert not os.environ.get("CI"), "no systemd-analyze on this machine, and nothing may be left out here"
        pytest.skip("no systemd-analyze on this machine: install it (Debian: apt-get install systemd)")
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for path in DEPLOY.glob("*.service"):
        text = path.read_text()
        for name in ("gunicorn", "python"):
            text = text.replace(f"/opt/mysite/venv/bin/{name}", str(program))
        unit = tmp_path / path.name
        unit.write_text(text.replace("User=mysite", "User=root").replace("EnvironmentFile=/etc/mysite.env\n", ""))
        printed = run("systemd-analyze", "verify", "--man=no", str(unit))
        assert path.stem.rstrip("@") not in printed.replace(str(tmp_path), ""), printed


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    run("hadolint", str(DEPLOY / "Dockerfile"))


def test_the_compose_file_is_sound() -> None:
    services: Any = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    worker = services["webhooks"]
    assert worker["command"] == ["python", "manage.py", *WORKER]
    assert int(worker["stop_grace_period"].rstrip("s")) > WARM
    run("compose-lint", str(DEPLOY / "compose.yaml"))


def test_kubernetes_accepts_the_manifests() -> None:
    manifests = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    assert [one["kind"] for one in manifests] == ["Deployment", "Deployment", "Service", "Job"]
    pod = manifests[1]["spec"]["template"]["spec"]
    assert pod["containers"][0]["command"] == ["python", "manage.py", *WORKER]
    assert pod["terminationGracePeriodSeconds"] > WARM
    run("kubernetes-validate", "--strict", str(DEPLOY / "kubernetes.yaml"))


def test_the_workflows_of_the_forge_are_sound_and_safe() -> None:
    workflows = sorted(map(str, (ROOT / ".github" / "workflows").glob("*.yml")))
    assert workflows
    run("zizmor", "--offline", "--no-progress", *workflows)
    run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)
