"""Plain manifests and a Kustomize base, made of the chart by `helm template`: the same objects that Helm would send."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.targets.gitops.section import Writing
from orchestrator.targets.gitops.sync import yaml_text
from orchestrator.targets.helm_program import helm_program

__all__ = ["kustomization", "objects", "objects_files", "require_helm"]

_SECONDS = 60.0
_CLUSTER_WIDE = frozenset({"ClusterRole", "ClusterRoleBinding", "Namespace", "PriorityClass"})
_VARIABLES = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL")
"""Of the environment, all that Helm sees: others, such as HELM_NAMESPACE or KUBECONFIG, would change what it writes."""


def require_helm() -> str:
    """The path of Helm's program.

    Raises:
        DeployFailed: E673, there is none.
    """
    program = helm_program()
    if program is None:
        raise DeployFailed(
            Diagnostic(
                "E673",
                "`deploy.form` needs Helm, which is not installed",
                cause="plain manifests and a Kustomize base are made of the chart by `helm template`",
                remedy="install Helm 3.14 or later (https://helm.sh/docs/intro/install/), or run `make tools` in mlo's repository; or use `form:"
                " helm`, which needs none",
                at=("deploy", "form"),
            )
        )
    return program


def objects(chart: Path, values: Sequence[Path], name: str, writing: Writing, namespace: str) -> list[dict[str, Any]]:
    """The objects of a release, with their namespace, in the order in which Helm sends them; without those of `helm test`.

    Raises:
        DeployFailed: E673 there is no Helm, E674 it refuses the chart or its values.
    """
    arguments = [
        require_helm(), "template", name, str(chart), "--namespace", namespace, "--kube-version", writing.kubernetes,
        "--skip-tests",
    ]  # fmt: skip
    for file in values:
        arguments += ["--values", str(file)]
    for api in writing.apis:
        arguments += ["--api-versions", api]
    environment = {key: os.environ[key] for key in _VARIABLES if key in os.environ}
    try:
        done = subprocess.run(
            arguments,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _refused(str(error)) from error
    if done.returncode != 0:
        raise _refused(" ".join(done.stderr.split()).removeprefix("Error: "))
    found: list[dict[str, Any]] = [each for each in yaml.safe_load_all(done.stdout) if each]
    return [_in_namespace(each, namespace) for each in found]


def objects_files(documents: list[dict[str, Any]]) -> dict[str, str]:
    """File → content: a file for each object, named after its kind, and after its name too where there are several."""
    kinds = Counter(document["kind"] for document in documents)
    files = {}
    for document in documents:
        kind = document["kind"].lower()
        several = kinds[document["kind"]] > 1
        files[f"{kind}-{document['metadata']['name']}.yaml" if several else f"{kind}.yaml"] = yaml_text(document)
    return files


def kustomization(resources: list[str], **more: Any) -> str:
    """A kustomization.yaml."""
    return yaml_text(
        {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": resources, **more}
    )


def _in_namespace(document: dict[str, Any], namespace: str) -> dict[str, Any]:
    if document["kind"] in _CLUSTER_WIDE:
        return document
    metadata = document["metadata"]
    rest = {key: value for key, value in metadata.items() if key not in {"name", "namespace"}}
    return {**document, "metadata": {"name": metadata["name"], "namespace": namespace, **rest}}


def _refused(cause: str) -> DeployFailed:
    return DeployFailed(
        Diagnostic(
            "E674",
            "Helm cannot make the manifests",
            cause=cause[:1000],
            remedy="change what the cause names: `deploy.values` if it is a value, `deploy.kubernetes` or `deploy.apis` if it is "
            "the cluster's version",
            at=("deploy", "form"),
        )
    )
