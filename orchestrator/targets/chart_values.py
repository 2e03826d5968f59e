"""Makes values of the chart of a section of the spec, for a second values file beside the rendered one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.spec.quantities import cpu_quantity, memory_quantity

if TYPE_CHECKING:
    from orchestrator.targets.cluster_settings import (
        ClusterDeploy,
        IngressSettings,
        PodSettings,
        Requests,
        ServiceAccount,
        ServiceSettings,
    )

__all__ = ["cluster_values", "merged"]

_SAME_NAMESPACE: dict[str, Any] = {"podSelector": {}}


def cluster_values(section: ClusterDeploy) -> dict[str, Any]:
    """What `deploy:` sets of the chart's values, besides those that the decision sets; empty where it sets none.

    Helm merges them over the rendered `values.yaml`: mappings key by key, lists as a whole. They are not in that file, so that a
    change of them, such as another node selector, gives no other image.
    """
    found = _pod(section.pod) | _given(
        inferenceService={} if section.as_ == "deployment" else {"enabled": True},
        service=_service(section.service) if "service" in section.model_fields_set else {},
        networkPolicy=_network(section),
        **_ingress(section.ingress),
    )
    return merged(found, section.values)


def _pod(pod: PodSettings) -> dict[str, Any]:
    return _given(
        podLabels=pod.labels,
        podAnnotations=pod.annotations,
        serviceAccount=_service_account(pod.service_account),
        image=_given(pullSecrets=pod.pull_secrets),
        nodeSelector=pod.node_selector,
        affinity=pod.affinity,
        tolerations=pod.tolerations,
        priorityClassName=pod.priority_class,
        runtimeClassName=pod.runtime_class,
        resources=_given(requests=_requests(pod.requests)),
        env=pod.env,
        envFrom=pod.env_from,
        volumes=pod.volumes,
        volumeMounts=pod.volume_mounts,
        initContainers=pod.init_containers,
        sidecars=pod.sidecars,
    ) | _known(topologySpreadConstraints=pod.topology_spread)


def _service_account(account: ServiceAccount) -> dict[str, Any]:
    return _given(
        create=None if account.create else False,
        name=account.name,
        labels=account.labels,
        annotations=account.annotations,
    )


def _requests(requests: Requests) -> dict[str, Any]:
    return _given(
        cpu=None if requests.cpus is None else cpu_quantity(requests.cpus),
        memory=None if requests.memory is None else memory_quantity(requests.memory),
    )


def _service(service: ServiceSettings) -> dict[str, Any]:
    return _given(
        type=service.type,
        port=service.port,
        grpcPort=service.grpc_port,
        labels=service.labels,
        annotations=service.annotations,
    )


def _network(section: ClusterDeploy) -> dict[str, Any]:
    asking = section.service.requests_from
    if section.ingress is not None and section.ingress.from_namespace is not None:
        controller = {"kubernetes.io/metadata.name": section.ingress.from_namespace}
        asking = [*(asking or [_SAME_NAMESPACE]), {"namespaceSelector": {"matchLabels": controller}}]
    return _given(egress=section.pod.egress) | _known(requestsFrom=asking, metricsFrom=section.service.metrics_from)


def _ingress(ingress: IngressSettings | None) -> dict[str, Any]:
    if ingress is None:
        return {}
    both = _given(enabled=True, path=ingress.path, labels=ingress.labels, annotations=ingress.annotations)
    gateway = ingress.gateway
    if gateway is None:
        own = _given(hosts=ingress.hosts, className=ingress.class_name, tlsSecret=ingress.tls_secret)
        return {"ingress": both | own}
    parent = _given(name=gateway.name, namespace=gateway.namespace, sectionName=gateway.listener)
    return {"httpRoute": both | {"hostnames": ingress.hosts, "parentRefs": [parent]}}


def _given(**values: Any) -> dict[str, Any]:
    """The values that are set: for Helm null would remove the chart's default."""
    return {key: value for key, value in values.items() if value not in (None, {}, [])}


def _known(**values: Any) -> dict[str, Any]:
    """Those of which an empty list says something: nobody may ask, nothing is spread."""
    return {key: value for key, value in values.items() if value is not None}


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """As Helm merges values: mappings key by key, everything else as a whole."""
    return {
        **below,
        **{
            key: merged(below[key], value)
            if isinstance(value, Mapping) and isinstance(below.get(key), Mapping)
            else value
            for key, value in above.items()
        },
    }
