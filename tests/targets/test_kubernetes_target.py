"""What the Kubernetes target does after a client died, and with what is not its own, on a cluster that is recorded."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest
import yaml

from orchestrator.errors import Busy, DeployFailed
from orchestrator.events import ignore
from orchestrator.release import go_live
from orchestrator.store.home import Home
from orchestrator.store.state import Deployment, Image, Intent
from orchestrator.store.store import Store
from orchestrator.targets.kubernetes import asking, preflight
from orchestrator.targets.kubernetes.connection import Refused
from orchestrator.targets.kubernetes.helm import HelmFailed, HelmRevision
from orchestrator.targets.kubernetes.identity import require_same_place
from orchestrator.targets.kubernetes.placement import KubernetesPlacement
from orchestrator.targets.kubernetes.rollout import Rollout
from orchestrator.targets.kubernetes.target import KubernetesTarget
from orchestrator.targets.kubernetes.timing import rollout_seconds, update_seconds
from orchestrator.targets.target import Release, Site

NAMESPACE = "/api/v1/namespaces/models"
DEPLOYMENTS = "/apis/apps/v1/namespaces/models/deployments"


class RecordedCluster:
    """A cluster with fixed answers by path; a missing one is a 404, and an exception is raised."""

    name = "the context `a`"
    context = "a"

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.made: list[str] = []
        self.bodies: dict[str, Any] = {}

    def get(self, path: str, **_: Any) -> Any:
        answer = self.answers.get(path)
        if answer is None:
            raise Refused(404, "NotFound", f"{path} not found")
        if isinstance(answer, Exception):
            raise answer
        return answer

    def find(self, path: str) -> Any:
        try:
            return self.get(path)
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    def raw(self, method: str, path: str, **_: Any) -> bytes:
        raise Refused(404, "NotFound", f"{method} {path} not found")

    def call(self, method: str, path: str, body: Any = None, **_: Any) -> Any:
        self.made.append(f"{method} {path}")
        self.bodies[f"{method} {path}"] = body
        answer = self.answers.get(f"{method} {path}", {})
        if isinstance(answer, Exception):
            raise answer
        return answer or body


class RecordedHelm:
    """Helm that notes what it is asked to do."""

    def __init__(self, **histories: tuple[HelmRevision, ...]) -> None:
        self.histories = {name.replace("_", "-"): history for name, history in histories.items()}
        self.done: list[str] = []
        self.seconds: list[float] = []

    def history(self, release: str) -> tuple[HelmRevision, ...]:
        return self.histories.get(release, ())

    def upgrade(self, release: str, *_: Any, seconds: float, **__: Any) -> None:
        self.done.append(f"upgrade {release}")
        self.seconds.append(seconds)

    def rollback(self, release: str, number: int, seconds: float, *, wait: bool = True) -> None:
        self.done.append(f"rollback {release} {number}" + ("" if wait else " as it is"))
        self.seconds.append(seconds)

    def uninstall(self, release: str) -> None:
        self.done.append(f"uninstall {release}")


def recorded(number: int, status: str, chart: str = "mlo-model-1.0.0") -> HelmRevision:
    return HelmRevision(number, status, chart, "")


def deployment(revision: int, replicas: int = 1, ready: int = 1) -> dict[str, Any]:
    probe = {"httpGet": {"path": "/v2/health/ready", "port": "http"}}
    server = {
        "name": "server",
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": probe,
        "startupProbe": probe | {"failureThreshold": 12, "periodSeconds": 5},
    }
    return {
        "kind": "Deployment",
        "apiVersion": "apps/v1",
        "metadata": {"name": "digits", "generation": 1, "annotations": {"mlo/revision": str(revision)}},
        "spec": {"replicas": replicas, "minReadySeconds": 5, "template": {"spec": {"containers": [server]}}},
        "status": {
            "observedGeneration": 1,
            "updatedReplicas": ready,
            "replicas": replicas,
            "availableReplicas": ready,
        },
    }


def serves(revision: int, *, pods: dict[str, int] | None = None, record: int | None = None) -> dict[str, Any]:
    """A cluster's answers where this revision serves.

    Args:
        revision: of the Deployment.
        pods: the revision of each pod behind the Service.
        record: the revision in Helm's newest record; that of the Deployment by default.
    """
    pods = {"a": revision} if pods is None else pods
    manifest = yaml.safe_dump({key: deployment(record or revision)[key] for key in ("kind", "apiVersion", "metadata")})
    packed = base64.b64encode(base64.b64encode(gzip.compress(json.dumps({"manifest": manifest}).encode()))).decode()
    secret = {"metadata": {"labels": {"version": "2", "status": "deployed"}}, "data": {"release": packed}}
    names = [{"targetRef": {"name": name}} for name in pods]
    return {
        NAMESPACE: {"status": {"phase": "Active"}},
        f"{NAMESPACE}/serviceaccounts/default": {"metadata": {"uid": "one"}},
        f"{DEPLOYMENTS}/digits": deployment(revision),
        f"{NAMESPACE}/endpoints/digits": {"subsets": [{"addresses": names}]},
        f"{NAMESPACE}/secrets": {"items": [secret]},
        f"{NAMESPACE}/events": {"items": []},
        f"{NAMESPACE}/pods": {
            "items": [
                {
                    "metadata": {"name": name, "uid": name, "annotations": {"mlo/revision": str(number)}},
                    "status": {"conditions": [{"type": "Ready", "status": "True"}]},
                }
                for name, number in pods.items()
            ]
        },
        "/apis/coordination.k8s.io/v1/namespaces/models/leases/mlo-digits": None,
    }


@pytest.fixture(autouse=True)
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "config"
    write_kubeconfig(file, "https://127.0.0.1:1")
    monkeypatch.setenv("KUBECONFIG", str(file))
    monkeypatch.setattr(preflight, "found_helm", lambda: "helm")
    monkeypatch.setattr(asking, "_refuses", lambda *_: "")
    return file


def write_kubeconfig(file: Path, server: str) -> None:
    document = {
        "clusters": [{"name": "one", "cluster": {"server": server}}],
        "contexts": [{"name": "a", "context": {"cluster": "one", "user": "x"}}],
        "users": [{"name": "x", "user": {"token": "none"}}],
        "current-context": "a",
    }
    file.write_text(yaml.safe_dump(document), encoding="utf-8")


def place(**changes: Any) -> KubernetesPlacement:
    fields: dict[str, Any] = {
        "context": "a",
        "server": "https://127.0.0.1:1",
        "namespace": "models",
        "port": 80,
        "create_namespace": False,
        "wait": 30,
    }
    return KubernetesPlacement(**fields | changes)


def target(answers: dict[str, Any], helm: RecordedHelm | None = None, **changes: Any) -> KubernetesTarget:
    made = KubernetesTarget("digits", place(**changes))
    made._cluster, made._helm = cast("Any", RecordedCluster(answers)), cast("Any", helm or RecordedHelm())
    return made


def refused_by(act: Callable[[], object]) -> Any:
    with pytest.raises(DeployFailed) as failed:
        act()
    (diagnostic,) = failed.value.diagnostics
    assert diagnostic.remedy
    return diagnostic


def release(folder: Path, revision: int = 2, replicas: int = 1) -> Release:
    (folder / "values.yaml").write_text(yaml.safe_dump({"replicas": {"min": replicas, "max": replicas}}))
    image = Image(name="registry.example.com/digits:1", id="sha256:1", digest=None, platform="linux/amd64")
    return Release(revision, folder / "serving", "onnxruntime", "digits", 1, 60, image)


def known(placement: Any, **changes: Any) -> Deployment:
    fields: dict[str, Any] = dict.fromkeys(
        ("backend", "variant", "endpoint", "spec_file", "spec_digest", "decision_digest", "model_digest", "rendered_digest"),
        "x",
    )  # fmt: skip
    return Deployment(name="digits", placement=placement, revision=1, highest=1, **fields | changes)


def test_a_revision_that_serves_is_recorded_after_the_client_that_upgraded_to_it_died() -> None:
    helm = RecordedHelm(digits=(recorded(1, "superseded"), recorded(2, "deployed")))
    new = target(serves(2), helm)
    before = known(new.placement)
    wanted = before.model_copy(update={"revision": 2})
    assert go_live._after(before, Intent.now("deploy", 2, new.placement, wanted), new, ignore) == wanted
    assert helm.done == []


def test_one_that_does_not_serve_any_more_is_recorded_too_so_that_it_can_be_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orchestrator.targets.kubernetes.port_forwards._ENDPOINTS", 0.0)
    for module in ("port_forwards", "releasing"):
        monkeypatch.setattr(f"orchestrator.targets.kubernetes.{module}._LOOK", 0.01)
    new = target(serves(2, pods={}))
    (note,) = new.switch(2)
    assert "the Service digits has no endpoints" in note
    monkeypatch.setattr("orchestrator.targets.kubernetes.releasing._MARGIN", -30.0)
    answers = serves(2)
    answers[f"{DEPLOYMENTS}/digits"] = deployment(2, replicas=1, ready=0)
    answers[f"{DEPLOYMENTS}/digits"]["spec"]["template"]["spec"]["containers"][0].pop("startupProbe")
    answers[f"{DEPLOYMENTS}/digits"]["spec"]["minReadySeconds"] = 0
    (note,) = target(answers).switch(2)
    assert "was not ready within 0 s" in note


def test_an_update_by_another_command_is_in_progress_while_it_holds_the_lease() -> None:
    answers = serves(2, record=2)
    (record,) = answers[f"{NAMESPACE}/secrets"]["items"]
    record["metadata"]["labels"]["status"] = "pending-upgrade"
    lease = "/apis/coordination.k8s.io/v1/namespaces/models/leases/mlo-digits"
    assert target(answers).observe().progress == ""
    assert "its client died" in target(answers).observe().reason
    held = {
        "holderIdentity": "build-7:12:abc:1",
        "renewTime": "2030-01-02T03:04:05.678901Z",
        "leaseDurationSeconds": 30,
    }
    answers[lease] = {"metadata": {}, "spec": held}
    found = target(answers).observe()
    assert found.progress.startswith(
        "an update is in progress (Helm: pending-upgrade): process 12 on build-7 holds the Lease"
    )
    assert "renewed it at 2030-01-02T03:04:05Z" in found.progress
    answers[lease] = Refused(403, "Forbidden", "no")
    assert target(answers).observe().progress == ""


def test_a_deployment_of_somebody_else_or_without_its_probes_is_seen_as_what_it_is() -> None:
    answers = serves(1)
    live = answers[f"{DEPLOYMENTS}/digits"]
    (server,) = live["spec"]["template"]["spec"]["containers"]
    server["startupProbe"]["httpGet"]["scheme"] = "HTTPS"
    del server["readinessProbe"]  # by `kubectl edit`
    assert target(answers).observe().endpoint == "https://digits.models.svc:80"
    live["metadata"]["annotations"] = {}
    live["spec"]["template"]["spec"]["containers"] = [{"name": "nginx"}]
    found = target(answers).observe()
    assert (found.health, found.reason) == ("degraded", "the Deployment digits is not one that mlo made")


@pytest.mark.parametrize("status", ["failed", "pending-upgrade"])
def test_an_upgrade_that_ended_halfway_is_rolled_back_unless_its_own_pods_serve(status: str) -> None:
    history = (recorded(1, "deployed"), recorded(2, status))
    for answers, done in (
        (serves(2), "rollback digits 2 as it is"),
        (serves(1, record=2), "rollback digits 1"),
    ):
        helm = RecordedHelm(digits=history)
        with target(answers, helm).lock():
            pass
        assert helm.done == [done]


def test_a_first_release_that_failed_is_removed() -> None:
    helm = RecordedHelm(digits=(recorded(1, "failed"),))
    answers = serves(1)
    answers[f"{DEPLOYMENTS}/digits"]["status"]["availableReplicas"] = 0
    with target(answers, helm).lock():
        pass
    assert helm.done == ["uninstall digits"]


def test_releases_of_others_are_not_touched_whatever_they_are_called() -> None:
    helm = RecordedHelm(
        digits=(recorded(1, "deployed", "redis-1.2"), recorded(2, "pending-upgrade", "redis-1.2")),
        digits_candidate=(recorded(1, "deployed", "nginx-3.0"),),
    )
    settled = target(serves(1), helm)
    with settled.lock():
        settled.drop(1)
    assert helm.done == []
    helm.histories["digits"] = ()
    problem = refused_by(lambda: settled._check_ours("digits", "digits-candidate"))
    assert (problem.code, "`digits-candidate`" in problem.message, problem.cause) == (
        "E662",
        True,
        "it was made of the chart nginx-3.0",
    )


def test_a_candidate_of_another_chart_is_refused_before_anything_is_computed() -> None:
    helm = RecordedHelm(digits_candidate=(recorded(1, "deployed", "nginx-3.0"),))
    answers = serves(1) | {
        "/apis": {"groups": [{"name": name} for name in ("apps", "networking.k8s.io", "coordination.k8s.io")]},
        "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews": {"status": {"allowed": True}},
    }
    problem = refused_by(target(answers, helm).check)
    assert problem.code == "E662"
    assert "choose another `metadata: name:`" in problem.remedy
    target(answers, RecordedHelm(other_candidate=helm.histories["digits-candidate"])).check()


def test_what_helm_cannot_read_is_asked_for_again_once_it_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    helm = RecordedHelm(digits=(recorded(1, "deployed"),))

    def forbidden(_: str) -> NoReturn:
        raise HelmFailed("query: failed to query with labels: secrets is forbidden")

    with monkeypatch.context() as broken:
        broken.setattr(helm, "history", forbidden)
        problem = refused_by(lambda: target(serves(1), helm).stop())
    assert (problem.code, "secrets is forbidden" in problem.cause) == ("E661", True)
    assert problem.remedy.startswith("`helm history digits -n models` shows what there is")
    target(serves(1), helm).stop()
    assert "uninstall digits" in helm.done


@pytest.mark.parametrize(
    ("reason", "code", "told"),
    [("Error", "E658", "docker run"), ("OOMKilled", "E659", "raise `hardware: memory:` in the spec")],
)
def test_pods_that_crash_end_a_rollout_and_those_that_run_do_not(reason: str, code: str, told: str) -> None:
    answers = serves(2, pods={"a": 2})
    (pod,) = answers[f"{NAMESPACE}/pods"]["items"]
    ended = {"terminated": {"exitCode": 3, "reason": reason}}
    again = {"name": "server", "image": "digits:1", "ready": False, "restartCount": 1, "lastState": ended}
    crashed = {**again, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    pod["status"] = {"conditions": [{"type": "PodScheduled", "status": "True"}], "containerStatuses": [crashed]}

    def rollout() -> Rollout:
        return Rollout(cast("Any", RecordedCluster(answers)), "models", "digits", 2, 30, lambda _: None)

    problem = refused_by(rollout().look)
    assert (problem.code, told in problem.remedy) == (code, True), problem
    pod["status"]["containerStatuses"] = [{**again, "restartCount": 0, "lastState": {}, "state": {"running": {}}}]
    rollout().look()


def test_a_target_that_has_lost_its_lease_lets_helm_change_nothing() -> None:
    losing = KubernetesTarget("digits", place(context=None, server=""))
    losing._cluster = cast("Any", RecordedCluster(serves(1)))
    permit, losing._helm = losing._helm._permit, cast("Any", RecordedHelm())
    with losing.lock():
        permit()
        assert losing._lease is not None
        losing._lease.lose()
        with pytest.raises(Busy):
            permit()
    permit()


def test_a_cluster_that_only_has_another_address_is_the_same_place(tmp_path: Path) -> None:
    old, new = target(serves(1)), target(serves(1), server="https://127.0.0.1:2")
    assert new.is_at(old.placement)
    elsewhere = serves(1) | {f"{NAMESPACE}/serviceaccounts/default": {"metadata": {"uid": "two"}}}
    assert not target(elsewhere, server="https://127.0.0.1:2").is_at(old.placement)
    store = Store.open(Home(tmp_path / "home"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(go_live, "target_at", lambda *_: new)
        moved = known(new.placement, leaving=old.placement)
        store.state.update(lambda state: state.with_deployment(moved))
        assert go_live._left(moved, store, ignore).leaving is None
    assert new._helm.done == []  # type: ignore[attr-defined]


def test_a_context_that_leads_to_another_cluster_is_refused_and_nothing_is_done_there(kubeconfig: Path) -> None:
    helm = RecordedHelm(digits=(recorded(1, "deployed"),))
    old = target(serves(1), helm, identity="another")
    write_kubeconfig(kubeconfig, "https://127.0.0.1:2")
    for act in (old.observe, old.stop, lambda: old.lock().__enter__(), lambda: old.drop(1)):
        problem = refused_by(act)
        assert (problem.code, "leads to another cluster" in problem.message) == ("E651", True)
    assert helm.done == []
    same = target(serves(1), identity="one")
    assert same.observe().revision == 1, "only the address has changed"
    require_same_place(place(context=None, server=""), cast("Any", RecordedCluster({})))


def test_the_address_of_a_placement_is_that_of_its_site(tmp_path: Path) -> None:
    site = Site(Store.open(Home(tmp_path / "home")), "digits")
    old = target(serves(1))
    again = KubernetesTarget.placed(old.placement, site)
    assert again.is_at(old.placement)
    assert KubernetesPlacement.of(again.placement).identity == "one", "it is kept while the cluster cannot be asked"


@pytest.mark.parametrize(
    ("pods", "problem"),
    [
        ({}, "has no endpoints"),
        ({"a": 2, "b": 1}, "sends requests to pod b, which is of revision 1"),
        ({"a": 2, "b": 2}, ""),
    ],
)
def test_every_pod_of_the_service_must_be_of_the_revision(pods: dict[str, int], problem: str) -> None:
    found = asking.unanswered(cast("Any", RecordedCluster(serves(2, pods=pods))), "models", "digits", 2)
    assert problem in found
    assert bool(found) == bool(problem)


def test_every_pod_of_the_service_must_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuses(_: object, __: str, pod: str, ___: object) -> str:
        asked.append(pod)
        return "pod b answers with status 503" if pod == "b" else ""

    monkeypatch.setattr(asking, "_refuses", refuses)
    cluster = cast("Any", RecordedCluster(serves(2, pods={"a": 2, "b": 2})))
    assert asking.unanswered(cluster, "models", "digits", 2) == "pod b answers with status 503"
    assert asked == ["a", "b"]


def test_a_rollout_may_take_as_long_as_its_pods_need_one_after_the_other() -> None:
    live = deployment(1, replicas=14)
    assert rollout_seconds(live, 10) == 14 * (10 + 12 * 5 + 5), "each may wait for a node and its image"
    live["spec"]["strategy"] = {"rollingUpdate": {"maxSurge": "50%", "maxUnavailable": 0}}
    assert rollout_seconds(live, 0) == 2 * (12 * 5 + 5)
    values = {"replicas": {"min": 4, "max": 20}, "rollout": {"maxSurge": 0, "maxUnavailable": 2}}
    assert update_seconds(30, values, None, 10) == 2 * (10 + 30 + 5)
    assert update_seconds(30, values, live, 0) == 7 * (30 + 5), "an autoscaler has made more of them"


def test_helm_gets_that_time_for_an_upgrade_and_for_going_back(tmp_path: Path) -> None:
    (tmp_path / "serving").mkdir()
    helm = RecordedHelm(digits=(recorded(1, "deployed"), recorded(2, "pending-upgrade")))
    answers = serves(1, record=2) | {f"{DEPLOYMENTS}/digits": deployment(1, replicas=14, ready=14)}
    upgrading = target(answers, helm)
    upgrading._upgrade("digits", release(tmp_path, replicas=14), {})
    with upgrading.lock():
        pass
    assert helm.seconds == [14 * (30 + 60 + 5) + 60, 14 * (30 + 60 + 5) + 60]


def test_a_rollout_that_makes_no_progress_is_given_up_before_all_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("orchestrator.targets.kubernetes.rollout.time.monotonic", lambda: now[0])
    answers = serves(2, pods={"a": 2, "b": 2})
    scheduled = {"type": "PodScheduled", "status": "True"}
    pods = answers[f"{NAMESPACE}/pods"]["items"]
    for pod in pods:
        pod["status"] = {"conditions": [scheduled], "containerStatuses": [{"name": "server", "state": {"running": {}}}]}
    rollout = Rollout(cast("Any", RecordedCluster(answers)), "models", "digits", 2, 30, lambda _: None, each=100)
    for now[0] in (50.0, 99.0):
        rollout.look()
    pods[0]["status"]["conditions"].append({"type": "Ready", "status": "True"})
    pods[0]["status"]["containerStatuses"][0]["ready"] = True
    for now[0] in (101.0, 200.0):
        rollout.look()
    now[0] = 202.0
    problem = refused_by(rollout.look)
    assert (problem.code, "pod b runs, but is not ready" in problem.cause) == ("E660", True)
    assert "if it only needs longer, raise `deploy: wait:`" in problem.remedy
    longer = Rollout(cast("Any", RecordedCluster(answers)), "models", "digits", 2, 30, lambda _: None, each=1000)
    for now[0] in (300.0, 600.0):
        longer.look()
