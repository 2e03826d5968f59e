"""What the Kubernetes target decides from what a cluster says, without a cluster."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from importlib.metadata import requires
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from orchestrator.errors import DeployFailed
from orchestrator.store.home import Home
from orchestrator.store.state import Image
from orchestrator.store.store import Store
from orchestrator.targets.kubernetes import preflight
from orchestrator.targets.kubernetes.connection import Cluster, Refused, named_context
from orchestrator.targets.kubernetes.helm import _last_lines, found_helm
from orchestrator.targets.kubernetes.observing import Serving, observed
from orchestrator.targets.kubernetes.section import KubernetesDeploy
from orchestrator.targets.kubernetes.target import KubernetesTarget
from orchestrator.targets.kubernetes.values import ALONE, chart_values
from orchestrator.targets.target import Release, Site


def optional_packages() -> dict[str, list[str]]:
    """Extra of mlo → the packages that it installs."""
    found: dict[str, list[str]] = {}
    for line in requires("mlo") or ():
        if match := re.match(r"([\w.-]+).*extra == [\"'](\w+)[\"']", line):
            found.setdefault(match[2], []).append(match[1])
    return found


GROUPS = {"groups": [{"name": name} for name in ("apps", "networking.k8s.io", "coordination.k8s.io")]}


def role_of_the_manual() -> dict[str, Any]:
    """The Role in docs/kubernetes.md."""
    manual = (Path(__file__).resolve().parents[2] / "docs" / "kubernetes.md").read_text("utf-8")
    return next(
        document
        for block in manual.split("```yaml\n")[1:]
        if (document := yaml.safe_load(block.split("```")[0])).get("kind") == "Role"
    )


def granted(role: dict[str, Any]) -> set[tuple[str, str, str]]:
    """API group, resource and verb of all that a Role grants."""
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


class Recorded:
    """A cluster with fixed answers.

    Args:
        answers: by path; a missing one is a 404.
        denied: resources that this user may not use.
    """

    name = "the context `test`"

    def __init__(self, answers: dict[str, Any], denied: tuple[str, ...] = ()) -> None:
        self.answers = {"/apis": GROUPS, "/version": {"gitVersion": "v1.30.0"}} | answers
        self.denied = denied
        self.made: list[str] = []

    def get(self, path: str, **_: Any) -> Any:
        answer = self.answers.get(path)
        if isinstance(answer, Refused):
            raise answer
        if answer is None:
            raise Refused(404, "NotFound", "not found")
        return answer

    def find(self, path: str) -> Any:
        try:
            return self.get(path)
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    def call(self, method: str, path: str, body: Any = None, **_: Any) -> Any:
        self.made.append(f"{method} {path}")
        asked = (body or {}).get("spec", {}).get("resourceAttributes", {})
        return {"status": {"allowed": asked.get("resource") not in self.denied}}


@pytest.fixture(autouse=True)
def with_helm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "found_helm", lambda: "helm")


def check(cluster: Recorded, *, create: bool = False, **settings: Any) -> None:
    preflight.check_cluster(cast("Cluster", cluster), "models", settings, create=create)


def refused_by(act: Callable[[], object]) -> Any:
    with pytest.raises(DeployFailed) as failed:
        act()
    (diagnostic,) = failed.value.diagnostics
    assert diagnostic.remedy
    return diagnostic


def test_a_cluster_that_takes_the_deployment_is_accepted_and_not_changed() -> None:
    cluster = Recorded({"/api/v1/namespaces/models": {"status": {"phase": "Active"}}})
    check(cluster)
    assert {each.split()[1] for each in cluster.made} == {"/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"}


def test_a_missing_namespace_is_refused_unless_it_may_be_made() -> None:
    problem = refused_by(lambda: check(Recorded({})))
    assert (problem.code, problem.at) == ("E655", ("deploy", "namespace"))
    assert "or set `deploy: create_namespace: true`" in problem.remedy
    check(Recorded({}), create=True)
    cluster = Recorded({})
    preflight.make_namespace(cast("Cluster", cluster), "models")
    assert cluster.made == ["POST /api/v1/namespaces"]


def test_a_namespace_that_is_being_deleted_is_refused() -> None:
    problem = refused_by(lambda: check(Recorded({"/api/v1/namespaces/models": {"status": {"phase": "Terminating"}}})))
    assert (problem.code, "being deleted" in problem.message) == ("E655", True)


def test_every_right_that_is_missing_is_named() -> None:
    cluster = Recorded({"/api/v1/namespaces/models": {}}, denied=("secrets",))
    problem = refused_by(lambda: check(cluster))
    assert problem.code == "E654"
    assert problem.cause == "it may not get secrets, list secrets, create secrets, update secrets, delete secrets"
    assert problem.remedy.startswith("have the Role of docs/kubernetes.md bound to it")
    every = {resource for _, resource, _ in granted(role_of_the_manual())}
    check(Recorded({"/api/v1/namespaces/models": {}}, denied=tuple({"secrets"} - every)))


def test_the_role_in_the_manual_has_every_right_that_is_needed() -> None:
    needed = {(group, resource, verb) for group, resource, verbs in preflight.NEEDED for verb in verbs}
    assert needed <= granted(role_of_the_manual())


@pytest.mark.parametrize(
    ("settings", "groups", "denied"),
    [
        ({"ingress": {"enabled": True}}, (), "ingresses"),
        ({"httpRoute": {"enabled": True}}, ("gateway.networking.k8s.io",), "httproutes"),
        ({}, ("monitoring.coreos.com",), "servicemonitors"),
        ({}, ("monitoring.coreos.com",), "configmaps"),
    ],
)
def test_rights_for_what_only_some_releases_have_are_asked_for_where_they_are_needed(
    settings: dict[str, Any], groups: tuple[str, ...], denied: str
) -> None:
    known: dict[str, Any] = {"/api/v1/namespaces/models": {}}
    check(Recorded(known, denied=(denied,)))
    apis = {"/apis": {"groups": [*GROUPS["groups"], *({"name": name} for name in groups)]}}
    problem = refused_by(lambda: check(Recorded(known | apis, denied=(denied,)), **settings))
    assert (problem.code, f"create {denied}" in problem.cause) == ("E654", True)


def test_a_cluster_without_the_gateway_api_is_refused_where_the_spec_needs_it() -> None:
    cluster = Recorded({"/api/v1/namespaces/models": {}})
    problem = refused_by(lambda: check(cluster, httpRoute={"enabled": True}))
    assert (problem.code, "or leave out `deploy: ingress: gateway:`" in problem.remedy) == ("E665", True)
    check(cluster)
    groups = [*GROUPS["groups"], {"name": "gateway.networking.k8s.io"}]
    assert problem.remedy.startswith("install the Gateway API on it")
    installed = Recorded({"/api/v1/namespaces/models": {}, "/apis": {"groups": groups}})
    check(installed, httpRoute={"enabled": True})


def test_a_user_who_may_not_read_namespaces_may_still_deploy() -> None:
    check(Recorded({"/api/v1/namespaces/models": Refused(403, "Forbidden", "no")}))


def test_an_old_cluster_is_refused_with_its_version() -> None:
    cluster = Recorded({"/api/v1/namespaces/models": {}, "/apis": {"groups": [{"name": "apps"}]}})
    problem = refused_by(lambda: check(cluster))
    assert (problem.code, "v1.30.0" in problem.cause) == ("E665", True)


def test_quotas_that_are_used_up_are_listed() -> None:
    quota = {
        "metadata": {"name": "team"},
        "status": {"hard": {"pods": "4", "limits.cpu": "8"}, "used": {"pods": "4", "limits.cpu": "2"}},
    }
    cluster = Recorded({"/api/v1/namespaces/models/resourcequotas": {"items": [quota]}})
    assert preflight.full_quotas(cast("Cluster", cluster), "models") == ("pods: 4 of 4 (team)",)


def deployment(ready: int = 1, wanted: int = 1, revision: str = "3") -> dict[str, Any]:
    return {
        "metadata": {
            "name": "digits",
            "generation": 2,
            "annotations": {"mlo/revision": revision},
            "labels": {"mlo/backend": "onnxruntime"},
        },
        "spec": {"replicas": wanted},
        "status": {"observedGeneration": 2, "updatedReplicas": ready, "replicas": wanted, "availableReplicas": ready},
    }


@pytest.mark.parametrize(
    ("serving", "health", "reason"),
    [
        (Serving("digits", None), "stopped", "there is no Deployment digits"),
        (Serving("digits", deployment(), (), ("a",)), "healthy", ""),
        (Serving("digits", deployment(revision=""), (), ("a",)), "degraded", "not one that mlo made"),
        (Serving("digits", deployment(wanted=0, ready=0), (), ()), "stopped", "scaled it to 0 pods"),
        (Serving("digits", deployment(), (), None), "degraded", "its Service digits is missing"),
        (Serving("digits", deployment(), (), ()), "degraded", "has no endpoints"),
        (Serving("digits", deployment(), (), ("a",), "pending-upgrade"), "degraded", "pending-upgrade"),
        (Serving("digits", deployment(ready=1, wanted=2), (), ("a",)), "degraded", "1 of 2 pods"),
        (Serving("digits", deployment(), (), ("a",), "", ("x is 1", "y", "z", "w")), "degraded", "x is 1; y; z; and 1 more"),
    ],
)  # fmt: skip
def test_health_follows_from_the_deployment_its_service_and_helm(serving: Serving, health: str, reason: str) -> None:
    found = observed(serving, "http://digits.models.svc")
    assert found.health == health
    assert reason in found.reason
    assert bool(found.reason) == (health != "healthy")


def rolling(reason: str, status: str = "True") -> dict[str, Any]:
    found = deployment(ready=1, wanted=3)
    found["status"]["conditions"] = [{"type": "Progressing", "status": status, "reason": reason}]
    return found


@pytest.mark.parametrize(
    ("serving", "progress"),
    [
        (Serving("digits", rolling("ReplicaSetUpdated"), (), ("a",)), "a rollout is in progress: 1 of 3 pods are updated"),
        (Serving("digits", rolling("NewReplicaSetAvailable"), (), ("a",)), ""),  # a pod has ceased to be ready
        (Serving("digits", rolling("ProgressDeadlineExceeded", "False"), (), ("a",)), ""),
        (Serving("digits", deployment(), (), ("a",), "pending-upgrade", by="process 7 on b"), "an update is in progress (Helm: pending-upgrade): process 7 on b"),
        (Serving("digits", deployment(), (), ("a",), "pending-upgrade"), ""),  # nobody holds the Lease: its client died
        (Serving("digits", deployment(), (), ("a",)), ""),
    ],
)  # fmt: skip
def test_what_is_under_way_is_told_from_what_is_wrong(serving: Serving, progress: str) -> None:
    found = observed(serving, "http://digits.models.svc")
    assert found.progress == progress
    assert not progress or (found.health, found.reason) == ("degraded", progress)


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "config"
    servers = {"one": "https://127.0.0.1:1", "two": "https://127.0.0.2:1"}
    clusters = [{"name": each, "cluster": {"server": server}} for each, server in servers.items()]
    contexts = [
        {"name": each, "context": {"cluster": cluster, "user": "x"}}
        for each, cluster in (("a", "one"), ("b", "two"), ("again", "one"))
    ]
    file.write_text(
        yaml.safe_dump({"clusters": clusters, "contexts": contexts, "current-context": "a"}), encoding="utf-8"
    )
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'none'}{os.pathsep}{file}")
    return file


def target(tmp_path: Path, **keys: Any) -> KubernetesTarget:
    section = KubernetesDeploy.model_validate({"target": "kubernetes", **keys})
    return KubernetesTarget.wanted(section, tmp_path, Site(Store.open(Home(tmp_path / "home")), "digits"))


def test_environments_are_places_of_their_own_and_a_context_by_another_name_is_the_same(
    kubeconfig: Path, tmp_path: Path
) -> None:
    del kubeconfig
    here = target(tmp_path, namespace="models")
    assert named_context(None).context == "a"
    assert here.is_at(target(tmp_path, namespace="models", context="again").placement)
    assert not here.is_at(target(tmp_path, namespace="models", context="b").placement)
    assert not here.is_at(target(tmp_path, namespace="staging").placement)
    former = here.placement.settings.copy()
    del former["settings"]  # as a state has it that was written before there were any
    assert here.is_at(here.placement.model_copy(update={"settings": former}))
    assert here.describe().where == "digits.models.svc"
    moved = target(tmp_path, namespace="models", service={"port": 8080})
    assert (
        moved.difference("http://digits.models.svc") == "moves from http://digits.models.svc to digits.models.svc:8080"
    )


def test_a_context_that_does_not_exist_is_named_with_those_that_do(kubeconfig: Path, tmp_path: Path) -> None:
    del kubeconfig
    problem = refused_by(lambda: target(tmp_path, context="c").observe())
    assert (problem.code, "a, b, again" in problem.cause) == ("E651", True)
    assert problem.remedy.startswith("name one that `kubectl config get-contexts` lists in `deploy: context:`")
    named = refused_by(lambda: target(tmp_path, context=problem.cause.rpartition(", ")[2]).observe())
    assert named.code == "E652", "nothing listens there, but it is known where"


def test_the_package_for_clusters_is_named_with_the_command_that_installs_it(
    kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del kubeconfig
    with monkeypatch.context() as absent:
        absent.setitem(sys.modules, "kubernetes", None)
        problem = refused_by(lambda: target(tmp_path).observe())
    assert (problem.code, problem.remedy) == ("E650", "run: pip install 'mlo[kubernetes]'")
    assert "kubernetes" in optional_packages()["kubernetes"]
    assert refused_by(lambda: target(tmp_path).observe()).code != "E650"


def test_a_cluster_that_is_not_there_is_named_with_its_address(kubeconfig: Path, tmp_path: Path) -> None:
    document = yaml.safe_load(kubeconfig.read_text("utf-8"))
    document["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    document["users"] = [{"name": "x", "user": {"token": "secret"}}]
    kubeconfig.write_text(yaml.safe_dump(document), encoding="utf-8")
    problem = refused_by(lambda: target(tmp_path).observe())
    assert problem.code == "E652"
    assert "https://127.0.0.1:1" in problem.remedy
    assert "Connection refused" in problem.cause


def test_a_candidate_has_one_pod_and_nothing_that_others_would_find(tmp_path: Path) -> None:
    rendered = {
        "replicas": {"min": 3, "max": 9},
        "service": {"type": "NodePort", "nodePort": 30000, "port": 80},
        "model": {"name": "digits"},
    }
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(rendered), encoding="utf-8")
    image = Image(
        name="registry.example.com:5000/team/digits:1", id="sha256:1", digest="sha256:2", platform="linux/amd64"
    )
    release = Release(4, tmp_path / "serving", "onnxruntime", "digits", 1, 10, image)
    values = chart_values(release, "digits-candidate", {}, ALONE)
    assert values["replicas"] == {"min": 1, "max": 1}
    assert values["service"] == {"type": "ClusterIP", "port": 80}
    assert values["model"] == {"name": "digits", "revision": 4, "settings": ""}
    assert values["image"] == {"repository": "registry.example.com:5000/team/digits", "tag": "1", "digest": "sha256:2"}
    assert chart_values(release, "digits", {})["replicas"] == {"min": 3, "max": 9}


@pytest.mark.parametrize(
    ("account", "exists", "created"),
    [({"name": "shared"}, False, None), ({"name": "shared"}, True, False), ({}, True, None)],
)
def test_a_candidate_does_not_bring_the_account_that_the_release_has_brought(
    kubeconfig: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    account: dict[str, str],
    exists: bool,
    created: bool | None,
) -> None:
    del kubeconfig
    path = "/api/v1/namespaces/default/serviceaccounts/shared"
    here = target(tmp_path, pod={"service_account": account})
    monkeypatch.setattr(here, "_cluster", Recorded({path: {"metadata": {}}} if exists else {}))
    assert here._alone(shared=False).get("serviceAccount", {}).get("create") is created


def test_helm_is_found_beside_this_python_where_make_tools_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "helm").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr("sys.executable", str(tmp_path / "empty" / "python"))
    told = refused_by(found_helm)
    assert (told.code, "run `make tools` in mlo's repository" in told.remedy) == ("E653", True)
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin" / "python"))
    assert found_helm() == str(tmp_path / "bin" / "helm")


@pytest.mark.parametrize("month", ["01", "11"])
def test_lines_of_kubernetes_own_libraries_are_no_part_of_helms_error(month: str) -> None:
    text = (
        f"I{month}29 22:45:08.1 1 wait.go:1] waiting\nW{month}29 22:45:08.1 1 warnings.go:70] old\nError: it failed\n"
    )
    assert _last_lines(text) == "it failed"
    assert _last_lines("Error: Install the CRD first\n") == "Install the CRD first"
