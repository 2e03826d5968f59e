"""A Deployment that somebody has edited by hand, so that its server is not found in the pods."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.targets.kubernetes import preflight
from orchestrator.targets.kubernetes.asking import unanswered
from orchestrator.targets.kubernetes.kserve import ready_path
from tests.targets.test_kubernetes_target import (
    DEPLOYMENTS,
    RecordedCluster,
    deployment,
    refused_by,
    serves,
    target,
    write_kubeconfig,
)


def _renamed(server: dict[str, Any]) -> None:
    server["name"] = "renamed"


def _without_port(server: dict[str, Any]) -> None:
    del server["ports"][0]["name"]


def _without_probes(server: dict[str, Any]) -> None:
    del server["readinessProbe"], server["startupProbe"]


@pytest.mark.parametrize(
    ("edit", "cause"),
    [
        (_renamed, "the Deployment digits has no container `server`"),
        (_without_port, "its container `server` has no port `http` or `http1`"),
        (_without_probes, "no probe of its container `server` names the path at which it says that it is ready"),
    ],
)
def test_it_is_an_error_for_who_asks_the_server_and_not_for_who_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: Callable[[dict[str, Any]], None], cause: str
) -> None:
    answers = serves(1)
    (server,) = answers[f"{DEPLOYMENTS}/digits"]["spec"]["template"]["spec"]["containers"]
    edit(server)
    problem = refused_by(lambda: unanswered(cast("Any", RecordedCluster(answers)), "models", "digits", 1))
    assert (problem.code, problem.cause) == ("E619", cause)
    assert "`kubectl edit deployment`" in problem.remedy
    write_kubeconfig(tmp_path / "config", "https://127.0.0.1:1")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.setattr(preflight, "found_helm", lambda: "helm")
    assert target(answers).observe().revision == 1


def test_either_probe_says_at_which_path_a_pod_is_asked() -> None:
    (server,) = deployment(1)["spec"]["template"]["spec"]["containers"]
    del server["readinessProbe"]
    assert ready_path(server) == "/v2/health/ready"
