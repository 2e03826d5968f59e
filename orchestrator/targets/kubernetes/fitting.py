"""Before a release changes anything: whether the cluster takes what it consists of, all reasons at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.store.state import Image
from orchestrator.targets.kubernetes.connection import Cluster, Json, Refused
from orchestrator.targets.kubernetes.kserve import RUNS
from orchestrator.targets.kubernetes.objects import namespaced, plural
from orchestrator.targets.kubernetes.preflight import RELEASED, missing_rights
from orchestrator.targets.kubernetes.pulling import pull_problems
from orchestrator.targets.kubernetes.quota import Pods, out_of_range, short_of

__all__ = ["check_fits", "release_pods"]

_OF_CANDIDATES = (*RUNS, "Service", "ServiceAccount", "NetworkPolicy")
"""Kinds of which a candidate has one of its own."""


def check_fits(
    cluster: Cluster,
    namespace: str,
    objects: Sequence[Json],
    live: Json | None,
    image: Image | None,
    tell: Callable[[str], None],
    candidates: int = 1,
) -> None:
    """Whether the cluster takes a release; changes nothing.

    Args:
        cluster: to release to.
        namespace: of the release.
        objects: what it consists of.
        live: what runs the pods that serve; None if nothing does.
        image: the release's.
        tell: is called with what could not be checked, and why.
        candidates: pods of the new revision that stand beside those that serve before it takes over, at most.

    Raises:
        DeployFailed: E654 a right is missing, E656 the image cannot be pulled, E657 a quota has no room or a LimitRange refuses the
            pod, E663 a pull secret is missing, E665 the cluster does not know a kind; all that apply. E652.
        Refused: the cluster does not say what it knows.
    """
    problems = [*_unknown_kinds(cluster, namespace, objects)]
    new = release_pods(objects)
    if new is not None:
        problems += _no_room(cluster, namespace, objects, new, live, tell, candidates)
        if image is not None:
            problems += pull_problems(cluster, namespace, new.spec, image, tell)
    if problems:
        raise DeployFailed(*problems)


def release_pods(objects: Sequence[Json]) -> Pods | None:
    """The pods of a release; where an autoscaler sets their number, the least."""
    scaled = next(
        (int(each["spec"].get("minReplicas", 1)) for each in objects if each["kind"] == "HorizontalPodAutoscaler"), None
    )
    runs = next((each for each in objects if each["kind"] in RUNS), None)
    return None if runs is None else Pods.of(runs, scaled)


def _unknown_kinds(cluster: Cluster, namespace: str, objects: Sequence[Json]) -> Iterator[Diagnostic]:
    """Kinds that the cluster lacks, then rights that this user lacks for those that it has."""
    missing: list[str] = []
    needed: list[tuple[str, str, tuple[str, ...]]] = []
    for version in sorted({str(each["apiVersion"]) for each in objects}):
        found = cluster.find("/api/v1" if version == "v1" else f"/apis/{version}") or {}
        plurals = {each["kind"]: each["name"] for each in found.get("resources") or () if "/" not in each["name"]}
        for kind in sorted({str(each["kind"]) for each in objects if each["apiVersion"] == version}):
            if kind in plurals:
                needed.append((version.rpartition("/")[0], plurals[kind], RELEASED))
            else:
                missing.append(f"{kind} of {version}")
    if missing:
        yield Diagnostic(
            "E665",
            f"the cluster of {cluster.name} lacks what the release needs",
            cause=f"it does not know {', '.join(missing)}",
            remedy="install what brings it on the cluster, or leave out the key of `deploy` that asks for it",
        )
    yield from missing_rights(cluster, namespace, needed)


def _no_room(
    cluster: Cluster,
    namespace: str,
    objects: Sequence[Json],
    new: Pods,
    live: Json | None,
    tell: Callable[[str], None],
    candidates: int,
) -> Iterator[Diagnostic]:
    quotas, ranges = (_listed(cluster, namespace, kind, tell) for kind in ("resourcequotas", "limitranges"))
    if outside := out_of_range(ranges, new.spec):
        yield Diagnostic(
            "E657",
            f"the namespace `{namespace}` refuses pods such as those of the release",
            cause="; ".join(outside),
            remedy="change `hardware:` or `deploy: pod: requests:` in the spec, or have the LimitRange changed (`kubectl describe"
            f" limits -n {namespace}`)",
            at=("hardware",),
        )
    old = None if live is None else Pods.of(live)
    made = _made(cluster, namespace, objects) if quotas else {}
    if short := short_of(quotas, ranges, new, old, made, candidates):
        yield Diagnostic(
            "E657",
            f"the quota of the namespace `{namespace}` has no room for the release",
            cause="; ".join(short),
            remedy=f"free some of it (`kubectl describe quota -n {namespace}`), have it raised, or lower `hardware:` or `serving:"
            f" replicas:` in the spec; {_beside(candidates)} beside those that serve",
            at=("deploy", "namespace"),
        )


def _beside(candidates: int) -> str:
    if candidates == 1:
        return "one pod of the new revision runs"
    return f"at the largest step of its canary, {candidates} pods of the new revision run"


def _made(cluster: Cluster, namespace: str, objects: Sequence[Json]) -> Mapping[str, Decimal]:
    """How many objects of each kind there are at most besides those that are there now, by the words of quotas.

    The candidate has one of each of its kinds, and is gone before those of the release come. Helm keeps a Secret for each revision.
    """
    counts: Counter[str] = Counter({"secrets": 1, "count/secrets": 1})
    for each in objects:
        kind, version = str(each["kind"]), str(each["apiVersion"])
        name, group = plural(kind), version.rpartition("/")[0]
        if kind not in _OF_CANDIDATES and cluster.find(namespaced(version, namespace, name, each["metadata"]["name"])):
            continue
        counts.update([f"count/{name}.{group}"] if group else [f"count/{name}", name])
    return {word: Decimal(count) for word, count in counts.items()}


def _listed(cluster: Cluster, namespace: str, kind: str, tell: Callable[[str], None]) -> list[Json]:
    try:
        found: list[Json] = cluster.get(namespaced("v1", namespace, kind))["items"]
    except Refused as refused:
        if refused.status != 403:
            raise
        tell(f"the {kind} of the namespace are not checked, since this user may not list them")
        return []
    return found
