"""A deployment on a Kubernetes cluster: `deploy: {target: kubernetes, namespace: ...}`.

    NAME                the Helm release: what serves. Its Deployment says in `mlo/revision` which revision that is.
    NAME-candidate      a release beside it while a revision is being proven: one pod, which the Service does not know
    mlo-NAME            the Lease that one command holds while it changes the deployment

A revision is installed as the candidate and asked through a port-forward to its pod. Then the candidate is removed, and the
release upgraded: a rolling update, in which each old pod serves until a new one is ready. So there is never more than one pod
more than the spec asks for, besides pods that end. Then a few golden requests go to the pods that the Service has. An upgrade that fails is rolled back.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed, MloError, UsageError
from orchestrator.store.crash_points import crash_point
from orchestrator.targets.chart_values import cluster_values
from orchestrator.targets.kubernetes.asking import unanswered
from orchestrator.targets.kubernetes.connection import Cluster, Json, Refused, named_context
from orchestrator.targets.kubernetes.forward import Relay
from orchestrator.targets.kubernetes.helm import Helm, HelmFailed, HelmRevision
from orchestrator.targets.kubernetes.identity import namespace_identity, require_same_place
from orchestrator.targets.kubernetes.lease import HeldLease, held_lease
from orchestrator.targets.kubernetes.logs import log_lines
from orchestrator.targets.kubernetes.objects import SETTINGS, candidate_of, instance, namespaced
from orchestrator.targets.kubernetes.observing import Serving, observed, ready_pods, revision_of
from orchestrator.targets.kubernetes.placement import KubernetesPlacement
from orchestrator.targets.kubernetes.preflight import (
    check_cluster,
    check_name,
    full_quotas,
    make_namespace,
)
from orchestrator.targets.kubernetes.record import read_record
from orchestrator.targets.kubernetes.refusals import refusal_error
from orchestrator.targets.kubernetes.rollout import Rollout
from orchestrator.targets.kubernetes.timing import rollout_seconds, update_seconds
from orchestrator.targets.kubernetes.values import alone, chart_values, named_account, settings_digest
from orchestrator.targets.target import Description, Observed, Release, Site, Started, require_whole_share

if TYPE_CHECKING:
    from orchestrator.store.state import PlacementRecord
    from orchestrator.targets.kubernetes.section import KubernetesDeploy

__all__ = ["KubernetesTarget"]

_MARGIN = 60.0
"""Seconds for what is neither waiting for a node nor starting the model."""
_LOOK = 1.0
"""Seconds between looks at a rollout."""
_ENDPOINTS = 15.0
"""Seconds until the Service has a pod that is ready, and none that ends."""


class KubernetesTarget:
    """One deployment in its namespace; see `orchestrator.targets.target.Target`.

    Args:
        name: the deployment's, and of its Helm release.
        place: the cluster and the namespace.
    """

    def __init__(self, name: str, place: KubernetesPlacement) -> None:
        self._name = name
        self._place = place
        self._cluster = Cluster(place.context)
        self._helm = Helm(place.context, place.namespace, self._require_lease)
        self._lease: HeldLease | None = None
        self._same_place = False
        self._known_as = ""
        self._releases: dict[int, Release] = {}
        self._relays: list[Relay] = []
        self._progress: Callable[[str], None] = lambda _: None

    @classmethod
    def wanted(cls, section: KubernetesDeploy, base: Path, site: Site) -> Self:
        """The namespace that the spec names, in the context that it names or else the current one."""
        del base
        named = named_context(section.context)
        return cls(
            site.name,
            KubernetesPlacement(
                context=named.context,
                server=named.server,
                namespace=section.namespace,
                port=section.service.port,
                create_namespace=section.create_namespace,
                wait=section.wait,
                settings=cluster_values(section),
            ),
        )

    @classmethod
    def placed(cls, placement: PlacementRecord, site: Site) -> Self:
        """The namespace that the state remembers."""
        return cls(site.name, KubernetesPlacement.of(placement))

    @property
    def placement(self) -> PlacementRecord:
        """The cluster and the namespace."""
        return self._place.model_copy(update={"identity": self._identity() or self._place.identity}).record()

    def is_at(self, placement: PlacementRecord) -> bool:
        """Whether it is the same namespace of the same cluster, whatever the context is called and whichever its address is."""
        if placement.target != KubernetesPlacement.TARGET:
            return False
        other = KubernetesPlacement.of(placement)
        if other.namespace != self._place.namespace:
            return False
        return other.server == self._place.server or bool(other.identity and other.identity == self._identity())

    def difference(self, endpoint: str) -> str | None:
        """Another port of the Service, or other settings under `deploy:`; all else is in what was rendered."""
        if endpoint != self._address():
            return f"moves from {endpoint} to {self._address()}"
        deployment = self._seen().deployment
        if deployment is None:
            return None
        deployed = (deployment["metadata"].get("annotations") or {}).get(SETTINGS, "")
        return None if deployed == settings_digest(self._place.settings) else "`deploy` sets other values of the chart"

    def describe(self) -> Description:
        """The words for a Service in a namespace."""
        where = f"the namespace {self._place.namespace} of {self._cluster.name.replace('`', '')}"
        return Description(
            where=self._address(),
            label="service",
            in_use="serves",
            removal=f"Remove {self._name} from {where}",
            removed=f"removed from {where}",
            try_it=f"mlo predict {shlex.quote(self._name)} --input FILE",
        )

    def observe(self) -> Observed:
        """What the Deployment and its pods say; `degraded` also while an update is under way.

        Raises:
            DeployFailed: E652 the cluster does not answer, E654 this user may not look.
        """
        return observed(self._seen(), self._address())

    def history(self) -> tuple[int, ...]:
        """The revisions whose ReplicaSets the cluster keeps."""
        with self._explained():
            found = self._list("apps/v1", "replicasets", self._name)
        numbers = {revision_of(each["spec"]["template"]) for each in found}
        serving = self.observe().revision
        return tuple(sorted({number for number in (*numbers, serving) if number is not None}))

    def url(self) -> str:
        """A port on loopback from which requests are forwarded to a ready pod of the Service, while this process runs."""
        seen = self._seen()
        if not seen.ready_pods:
            raise UsageError(
                Diagnostic(
                    "E619",
                    f"no pod of {self._name} is ready",
                    cause=self.observe().reason or "its Service has no endpoints",
                    remedy=f"run `mlo status {self._name}`, and `mlo apply` with its spec",
                )
            )
        return self._through_service().url

    def logs(self, lines: int = 100, *, follow: bool = False) -> Iterator[str]:
        """The last lines of each pod's log, then, if `follow`, each new one, also of pods that come later.

        Raises:
            DeployFailed: E615 there is no pod.
        """
        with self._explained():
            yield from log_lines(self._cluster, self._place.namespace, self._name, lines, follow=follow)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the deployment's Lease for the block, so that no other machine changes it. What a client that died left is settled.

        Raises:
            Busy: E605 another command holds it.
            DeployFailed: E652, E654.
        """
        with self._explained(), held_lease(self._cluster, self._place.namespace, self._name) as held:
            self._lease = held
            try:
                if held is not None:
                    self._settle()
                yield
            finally:
                self._lease = None

    def check(self, share: float = 1.0, *, grpc: bool = False) -> None:
        """Whether the cluster can take the deployment and this user may make it; changes nothing.

        Raises:
            DeployFailed: E650 to E655, E662 the name is another release's, E665; E623.
        """
        del grpc  # the Service offers it
        require_whole_share(KubernetesPlacement.TARGET, share)
        check_name(self._name)
        place = self._place
        check_cluster(self._cluster, place.namespace, place.settings, create=place.create_namespace)
        self._check_ours(self._name, candidate_of(self._name))

    def prepare(self, live: Release | None = None) -> str:
        """Make the namespace if the spec says so.

        Raises:
            DeployFailed: as `check`.
        """
        del live  # the cluster restarts what ended
        self.check()
        if self._place.create_namespace:
            with self._explained():
                make_namespace(self._cluster, self._place.namespace)
        return self._address()

    def start(self, release: Release, progress: Callable[[str], None] = lambda _: None) -> Started:
        """Install the revision as a release of its own beside the live one, with one pod that takes no traffic.

        Raises:
            DeployFailed: E656 to E660, E663: it did not come up; E661 Helm refused it.
        """
        self._releases[release.revision], self._progress = release, progress
        candidate = candidate_of(self._name)
        try:
            with self._explained():
                self._upgrade(candidate, release, self._alone())
                pod = self._ready_pod(candidate, release.revision)
                relay = self._relay(lambda: pod, self._port(candidate))
            relay.check()
        except BaseException as error:
            self._drop_failed(error)
            raise
        crash_point("kubernetes.installed")
        return Started(release.revision, relay.url)

    def switch(self, revision: int, share: float = 1.0) -> tuple[str, ...]:
        """Remove the candidate, upgrade the release to it, and ask it through the Service.

        Returns:
            For a revision that another process has upgraded to: why it does not serve as it should, if so.

        Raises:
            DeployFailed: the upgrade failed and was rolled back: E656 to E661, E608 and E609; E623.
        """
        require_whole_share(KubernetesPlacement.TARGET, share)
        release = self._releases.get(revision)
        if release is None:
            return self._complete(revision)
        with self._explained():
            before = self._helm.history(self._name)
            good = next((each.number for each in reversed(before) if each.status == "deployed"), None)
            self._remove_candidate()
            crash_point("kubernetes.proven")
            try:
                self._upgrade(self._name, release, {})
                crash_point("kubernetes.upgraded")
                self._ask_through_service(revision)
                self._prove_through_service(release)
            except BaseException as error:
                self._roll_back(good, error)
                raise
        return ()

    def _complete(self, revision: int) -> tuple[str, ...]:
        """Wait for the rollout of a revision that a run upgraded to before it died, and ask it through the Service.

        It was proven, and its upgrade is done: `lock` settles all others. So what is wrong now is told and not raised, or a revision
        that fails after that could be neither replaced nor rolled back.
        """
        place = self._place
        rollout = Rollout(self._cluster, place.namespace, self._name, revision, place.wait, self._progress)
        try:
            with self._explained():
                seconds = place.wait + self._rollout_seconds() + _MARGIN
                deadline = time.monotonic() + seconds
                while not Serving.seen(self._cluster, place.namespace, self._name).settled:
                    if time.monotonic() > deadline:
                        raise rollout.late(seconds, "its pods are not all ready")
                    rollout.look()
                    time.sleep(_LOOK)
                self._ask_through_service(revision)
        except DeployFailed as failed:
            return tuple(each.sentence for each in failed.diagnostics)
        return ()

    def drop(self, revision: int) -> None:
        """Remove the candidate. What was being upgraded when a client died is finished by the next one."""
        del revision
        with self._explained():
            self._remove_candidate()

    def stop(self) -> tuple[str, ...]:
        """Remove both releases; the namespace stays, since others may use it.

        Raises:
            DeployFailed: E661 something of it cannot be removed, E662 the release is not mlo's.
        """
        with self._explained():
            if self._cluster_has_nothing():
                return ()
            self._check_ours(self._name)
            self._remove_candidate()
            self._helm.uninstall(self._name)
            ending = len(self._list("v1", "pods", self._name))
        return (f"while its last pods ({ending}) answer what is under way and end",) if ending else ()

    def _require_lease(self) -> None:
        """Whether the Lease is still held, if it was taken."""
        if self._lease is not None:
            self._lease.require()

    def _identity(self) -> str:
        """Of the namespace; empty where it is not readable, or not there yet."""
        self._known_as = self._known_as or namespace_identity(self._cluster, self._place.namespace)
        return self._known_as

    def _address(self) -> str:
        """The Service's name in the cluster."""
        port = self._place.port
        return f"http://{self._name}.{self._place.namespace}.svc" + ("" if port == 80 else f":{port}")

    def _seen(self) -> Serving:
        with self._explained():
            return Serving.seen(self._cluster, self._place.namespace, self._name)

    def _list(self, version: str, kind: str, release: str) -> list[Json]:
        found: list[Json] = self._cluster.get(
            namespaced(version, self._place.namespace, kind), labelSelector=instance(release)
        )["items"]
        return found

    def _alone(self) -> Mapping[str, Any]:
        """What the candidate differs in."""
        account = named_account(self._place.settings)
        path = namespaced("v1", self._place.namespace, "serviceaccounts", account)
        return alone(account_exists=bool(account) and self._cluster.find(path) is not None)

    def _port(self, release: str) -> int:
        """The port of HTTP in the release's pods."""
        deployment = self._cluster.get(namespaced("apps/v1", self._place.namespace, "deployments", release))
        (server,) = (each for each in deployment["spec"]["template"]["spec"]["containers"] if each["name"] == "server")
        return int(next(each["containerPort"] for each in server["ports"] if each["name"] == "http"))

    def _ready_pod(self, release: str, revision: int) -> str:
        pods = self._list("v1", "pods", release)
        ready = [
            str(pod["metadata"]["name"])
            for pod in pods
            if revision_of(pod) == revision
            and not pod["metadata"].get("deletionTimestamp")
            and any(
                each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions") or ()
            )
        ]
        if not ready:
            raise DeployFailed(
                Diagnostic(
                    "E660",
                    f"revision {revision} is not ready any more",
                    cause="its pod was ready, and is not now",
                    remedy=f"see `kubectl get pods -n {self._place.namespace}`; then run `mlo apply` again",
                )
            )
        return ready[-1]

    def _relay(self, pod: Callable[[], str], port: int) -> Relay:
        relay = Relay(self._cluster, self._place.namespace, pod, port)
        self._relays.append(relay)
        return relay

    def _through_service(self) -> Relay:
        """To a pod that the Service has among its endpoints, another one for each connection."""
        turn = iter(range(1 << 60))

        def pod() -> str:
            pods = ready_pods(self._cluster, self._place.namespace, self._name)
            return pods[next(turn) % len(pods)] if pods else ""

        return self._relay(pod, self._port(self._name))

    def _ask_through_service(self, revision: int) -> None:
        """Each pod that the Service has must be of that revision, and answer; what it has follows the pods a moment later."""
        deadline = time.monotonic() + _ENDPOINTS
        while problem := unanswered(self._cluster, self._place.namespace, self._name, revision):
            if time.monotonic() > deadline:
                raise DeployFailed(
                    Diagnostic(
                        "E660",
                        f"revision {revision} does not answer through the Service {self._name}",
                        cause=problem,
                        remedy=f"see `kubectl describe service {self._name} -n {self._place.namespace}`",
                    )
                )
            time.sleep(_LOOK)

    def _prove_through_service(self, release: Release) -> None:
        """A few golden requests to the pods that the Service has."""
        if release.prove is not None:
            self._progress("golden requests through the Service")
            release.prove(self._through_service().url)

    def _upgrade(self, name: str, release: Release, more: Mapping[str, Any]) -> None:
        """Install or upgrade one release, and wait for its pods while telling what they do."""
        place, revision = self._place, release.revision
        values = chart_values(release, name, place.settings, more)
        live = self._cluster.find(namespaced("apps/v1", place.namespace, "deployments", name))
        seconds = place.wait + update_seconds(release.startup_seconds, values, live) + _MARGIN
        rollout = Rollout(self._cluster, place.namespace, name, revision, place.wait, self._progress)
        try:
            self._helm.upgrade(
                name,
                release.rendered / "chart",
                values,
                description=f"mlo revision {revision}",
                seconds=seconds,
                watch=rollout.look,
            )
        except HelmFailed as failed:
            if "timed out" in str(failed) or "deadline" in str(failed) or "not ready" in str(failed):
                raise rollout.late(seconds, str(failed)) from failed
            quotas = full_quotas(self._cluster, place.namespace)
            raise DeployFailed(
                Diagnostic(
                    "E661",
                    f"Helm could not release revision {revision}",
                    cause=str(failed),
                    remedy="correct what Helm names; docs/kubernetes.md lists what a release needs",
                    notes=tuple(f"quota used up: {each}" for each in quotas),
                )
            ) from failed

    def _roll_back(self, good: int | None, error: BaseException) -> None:
        """Return to Helm's last good revision, whose pods have kept serving; without one, remove what failed."""
        try:
            if good is None:
                self._helm.uninstall(self._name)
                return
            self._progress("rolling back")
            self._helm.rollback(self._name, good, self._place.wait + self._rollout_seconds() + _MARGIN)
        except (HelmFailed, Refused, MloError) as second:
            error.add_note(f"rolling back also failed: {second}")

    def _drop_failed(self, error: BaseException) -> None:
        """Remove the candidate that did not come up; what goes wrong there is added to its error and does not replace it."""
        try:
            with self._explained():
                self._remove_candidate()
        except MloError as second:
            error.add_note(f"its pod could not be removed: {second}")

    def _remove_candidate(self) -> None:
        """Remove the release in which a revision is proven; one of that name that is not mlo's stays."""
        for relay in self._relays:
            relay.close()
        self._relays.clear()
        candidate = candidate_of(self._name)
        if _is_ours(self._helm.history(candidate)):
            self._helm.uninstall(candidate)

    def _settle(self) -> None:
        """Settle what a client left that died: its candidate, and an operation of Helm that is not done, or has failed.

        Helm refuses all others while one is pending. If the pods of that upgrade all serve, it is recorded as done; otherwise the
        last good one comes back. Its pods have kept serving, and the next apply starts again.
        """
        self._remove_candidate()
        history = self._helm.history(self._name)
        if not _is_ours(history) or not history[-1].unsettled:
            return
        good = next((each.number for each in reversed(history) if each.status == "deployed"), None)
        if history[-1].status != "uninstalling" and self._all_serve():
            self._helm.rollback(self._name, history[-1].number, _MARGIN, wait=False)
        elif good is not None:
            self._helm.rollback(self._name, good, self._place.wait + self._rollout_seconds() + _MARGIN)
        else:
            self._helm.uninstall(self._name)

    def _all_serve(self) -> bool:
        """Whether the Deployment is of the revision that Helm's newest record has, and all its pods serve."""
        seen = Serving.seen(self._cluster, self._place.namespace, self._name)
        record = read_record(self._cluster, self._place.namespace, self._name)
        if not seen.settled or seen.deployment is None or record is None:
            return False
        recorded = [revision_of(each) for each in record.objects if each.get("kind") == "Deployment"]
        return recorded == [revision_of(seen.deployment)]

    def _rollout_seconds(self) -> float:
        """For replacing the pods of the Deployment as it is; 0 where there is none."""
        deployment = self._cluster.find(namespaced("apps/v1", self._place.namespace, "deployments", self._name))
        return 0.0 if deployment is None else rollout_seconds(deployment)

    def _check_ours(self, *names: str) -> None:
        """Whether the releases of these names, where there are any, are of mlo's chart."""
        for name in names:
            with self._explained():
                history = self._helm.history(name)
            if history and not _is_ours(history):
                raise DeployFailed(
                    Diagnostic(
                        "E662",
                        f"the Helm release `{name}` in the namespace `{self._place.namespace}` is not mlo's",
                        cause=f"it was made of the chart {history[-1].chart}",
                        remedy="choose another `metadata: name:` or another `deploy: namespace:`",
                        at=("metadata", "name"),
                    )
                )

    def _cluster_has_nothing(self) -> bool:
        """Whether there is no such namespace, or soon none, so that Helm need not be asked."""
        try:
            found = self._cluster.find(f"/api/v1/namespaces/{self._place.namespace}")
        except Refused as refused:
            if refused.status == 403:
                return False
            raise
        return found is None or found.get("status", {}).get("phase") == "Terminating"

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the cluster and Helm refuse into errors with a remedy."""
        if not self._same_place:
            require_same_place(self._place, self._cluster)
            self._same_place = True
        try:
            yield
        except Refused as refused:
            raise refusal_error(self._cluster, self._place.namespace, refused) from refused
        except HelmFailed as failed:
            raise DeployFailed(
                Diagnostic(
                    "E661",
                    f"Helm failed in the namespace `{self._place.namespace}`",
                    cause=str(failed),
                    remedy=f"`helm history {self._name} -n {self._place.namespace}` shows what there is; then run the command again",
                )
            ) from failed


def _is_ours(history: tuple[HelmRevision, ...]) -> bool:
    """Whether there is a release, and it is of mlo's chart."""
    return bool(history) and history[-1].ours
