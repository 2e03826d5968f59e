"""The keys under `deploy:` that all targets with Kubernetes have: pods, service, ingress, and raw values of the chart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from orchestrator.diagnostics import Diagnostic
from orchestrator.spec.strict import Strict
from orchestrator.spec.types import (
    AnnotationValue,
    Cpus,
    HostName,
    LabelKey,
    LabelValue,
    Namespace,
    ObjectName,
    SecretName,
    Size,
)
from orchestrator.targets.section import DeploySection

if TYPE_CHECKING:
    from orchestrator.targets.section import SpanOf

__all__ = [
    "ClusterDeploy",
    "Gateway",
    "IngressSettings",
    "PodSettings",
    "Requests",
    "ServiceAccount",
    "ServiceSettings",
]

Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=64)]
Annotations = Annotated[dict[LabelKey, AnnotationValue], Field(max_length=64)]
KubernetesObject = dict[str, Any]
"""As Kubernetes spells it; the chart's schema checks it, with the position in the spec."""
Objects = Annotated[list[KubernetesObject], Field(max_length=64)]
Port = Annotated[int, Field(ge=1, le=65535)]


def _defaults() -> Any:
    """A section that falls back to its own defaults."""
    return Field(default={}, validate_default=True)


class Requests(Strict):
    """What a pod asks of its node, if that is less than it may use."""

    cpus: Cpus | None = Field(default=None, description="CPUs; by default those of `hardware`.", examples=["500m"])
    memory: Size | None = Field(default=None, description="Memory; by default that of `hardware`.", examples=["512Mi"])


class ServiceAccount(Strict):
    """The service account that pods run as; clouds bind their own identities to it."""

    create: bool = Field(default=True, description="Whether the release brings it; otherwise it must exist.")
    name: ObjectName | None = Field(
        default=None,
        description="Its name; by default that of the deployment, or `default` if it is not created.",
        examples=["model-server"],
    )
    labels: Labels = Field(default={}, description="Its own labels.")
    annotations: Annotations = Field(
        default={},
        description="Its annotations.",
        examples=[{"eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/models"}],
    )


class PodSettings(Strict):
    """The pods: where they may run, as whom, and what runs in them besides the server."""

    labels: Labels = Field(default={}, description="Labels of the pods alone.")
    annotations: Annotations = Field(default={}, description="Annotations of the pods.")
    service_account: ServiceAccount = _defaults()
    pull_secrets: list[SecretName] = Field(
        default=[],
        max_length=16,
        description="Secrets with the credentials of image registries.",
        examples=[["registry"]],
    )
    node_selector: Labels = Field(default={}, description="Labels that a node must have.")
    affinity: KubernetesObject = Field(default={}, description="Affinity, as in a pod of Kubernetes.")
    tolerations: Objects = Field(
        default=[],
        description="Tolerations, as in a pod of Kubernetes.",
        examples=[[{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]],
    )
    topology_spread: Objects | None = Field(
        default=None,
        description="Topology spread constraints, as in a pod of Kubernetes; by default over zones and nodes, as far as possible.",
    )
    priority_class: ObjectName | None = Field(
        default=None, description="The priority class.", examples=["high-priority"]
    )
    runtime_class: ObjectName | None = Field(default=None, description="The runtime class.", examples=["gvisor"])
    requests: Requests = _defaults()
    env: Objects = Field(
        default=[],
        description="More environment variables of the server, as in a container of Kubernetes: with a `value`, or from a "
        "Secret or ConfigMap.",
        examples=[[{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "tracing", "key": "token"}}}]],
    )
    env_from: Objects = Field(
        default=[],
        description="Secrets and ConfigMaps whose entries all become environment variables, as in a container of Kubernetes.",
        examples=[[{"secretRef": {"name": "tracing"}}]],
    )
    volumes: Objects = Field(default=[], description="More volumes, as in a pod of Kubernetes; no `hostPath`.")
    volume_mounts: Objects = Field(default=[], description="Where the server sees them.")
    init_containers: Objects = Field(default=[], description="Containers that end before the server starts.")
    sidecars: Objects = Field(default=[], description="Containers beside the server.")
    egress: Objects = Field(
        default=[],
        description="Where pods may send requests, as the egress rules of a NetworkPolicy; nowhere by default, because the model "
        "is in the image.",
        examples=[[{"to": [{"namespaceSelector": {}}], "ports": [{"port": 4318}]}]],
    )


class ServiceSettings(Strict):
    """The Service: how the server is reached in the cluster, and by whom."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field(default="ClusterIP", description="Its type.")
    port: Port = Field(default=80, description="Its port for HTTP.")
    grpc_port: Port = Field(default=8081, description="Its port for gRPC, if the server offers that.")
    labels: Labels = Field(default={}, description="Its own labels.")
    annotations: Annotations = Field(default={}, description="Its annotations, which load balancers read.")
    requests_from: Objects | None = Field(
        default=None,
        description="Who may send requests, as the peers of a NetworkPolicy; by default the pods of the same namespace.",
        examples=[[{"namespaceSelector": {"matchLabels": {"team": "web"}}}]],
    )
    metrics_from: Objects | None = Field(
        default=None,
        description="Who may read metrics, as the peers of a NetworkPolicy; by default the namespace `monitoring`.",
    )


class Gateway(Strict):
    """A Gateway of the Gateway API."""

    name: ObjectName = Field(description="Its name.", examples=["public"])
    namespace: Namespace | None = Field(default=None, description="Its namespace, if that is another one.")
    listener: Namespace | None = Field(default=None, description="The name of one of its listeners; by default all.")


class IngressSettings(Strict):
    """How the server is reached from outside the cluster: by an Ingress, or with `gateway` by an HTTPRoute."""

    hosts: list[HostName] = Field(
        min_length=1,
        max_length=16,
        description="Under which names requests come.",
        examples=[["digits.example.com"]],
    )
    path: Annotated[str, Field(pattern=r"^/[A-Za-z0-9._~/-]*$", max_length=200)] = Field(
        default="/", description="Below which path; it is not cut off before the server sees it."
    )
    labels: Labels = Field(default={}, description="Labels of the Ingress or HTTPRoute.")
    annotations: Annotations = Field(default={}, description="Annotations, which ingress controllers read.")
    class_name: ObjectName | None = Field(
        default=None, description="The ingress class; by default the cluster's.", examples=["nginx"]
    )
    tls_secret: SecretName | None = Field(
        default=None, description="The Secret with the certificate of the hosts; without it, the Ingress has no TLS."
    )
    gateway: Gateway | None = Field(
        default=None, description="The Gateway of an HTTPRoute, instead of an Ingress; its listener brings the TLS."
    )
    from_namespace: Namespace | None = Field(
        default=None,
        description="The namespace of the ingress controller or gateway, which may then send requests.",
        examples=["ingress-nginx"],
    )


class ClusterDeploy(DeploySection):
    """The base of the sections of targets with Kubernetes. `targets/chart_values.py` makes values of the chart of it."""

    as_: Literal["deployment", "inference-service"] = Field(
        default="deployment",
        alias="as",
        description="What runs the pods: a Deployment with its Service, or an InferenceService of KServe, which brings both.",
    )
    pod: PodSettings = _defaults()
    service: ServiceSettings = _defaults()
    ingress: IngressSettings | None = Field(
        default=None, description="How it is reached from outside the cluster; by default it is not."
    )
    values: KubernetesObject = Field(
        default={},
        description="Values of the chart that no other key sets; they take precedence over all others.",
        examples=[{"podDisruptionBudget": {"enabled": False}}],
    )

    def problems(self, span_of: SpanOf) -> Iterator[Diagnostic]:
        """What contradicts itself, and what the chart does not take."""
        yield from super().problems(span_of)
        yield from self._without_gateway(span_of)
        yield from self._with_kserve(span_of)
        if self.model_fields_set & {"pod", "service", "ingress", "values"}:
            # Schemas take a tenth of a second to load, which specs without these keys need not wait for.
            from orchestrator.targets.chart_schema import chart_problems, kept_out  # noqa: PLC0415

            yield from chart_problems(self, span_of)
            yield from kept_out(self, span_of)

    @property
    def passes_tls(self) -> bool:
        """Not with KServe, whose routes end the TLS of clients and speak HTTP to its pods."""
        return self.as_ == "deployment"

    def _with_kserve(self, span_of: SpanOf) -> Iterator[Diagnostic]:
        """What does not go with an InferenceService."""
        if self.as_ == "deployment":
            return
        if self.strategy is not None and self.takes_shares:
            yield Diagnostic(
                "E623",
                "an InferenceService takes over at once",
                span_of(("deploy", "strategy"), key=True),
                label="would share the traffic of a Service that is KServe's",
                cause="mlo splits traffic by the pods of a Service, and KServe decides which pods its Service has",
                remedy="remove it, or deploy `as: deployment`",
                at=("deploy", "strategy"),
            )
        if self.ingress is not None:
            yield Diagnostic(
                "E678",
                "KServe brings the route of an InferenceService",
                span_of(("deploy", "ingress"), key=True),
                label="would be a second one",
                remedy="remove it; KServe's own configuration sets the domain and the gateway",
            )

    def _without_gateway(self, span_of: SpanOf) -> Iterator[Diagnostic]:
        """Keys of an Ingress beside a Gateway."""
        if self.ingress is None or self.ingress.gateway is None:
            return
        for key in ("class_name", "tls_secret"):
            if getattr(self.ingress, key) is not None:
                at = ("deploy", "ingress", key)
                yield Diagnostic(
                    "E282",
                    f"`{key}` belongs to an Ingress, but `gateway` makes an HTTPRoute",
                    span_of(at, key=True),
                    remedy=f"remove `{key}`, or remove `gateway`",
                    at=at,
                )
