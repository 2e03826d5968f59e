"""The keys under `deploy:` for a Kubernetes cluster."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from orchestrator.spec.types import ContextName, Duration, Namespace
from orchestrator.targets.cluster_settings import ClusterDeploy

__all__ = ["KubernetesDeploy"]


class KubernetesDeploy(ClusterDeploy):
    """On a Kubernetes cluster, by Helm."""

    takes_image: ClassVar[Literal["no", "built", "pushed"]] = "pushed"
    takes_shares: ClassVar[bool] = True
    extra: ClassVar[str] = "kubernetes"

    target: Literal["kubernetes"]
    context: ContextName | None = Field(
        default=None,
        description="The context of the kubeconfig; without it the current one, or the cluster that mlo runs in.",
        examples=["production"],
    )
    namespace: Namespace = Field(default="default", description="The namespace of the objects.")
    create_namespace: bool = Field(default=False, description="Make the namespace if there is none of that name.")
    wait: Duration = Field(
        default=300.0,
        description="How long a pod may take to get a node and its image, on top of the time that the model needs to start.",
        examples=["10m"],
    )

    @property
    def weighs_requests(self) -> bool:
        """With an HTTPRoute, whose weights are the shares."""
        return self.ingress is not None and self.ingress.gateway is not None
