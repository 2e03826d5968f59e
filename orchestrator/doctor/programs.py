"""Checks external programs: the Docker Engine, kubectl with its cluster, helm."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

from orchestrator.containers.engine import EngineError, NoEngine, engine_version
from orchestrator.doctor.finding import Finding
from orchestrator.targets.helm_program import helm_program

__all__ = ["cluster", "docker", "helm"]

_SECONDS = 4.0
_NO_IMAGES = "images can be neither built nor run here"
_NO_CLUSTER = "nothing can be deployed to Kubernetes from here"
_NO_HELM = "install Helm, or deploy the chart written by `mlo render` from another machine"


def docker() -> list[Finding]:
    """Whether a Docker Engine responds."""
    try:
        return [Finding("docker", "ok", f"Docker Engine {engine_version(_SECONDS)} is running")]
    except NoEngine as error:
        remedy = "install Docker, or build the output of `mlo render` on another machine"
        return [Finding("docker", "missing", str(error), _NO_IMAGES, remedy)]
    except EngineError as error:
        remedy = "start the Docker Engine, or get permission to use it; `docker version` shows which is missing"
        return [Finding("docker", "missing", str(error), _NO_IMAGES, remedy)]


def cluster() -> list[Finding]:
    """kubectl, and whether the cluster of its current context responds."""
    program = shutil.which("kubectl")
    if program is None:
        costs = (
            "the cluster is not asked here; `mlo apply` does without kubectl, and asks it before anything is computed"
        )
        remedy = "install kubectl, to look at clusters by hand too"
        return [Finding("kubectl", "missing", "kubectl is not on the PATH", costs, remedy)]
    done = _run([program, "version", "--output", "json", "--request-timeout", f"{_SECONDS / 2:g}s"])
    answer = _document(done)
    client, server = (answer.get(f"{side}Version", {}).get("gitVersion", "") for side in ("client", "server"))
    row = Finding("kubectl", "ok", client or "on the PATH")
    if server:
        return [row, Finding("cluster", "ok", f"Kubernetes {server} is reachable")]
    remedy = "select a working context with `kubectl config use-context`, or set KUBECONFIG"
    return [row, Finding("cluster", "missing", _why(done, "the cluster does not respond"), _NO_CLUSTER, remedy)]


def helm() -> list[Finding]:
    """Helm."""
    program = helm_program()
    if program is None:
        what = "helm is neither on the PATH nor beside this Python"
        return [Finding("helm", "missing", what, _NO_CLUSTER, _NO_HELM)]
    done = _run([program, "version", "--short"])
    found = done.stdout.strip() if done is not None else ""
    return [Finding("helm", "ok", found or program)]


def _run(command: list[str]) -> subprocess.CompletedProcess[str] | None:
    """The finished process, or None if it timed out or could not be started."""
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def _document(done: subprocess.CompletedProcess[str] | None) -> dict[str, Any]:
    try:
        document = json.loads(done.stdout) if done is not None else {}
    except ValueError:
        document = {}
    return document if isinstance(document, dict) else {}


def _why(done: subprocess.CompletedProcess[str] | None, otherwise: str) -> str:
    if done is None:
        return f"no answer within {_SECONDS:g} s"
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else otherwise
