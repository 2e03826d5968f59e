"""Which cluster and which namespace a deployment is in."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from orchestrator.targets.placement import Placement

__all__ = ["KubernetesPlacement"]


class KubernetesPlacement(Placement):
    """A namespace of a cluster. The Helm release has the deployment's name.

    Attributes:
        context: of the kubeconfig; None for the cluster that mlo itself runs in.
        server: the address of the cluster, by which it is known whatever the context is called; empty for the own cluster.
        namespace: its name.
        identity: of that namespace of that cluster, by which it is known whatever the address is; empty where it was not readable.
        port: of the Service.
        create_namespace: whether mlo makes it.
        wait: seconds that a pod may take until its container runs.
        settings: values of the chart that the spec's `deploy:` sets.
    """

    TARGET: ClassVar[str] = "kubernetes"
    VERSION: ClassVar[int] = 2

    context: str | None
    server: str
    namespace: str
    identity: str = ""
    port: Annotated[int, Field(ge=1, le=65535)]
    create_namespace: bool
    wait: Annotated[float, Field(gt=0)]
    settings: dict[str, Any] = Field(default={})
