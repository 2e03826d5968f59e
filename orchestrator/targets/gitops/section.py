"""The keys under `deploy:` for files in a Git repository, and what of them decides what is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr

from orchestrator.spec.strict import Strict
from orchestrator.spec.types import Namespace, RelPath, RepositoryUrl
from orchestrator.targets.cluster_settings import ClusterDeploy

__all__ = ["Argo", "Environment", "Flux", "GitopsDeploy", "Writing"]

Form = Literal["helm", "manifests", "kustomize"]
_Revision = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$")]
_Interval = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,4}(s|m|h)$")]


class Argo(Strict):
    """The Application of Argo CD."""

    repository: RepositoryUrl = Field(
        description="The repository's URL, as Argo CD reads it.",
        examples=["https://git.example.com/team/deployments.git"],
    )
    revision: _Revision = Field(default="HEAD", description="The branch, tag or commit that Argo CD follows.")
    project: Namespace = Field(default="default", description="The project of Argo CD.")
    namespace: Namespace = Field(default="argocd", description="The namespace of Argo CD, where the Application lies.")
    sync: Literal["automatic", "manual"] = Field(
        default="automatic", description="Whether Argo CD deploys a new commit by itself, and undoes other changes."
    )


class Flux(Strict):
    """The HelmRelease or Kustomization of Flux."""

    source: Namespace = Field(
        default="flux-system",
        description="The name of the GitRepository, which must exist unless `repository` is given.",
    )
    namespace: Namespace = Field(default="flux-system", description="The namespace of Flux' objects.")
    repository: RepositoryUrl | None = Field(
        default=None,
        description="The repository's URL, for a GitRepository that is written too.",
        examples=["https://git.example.com/team/deployments.git"],
    )
    branch: _Revision = Field(default="main", description="The branch that this GitRepository follows.")
    interval: _Interval = Field(default="10m", description="How often Flux looks for changes of what runs.")


class Environment(Strict):
    """What one of the spec's environments has of its own.

    Attributes:
        namespace: where its objects go.
        values: of the chart, over those of the spec without an environment.
        changes: what it changes besides, which needs a decision of its own; nothing if all is well.
    """

    namespace: str
    values: dict[str, Any]
    changes: list[str]


class Writing(Strict):
    """All keys of the section that decide what is written, besides the path.

    Attributes:
        form: of the files.
        namespace: where the objects go.
        kubernetes: the version that objects are made for where Helm makes them here.
        apis: of the cluster, such as `monitoring.coreos.com/v1/ServiceMonitor`.
        argo, flux: None if no such file is wanted.
        values: of the chart, besides those of the decision.
        environments: by name; none if the spec has none at this path.
    """

    form: Form
    namespace: str
    kubernetes: str
    apis: list[str]
    argo: Argo | None
    flux: Flux | None
    values: dict[str, Any]
    environments: dict[str, Environment]


_Api = Annotated[str, Field(pattern=r"^[a-z0-9.-]+(/v[a-z0-9]+)(/[A-Za-z]+)?$", max_length=200)]


class GitopsDeploy(ClusterDeploy):
    """As files in a Git repository, from which Argo CD or Flux deploys."""

    takes_image: ClassVar[Literal["no", "built", "pushed"]] = "pushed"
    needs_registry: ClassVar[bool] = True

    target: Literal["gitops"]
    path: RelPath = Field(
        description="The folder in the repository, relative to the spec.", examples=["../deployments/digits"]
    )
    form: Form = Field(
        default="helm",
        description="What is written: the chart and its values, plain manifests, or a Kustomize base; the last two need Helm here.",
    )
    namespace: Namespace = Field(default="default", description="The namespace of the objects.")
    kubernetes: Annotated[str, Field(pattern=r"^1\.[0-9]{2}$")] = Field(
        default="1.29",
        description="The version of Kubernetes that manifests are made for; with `form: helm` the cluster's own decides.",
    )
    apis: list[_Api] = Field(
        default=[],
        max_length=32,
        description="Further APIs of the cluster that manifests may use; with `form: helm` the cluster's own decide.",
        examples=[["monitoring.coreos.com/v1/ServiceMonitor"]],
    )
    argo: Argo | None = Field(default=None, description="Write an Application for Argo CD too.")
    flux: Flux | None = Field(default=None, description="Write a HelmRelease or Kustomization for Flux too.")

    _spec: Any = PrivateAttr(default=None)
    _environments: Mapping[str, Any] = PrivateAttr(default={})

    def claims(self, base: Path) -> Mapping[str, str]:
        """Its folder."""
        return {"path": f"the folder {(base / self.path).resolve()}"}

    def among(self, spec: Any, environments: Mapping[str, Any]) -> Self:
        """The same section, which knows the spec's environments."""
        same = self.model_copy()
        same._spec, same._environments = spec, environments  # noqa: SLF001 - its own class
        return same

    @property
    def environments(self) -> tuple[Any, Mapping[str, Any]]:
        """The ModelDeployment, and those of its environments; None and none where nothing said which."""
        return self._spec, self._environments
