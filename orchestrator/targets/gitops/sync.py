"""The objects that let Argo CD or Flux deploy from the repository: Application, HelmRelease, Kustomization, GitRepository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.targets.gitops.repository import Repository
from orchestrator.targets.gitops.section import Argo, Flux, Writing

__all__ = [
    "ARGO_FILE",
    "DEPLOY_VALUES_FILE",
    "FLUX_FILE",
    "VALUES_FILE",
    "path_in_repository",
    "sync_files",
    "yaml_text",
]

VALUES_FILE, DEPLOY_VALUES_FILE = "values.yaml", "values-deploy.yaml"
ARGO_FILE, FLUX_FILE = "application.yaml", "flux.yaml"
_HEADER = "# Written by mlo; change the spec, not this file.\n"


def path_in_repository(folder: Path) -> str:
    """Where `folder` lies below the root of its repository.

    Raises:
        DeployFailed: E672, it is in none, so that nobody else could find it.
    """
    repository = Repository.around(folder)
    if repository is None:
        raise DeployFailed(
            Diagnostic(
                "E672",
                f"{folder} is in no Git repository",
                cause="the files for Argo CD and Flux name the path in the repository, and no folder above has a `.git`",
                remedy="clone the repository that Argo CD or Flux reads, and name a folder in it in `deploy: path:`",
                at=("deploy", "path"),
            )
        )
    return folder.relative_to(repository.root).as_posix()


def sync_files(writing: Writing, name: str, folder: Path, places: dict[str, str]) -> dict[str, str]:
    """File → content, of the files that the spec asks for.

    Args:
        writing: what it asks for.
        name: the deployment's.
        folder: where the files lie.
        places: environment → path below `folder` that is deployed; with the empty text for the spec without one.

    Raises:
        DeployFailed: E672.
    """
    if writing.argo is None and writing.flux is None:
        return {}
    root = path_in_repository(folder)
    files = {}
    if writing.argo is not None:
        files[ARGO_FILE] = yaml_text(*_applications(writing, writing.argo, name, root, places))
    if writing.flux is not None:
        files[FLUX_FILE] = yaml_text(*_flux_objects(writing, writing.flux, name, root, places))
    return files


def yaml_text(*documents: Any) -> str:
    """Documents as mlo writes them: keys in their order, no line breaks inside of values."""
    return _HEADER + "---\n".join(
        yaml.safe_dump(document, sort_keys=False, width=10_000, default_flow_style=False) for document in documents
    )


def _applications(writing: Writing, argo: Argo, name: str, root: str, places: dict[str, str]) -> list[dict[str, Any]]:
    """An Application for each place.

    Source: Argo CD's manual, "Application specification".
    """
    found = []
    for environment, place in places.items():
        source: dict[str, Any] = {
            "repoURL": argo.repository,
            "targetRevision": argo.revision,
            "path": f"{root}/{place}",
        }
        if writing.form == "helm":
            source["helm"] = {"releaseName": name, "valueFiles": [f"../{file}" for file in _value_files(writing)]}
        policy: dict[str, Any] = {"syncOptions": ["CreateNamespace=true"]}
        if argo.sync == "automatic":
            policy = {"automated": {"prune": True, "selfHeal": True}, **policy}
        found.append(
            {
                "apiVersion": "argoproj.io/v1alpha1",
                "kind": "Application",
                "metadata": {"name": _in(name, environment), "namespace": argo.namespace},
                "spec": {
                    "project": argo.project,
                    "source": source,
                    "destination": {"server": "https://kubernetes.default.svc", "namespace": writing.namespace},
                    "syncPolicy": policy,
                },
            }
        )
    return found


def _flux_objects(writing: Writing, flux: Flux, name: str, root: str, places: dict[str, str]) -> list[dict[str, Any]]:
    """A HelmRelease or Kustomization for each place, after the GitRepository where the spec asks for it.

    Source: Flux' manual, "HelmRelease", "Kustomization" and "GitRepository".
    """
    found: list[dict[str, Any]] = []
    if flux.repository is not None:
        found.append(
            {
                "apiVersion": "source.toolkit.fluxcd.io/v1",
                "kind": "GitRepository",
                "metadata": {"name": flux.source, "namespace": flux.namespace},
                "spec": {"interval": "1m", "url": flux.repository, "ref": {"branch": flux.branch}},
            }
        )
    for environment, place in places.items():
        metadata = {"name": _in(name, environment), "namespace": flux.namespace}
        source = {"kind": "GitRepository", "name": flux.source}
        if writing.form == "helm":
            # The chart's version stays the same when its values change: only the revision tells.
            chart = {
                "chart": f"./{root}/{place}",
                "sourceRef": source,
                "reconcileStrategy": "Revision",
                "valuesFiles": [f"./{root}/{file}" for file in _value_files(writing)],
            }
            found.append(
                {
                    "apiVersion": "helm.toolkit.fluxcd.io/v2",
                    "kind": "HelmRelease",
                    "metadata": metadata,
                    "spec": {
                        "interval": flux.interval,
                        "releaseName": name,
                        "targetNamespace": writing.namespace,
                        "install": {"createNamespace": True},
                        "driftDetection": {"mode": "enabled"},
                        "chart": {"spec": chart},
                    },
                }
            )
        else:
            found.append(
                {
                    "apiVersion": "kustomize.toolkit.fluxcd.io/v1",
                    "kind": "Kustomization",
                    "metadata": metadata,
                    "spec": {
                        "interval": flux.interval,
                        "path": f"./{root}/{place}",
                        "prune": True,
                        "wait": True,
                        "sourceRef": source,
                    },
                }
            )
    return found


def _value_files(writing: Writing) -> list[str]:
    return [VALUES_FILE, *([DEPLOY_VALUES_FILE] if writing.values else [])]


def _in(name: str, environment: str) -> str:
    return f"{name}-{environment}" if environment else name
