"""A deployment on a Kubernetes cluster: `deploy: {target: kubernetes, namespace: ...}`.

    NAME                the Helm release: what serves. Its Deployment says in `mlo/revision` which revision that is.
    NAME-candidate      a release beside it while a revision is being proven: one pod, which the Service does not know
    mlo-NAME            the Lease that one command holds while it changes the deployment

A revision is installed as the candidate and asked through a port-forward to its pod. Then the candidate is removed, and the
release upgraded: a rolling update, in which each old pod serves until a new one is ready. So there is never more than one pod
more than the spec asks for, besides pods that end and those of a canary (`canary.py`). Then a few golden requests go to the pods that
the Service has. An upgrade that fails is rolled back.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed, MloError, UsageError
from orchestrator.store.crash_points import crash_point
from orchestrator.targets.certificate import Expected
from orchestrator.targets.chart_values import cluster_values, merged
from orchestrator.targets.kubernetes.canary import SharedService, share_of, standing_beside
from orchestrator.targets.kubernetes.connection import Cluster, Json, Refused, named_context
from orchestrator.targets.kubernetes.forward import Relay, in_turn
from orchestrator.targets.kubernetes.helm import Helm, HelmFailed
from orchestrator.targets.kubernetes.identity import namespace_identity, require_same_place
from orchestrator.targets.kubernetes.kserve import container_name, find_server, runs, takes_tls
from orchestrator.targets.kubernetes.lease import HeldLease, held_lease
from orchestrator.targets.kubernetes.logs import log_lines
from orchestrator.targets.kubernetes.objects import SETTINGS, beside, candidate_of, instance, namespaced, own
from orchestrator.targets.kubernetes.observing import Serving, observed, revision_of
from orchestrator.targets.kubernetes.placement import KubernetesPlacement
from orchestrator.targets.kubernetes.port_forwards import PortForwards
from orchestrator.targets.kubernetes.preflight import (
    check_cluster,
    check_form,
    check_name,
    make_namespace,
)
from orchestrator.targets.kubernetes.refusals import refusal_error
from orchestrator.targets.kubernetes.releasing import Releasing, is_ours
from orchestrator.targets.kubernetes.route import give_back_route, route_of
from orchestrator.targets.kubernetes.secrets import expected_in, require_certificate, require_tokens
from orchestrator.targets.kubernetes.values import alone, chart_values, named_account, settings_digest
from orchestrator.targets.target import PLAIN, Description, Observed, Offers, Release, Site, Split, Started

if TYPE_CHECKING:
    from orchestrator.store.state import PlacementRecord
    from orchestrator.targets.kubernetes.section import KubernetesDeploy

__all__ = ["KubernetesTarget"]


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
        self._runs = runs(name, place.settings)
        self._lease: HeldLease | None = None
        self._same_place = False
        self._known_as = ""
        self._releases: dict[int, Release] = {}
        self._candidate: Mapping[str, Any] = {}
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
        """Another port of the Service, or other settings under `deploy:`; all else, such as TLS, is in what was rendered."""
        if _host_and_port(endpoint) != _host_and_port(self._service()):
            return f"moves from {endpoint} to {self._service()}"
        deployment = self._seen().deployment
        if deployment is None:
            return None
        deployed = (deployment["metadata"].get("annotations") or {}).get(SETTINGS, "")
        return None if deployed == settings_digest(self._place.settings) else "`deploy` sets other values of the chart"

    def describe(self) -> Description:
        """The words for a Service in a namespace."""
        where = f"the namespace {self._place.namespace} of {self._cluster.name.replace('`', '')}"
        return Description(
            where=self._service(),
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
        seen = self._seen()
        server = None
        if seen.deployment is not None and revision_of(seen.deployment) is not None:
            server = find_server(seen.deployment, kserve=self._runs != self._name)
        found = observed(seen, self._address(tls=server is not None and takes_tls(server)))
        if found.revision is None:
            return found
        with self._explained():
            return replace(
                found, beside=standing_beside(self._cluster, self._place.namespace, self._name, self._place.settings)
            )

    def history(self) -> tuple[int, ...]:
        """The revisions whose ReplicaSets the cluster keeps."""
        with self._explained():
            found = self._list("apps/v1", "replicasets", own(self._name))
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
        return self._forwards.through_service().url

    def certificate(self, named: Path, url: str) -> Expected:
        """While a revision is released, that of its Secret, which its new pods have. Later, whatever the pod shows.

        The API server has led to the pod then too. Who may send requests need not be allowed to read Secrets, and a pod gets a renewed
        certificate only a minute after its Secret.
        """
        del named, url
        if not self._releases:
            return Expected("its pod", None)
        *_, release = self._releases.values()
        values = chart_values(release, self._name, self._place.settings)
        return expected_in(self._cluster, self._place.namespace, values["tls"])

    def logs(self, lines: int = 100, *, follow: bool = False) -> Iterator[str]:
        """The last lines of each pod's log, then, if `follow`, each new one, also of pods that come later.

        Raises:
            DeployFailed: E615 there is no pod.
        """
        with self._explained():
            container = container_name(kserve=self._runs != self._name)
            place = self._place
            yield from log_lines(self._cluster, place.namespace, self._name, lines, follow=follow, container=container)

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
                    self._remove_candidate()
                    self._releasing.settle()
                yield
            finally:
                self._lease = None

    def check(self, offers: Offers = PLAIN) -> None:
        """Whether the cluster can take the deployment and this user may make it; changes nothing.

        Raises:
            DeployFailed: E650 to E655, E662 the name is another release's, E663 the Secret of the certificate or of the tokens is missing, E481, E665,
                E668 it serves in another form.
        """
        check_name(self._name)
        place = self._place
        check_cluster(self._cluster, place.namespace, place.settings, create=place.create_namespace)
        self._check_ours(self._name, candidate_of(self._name))
        with self._explained():
            check_form(self._cluster, place.namespace, self._name, place.settings)
        if (tls := offers.tls) is not None:
            require_certificate(self._cluster, place.namespace, {**asdict(tls), **place.settings.get("tls", {})})
        if (auth := offers.auth) is not None:
            values = {"tokenFile": auth.token_file, "secret": auth.secret, **place.settings.get("auth", {})}
            require_tokens(self._cluster, place.namespace, values)

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
        return self._address(tls=False)  # `start` knows it better

    def start(self, release: Release, progress: Callable[[str], None] = lambda _: None) -> Started:
        """Install the revision as a release of its own beside the live one, with one pod that takes no traffic.

        Raises:
            DeployFailed: E654, E656, E657, E663, E665: the cluster does not take it, and nothing was changed; E656 to E660, E663: it
                did not come up; E661 Helm refused it.
        """
        self._releases[release.revision], self._progress = release, progress
        candidate = candidate_of(self._name)
        with self._explained():
            self._releasing.check_fits(release, self._candidates(release))
        try:
            with self._explained():
                self._candidate = self._alone(shared=release.share > 0)
                self._upgrade(candidate, release, self._candidate)
                pod = self._forwards.ready_pod(candidate, release.revision)
                server = self._forwards.server(candidate)
                relay = self._forwards.to(lambda: pod, server)
            relay.check()
        except BaseException as error:
            self._drop_failed(error)
            raise
        crash_point("kubernetes.installed")
        return Started(release.revision, relay.url, endpoint=self._address(tls=takes_tls(server)))

    def split(self, revision: int, share: float) -> Split | None:
        """Let the Service send requests to as many pods of the candidate as come nearest to that share of all its pods.

        Where the release has an HTTPRoute, its weights are that share.

        Raises:
            DeployFailed: they do not come up, E656 to E661, or the Service does not get them, E660.
        """
        candidate, place = candidate_of(self._name), self._place
        with self._explained():
            wanted = share_of(self._cluster, place.namespace, self._name, place.settings, share)
            if wanted is None:
                return None
            self._forwards.close()
            values = merged(self._candidate, wanted.values)
            self._upgrade(candidate, self._releases[revision], values, beside(self._name))
            shared = SharedService(self._cluster, place.namespace, self._name, revision, wanted, self._require_lease)
            given, how = shared.give()
            crash_point("kubernetes.split")
            new = self._forwards.to(in_turn(shared.new), self._forwards.server(candidate))
            old = self._forwards.to(in_turn(shared.old), self._forwards.server(self._name))
        return Split(given, how, new.url, old.url, self._checking(shared), lambda: new.lost + old.lost, shared.now)

    def switch(self, revision: int) -> tuple[str, ...]:
        """Remove the candidate, upgrade the release to it, and ask it through the Service.

        Returns:
            For a revision that another process has upgraded to: why it does not serve as it should, if so.

        Raises:
            DeployFailed: the upgrade failed and was rolled back: E656 to E661, E608 and E609.
        """
        release = self._releases.get(revision)
        if release is None:
            return self._complete(revision)
        with self._explained():
            before = self._helm.history(self._name)
            good = next((each.number for each in reversed(before) if each.status == "deployed"), None)
            served = revision_of(self._seen().deployment or {})
            self._remove_candidate()
            crash_point("kubernetes.proven")
            try:
                self._upgrade(self._name, release, {})
                crash_point("kubernetes.upgraded")
                self._forwards.ask_through_service(revision)
                self._prove_through_service(release)
            except BaseException as error:
                self._releasing.roll_back(good, served, error)
                raise
        return ()

    def _complete(self, revision: int) -> tuple[str, ...]:
        """Wait for the rollout of a revision that a run upgraded to before it died, and ask it through the Service.

        It was proven, and its upgrade is done: `lock` settles all others. So what is wrong now is told and not raised, or a revision
        that fails after that could be neither replaced nor rolled back.
        """
        try:
            with self._explained():
                self._releasing.wait(revision)
                self._forwards.ask_through_service(revision)
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
            ending = len(self._list("v1", "pods", instance(self._name)))
        return (f"while its last pods ({ending}) answer what is under way and end",) if ending else ()

    def _require_lease(self) -> None:
        """Whether the Lease is still held, if it was taken."""
        if self._lease is not None:
            self._lease.require()

    def _identity(self) -> str:
        """Of the namespace; empty where it is not readable, or not there yet."""
        self._known_as = self._known_as or namespace_identity(self._cluster, self._place.namespace)
        return self._known_as

    def _service(self, usual: int = 80) -> str:
        """The Service's name in the cluster, and its port if that is not the usual one; KServe's has port 80."""
        port = 80 if self._runs != self._name else self._place.port
        return f"{self._runs}.{self._place.namespace}.svc" + ("" if port == usual else f":{port}")

    def _address(self, *, tls: bool) -> str:
        """Where the Service answers in the cluster."""
        return f"https://{self._service(443)}" if tls else f"http://{self._service()}"

    def _seen(self) -> Serving:
        with self._explained():
            return Serving.seen(self._cluster, self._place.namespace, self._name, self._runs)

    def _checking(self, shared: SharedService) -> Callable[[], None]:
        def check() -> None:
            with self._explained():
                shared.check()

        return check

    def _list(self, version: str, kind: str, selector: str) -> list[Json]:
        found: list[Json] = self._cluster.get(namespaced(version, self._place.namespace, kind), labelSelector=selector)[
            "items"
        ]
        return found

    def _alone(self, *, shared: bool) -> Mapping[str, Any]:
        """What the candidate differs in."""
        account = named_account(self._place.settings)
        path = namespaced("v1", self._place.namespace, "serviceaccounts", account)
        exists = bool(account) and self._cluster.find(path) is not None
        return alone(account_exists=exists, shares_with=self._name if shared else "")

    def _candidates(self, release: Release) -> int:
        """The most pods that the candidate will have: one, or as many as its largest share of the traffic takes."""
        place = self._place
        wanted = (
            share_of(self._cluster, place.namespace, self._name, place.settings, release.share)
            if release.share > 0
            else None
        )
        return 1 if wanted is None else wanted.pods

    def _prove_through_service(self, release: Release) -> None:
        """A few golden requests to the pods that the Service has."""
        if release.prove is not None:
            self._progress("golden requests through the Service")
            release.prove(self._forwards.through_service().url)

    @property
    def _forwards(self) -> PortForwards:
        return PortForwards(self._cluster, self._place.namespace, self._name, self._runs, self._relays)

    @property
    def _releasing(self) -> Releasing:
        return Releasing(self._cluster, self._helm, self._name, self._place, self._progress)

    def _upgrade(self, name: str, release: Release, more: Mapping[str, Any], selector: str = "") -> None:
        self._releasing.upgrade(name, release, more, selector)

    def _drop_failed(self, error: BaseException) -> None:
        """Remove the candidate that did not come up; what goes wrong there is added to its error and does not replace it."""
        try:
            with self._explained():
                self._remove_candidate()
        except MloError as second:
            error.add_note(f"its pod could not be removed: {second}")

    def _route(self) -> Json | None:
        return route_of(self._cluster, self._place.namespace, self._name, self._place.settings)

    def _remove_candidate(self) -> None:
        """Remove the release in which a revision is proven; one of that name that is not mlo's stays."""
        self._forwards.close()
        candidate = candidate_of(self._name)
        if (route := self._route()) is not None:
            give_back_route(self._cluster, self._place.namespace, route)
        if is_ours(self._helm.history(candidate)):
            self._helm.uninstall(candidate)

    def _check_ours(self, *names: str) -> None:
        """Whether the releases of these names, where there are any, are of mlo's chart."""
        for name in names:
            with self._explained():
                history = self._helm.history(name)
            if history and not is_ours(history):
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


def _host_and_port(endpoint: str) -> tuple[str, int]:
    """Of an address with or without its scheme."""
    where = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
    return where.hostname or "", where.port or (443 if where.scheme == "https" else 80)
