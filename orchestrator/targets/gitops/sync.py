"""The objects that let Argo CD or Flux deploy from the repository: Application, HelmRelease, Kustomization, GitRepository."""

from __future__ import annotations

from dataclasses import dataclass
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
    folder, repository = folder.parent.resolve() / folder.name, Repository.around(folder)
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


def environment_values(environment: str) -> str:
    """The file with an environment's own values."""
    return f"values-{environment}.yaml"


def sync_files(writing: Writing, name: str, folder: Path) -> dict[str, str]:
    """File → content, of the files that the spec asks for.

    Args:
        writing: what it asks for.
        name: the deployment's.
        folder: where the files lie.

    Raises:
        DeployFailed: E672.
    """
    if writing.argo is None and writing.flux is None:
        return {}
    root = path_in_repository(folder)
    files = {}
    if writing.argo is not None:
        files[ARGO_FILE] = yaml_text(*_applications(writing, writing.argo, name, root, _places(writing)))
    if writing.flux is not None:
        files[FLUX_FILE] = yaml_text(*_flux_objects(writing, writing.flux, name, root, _places(writing)))
    return files


def yaml_text(*documents: Any) -> str:
    """Documents as mlo writes them: keys in their order, no line breaks inside of values."""
    return _HEADER + "---\n".join(
        yaml.safe_dump(document, sort_keys=False, width=10_000, default_flow_style=False) for document in documents
    )


def _applications(writing: Writing, argo: Argo, name: str, root: str, places: list[_Place]) -> list[dict[str, Any]]:
    """An Application for each place.

    Source: Argo CD's manual, "Application specification".
    """
    found = []
    for place in places:
        source: dict[str, Any] = {
            "repoURL": argo.repository,
            "targetRevision": argo.revision,
            "path": f"{root}/{place.path}",
        }
        if writing.form == "helm":
            source["helm"] = {"releaseName": name, "valueFiles": [f"../{file}" for file in place.value_files]}
        policy: dict[str, Any] = {"syncOptions": ["CreateNamespace=true"]}
        if argo.sync == "automatic":
            policy = {"automated": {"prune": True, "selfHeal": True}, **policy}
        found.append(
            {
                "apiVersion": "argoproj.io/v1alpha1",
                "kind": "Application",
                "metadata": {"name": place.called(name), "namespace": argo.namespace},
                "spec": {
                    "project": argo.project,
                    "source": source,
                    "destination": {"server": "https://kubernetes.default.svc", "namespace": place.namespace},
                    "syncPolicy": policy,
                },
            }
        )
    return found


def _flux_objects(writing: Writing, flux: Flux, name: str, root: str, places: list[_Place]) -> list[dict[str, Any]]:
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
    for place in places:
        metadata = {"name": place.called(name), "namespace": flux.namespace}
        source = {"kind": "GitRepository", "name": flux.source}
        if writing.form == "helm":
            # The chart's version stays the same when its values change: only the revision tells.
            chart = {
                "chart": f"./{root}/{place.path}",
                "sourceRef": source,
                "reconcileStrategy": "Revision",
                "valuesFiles": [f"./{root}/{file}" for file in place.value_files],
            }
            found.append(
                {
                    "apiVersion": "helm.toolkit.fluxcd.io/v2",
                    "kind": "HelmRelease",
                    "metadata": metadata,
                    "spec": {
                        "interval": flux.interval,
                        "releaseName": name,
                        "targetNamespace": place.namespace,
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
                        "path": f"./{root}/{place.path}",
                        "prune": True,
                        "wait": True,
                        "sourceRef": source,
                    },
                }
            )
    return found


@dataclass(frozen=True, slots=True)
class _Place:
    """What is deployed by one Application, HelmRelease or Kustomization.

    Attributes:
        environment: empty for a spec without environments.
        path: below the folder.
        namespace: of the objects.
        value_files: of the chart.
    """

    environment: str
    path: str
    namespace: str
    value_files: tuple[str, ...]

    def called(self, name: str) -> str:
        """The name of that object."""
        return f"{name}-{self.environment}" if self.environment else name


def _places(writing: Writing) -> list[_Place]:
    """One for each environment; for a spec without environments one."""
    values = (VALUES_FILE, *([DEPLOY_VALUES_FILE] if writing.values else []))
    if not writing.environments:
        place = {"helm": "chart", "manifests": "manifests", "kustomize": "base"}[writing.form]
        return [_Place("", place, writing.namespace, values)]
    found = []
    for name, each in writing.environments.items():
        place = {"helm": "chart", "manifests": f"manifests/{name}", "kustomize": f"overlays/{name}"}[writing.form]
        own = (environment_values(name),) if each.values else ()
        found.append(_Place(name, place, each.namespace, (*values, *own)))
    return found
