"""The environments of a spec that are written into one folder: what each has of its own, as values of the chart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.targets.chart_values import cluster_values, merged
from orchestrator.targets.gitops.section import Environment, GitopsDeploy, Writing

if TYPE_CHECKING:
    from orchestrator.spec.models import ModelDeployment

__all__ = ["refuse_other_decisions", "writing_of"]

_OF_ALL = ("form", "kubernetes", "apis", "argo", "flux")
"""Keys of the section that are the same for all environments of a folder."""


def writing_of(section: GitopsDeploy) -> Writing:
    """What a section says of the files. Environments with a path or a target of their own are not in this folder."""
    spec: ModelDeployment | None
    environments: Mapping[str, ModelDeployment]
    spec, environments = section.environments
    return Writing(
        form=section.form,
        namespace=section.namespace,
        kubernetes=section.kubernetes,
        apis=section.apis,
        argo=section.argo,
        flux=section.flux,
        values=cluster_values(section),
        environments={
            name: _environment(spec, section, other, other.deploy)
            for name, other in environments.items()
            if spec is not None and isinstance(other.deploy, GitopsDeploy) and other.deploy.path == section.path
        },
    )


def refuse_other_decisions(writing: Writing) -> None:
    """Check that one image can serve all environments of a folder.

    Raises:
        DeployFailed: E676, an environment changes what the decision depends on.
    """
    for name, environment in writing.environments.items():
        if environment.changes:
            changed = ", ".join(f"`{key}`" for key in environment.changes)
            raise DeployFailed(
                Diagnostic(
                    "E676",
                    f"the environment `{name}` cannot share a folder with the others",
                    cause=f"it changes {changed}; environments of one folder have the same image and form, and differ in "
                    "`metadata.labels`, `serving.replicas` and `deploy.namespace`, `pod`, `service`, `ingress`, `values`",
                    remedy=f"give it a `deploy.path` of its own, and apply it with `--environment {name}`",
                    at=("deploy", "path"),
                )
            )


def _environment(
    spec: ModelDeployment, section: GitopsDeploy, other: ModelDeployment, own: GitopsDeploy
) -> Environment:
    values: dict[str, Any] = {}
    if other.metadata.labels != spec.metadata.labels:
        values["labels"] = dict(other.metadata.labels)
    if other.serving.replicas != spec.serving.replicas:
        values["replicas"] = {"min": other.serving.replicas.min, "max": other.serving.replicas.max}
    before, now = _decided(spec), _decided(other)
    changes = [key for key in now if now[key] != before[key]]
    changes += [f"deploy.{key}" for key in _OF_ALL if getattr(own, key) != getattr(section, key)]
    more = cluster_values(own)
    return Environment(
        namespace=own.namespace,
        values=values if more == cluster_values(section) else merged(values, more),
        changes=changes,
    )


def _decided(spec: ModelDeployment) -> dict[str, Any]:
    """What the decision and the image depend on, by key; `benchmark` was filled in for the one, and is compared as it was."""
    document = spec.model_dump(mode="json", exclude={"deploy", "benchmark"})
    document["metadata"].pop("labels")
    document["serving"].pop("replicas")
    return document
