"""What a canary does on a cluster that is recorded: how many pods get which share, what is watched, what is left of one that died."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
import yaml

from orchestrator.errors import DeployFailed
from orchestrator.store.state import Image
from orchestrator.targets.kubernetes.canary import Share, SharedService, candidate_pods, share_of, standing_beside
from orchestrator.targets.kubernetes.kserve import http_port, server_container
from orchestrator.targets.kubernetes.route import give_back_route, routed_share, share_route
from orchestrator.targets.kubernetes.target import KubernetesTarget
from orchestrator.targets.target import Beside, Release
from tests.targets.test_kubernetes_fitting import KINDS
from tests.targets.test_kubernetes_target import (  # the recorded cluster and its answers
    DEPLOYMENTS,
    NAMESPACE,
    RecordedCluster,
    RecordedHelm,
    deployment,
    kubeconfig,
    recorded,
    refused_by,
    serves,
    target,
)

__all__ = ["kubeconfig"]


@pytest.mark.parametrize(
    ("share", "serving", "pods"),
    [
        (0.1, 9, 1),
        (0.5, 9, 9),
        (0.1, 1, 1),  # 50 %: there is no nearer one
        (0.5, 1, 1),
        (0.9, 1, 9),
        (0.25, 2, 1),  # 33 % is nearer than nothing
        (0.25, 5, 2),  # 28.6 %, where one would be 16.7 %
        (0.1, 20, 2),
        (0.01, 100, 1),
    ],
)
def test_as_many_pods_as_come_nearest_to_the_share(share: float, serving: int, pods: int) -> None:
    assert candidate_pods(share, serving) == pods
    real = [count / (count + serving) for count in (pods - 1, pods, pods + 1) if count]
    assert min(real, key=lambda each: abs(each - share)) == pods / (pods + serving)


def pod(name: str, revision: int, instance: str, restarts: int = 0, **last: Any) -> dict[str, Any]:
    container = {"name": "server", "restartCount": restarts, "lastState": {"terminated": last}}
    return {
        "metadata": {
            "name": name,
            "annotations": {"mlo/revision": str(revision)},
            "labels": {"app.kubernetes.io/instance": instance},
        },
        "status": {"containerStatuses": [container]},
    }


def candidate(pods: int, instance: str = "digits") -> dict[str, Any]:
    found = deployment(2, replicas=pods, ready=pods)
    found["spec"]["template"]["metadata"] = {
        "annotations": {"mlo/revision": "2"},
        "labels": {"app.kubernetes.io/instance": instance},
    }
    server = found["spec"]["template"]["spec"]["containers"][0]
    found["spec"]["template"]["spec"]["containers"] = [server]
    return found


def shared(*, pods: int = 1, stable: int = 3, **found: Any) -> dict[str, Any]:
    """A cluster's answers with a candidate that takes a share."""
    names = {**{f"old-{number}": 1 for number in range(stable)}, **{f"new-{number}": 2 for number in range(pods)}}
    answers = serves(1, pods=names)
    answers[f"{DEPLOYMENTS}/digits"] = deployment(1, replicas=stable, ready=stable)
    answers[f"{DEPLOYMENTS}/digits-candidate"] = candidate(pods)
    answers[f"{NAMESPACE}/pods"] = {"items": [pod(f"new-{number}", 2, "digits", **found) for number in range(pods)]}
    return answers


class Helm(RecordedHelm):
    """Notes the values of upgrades too."""

    def __init__(self) -> None:
        super().__init__(digits=(recorded(1, "deployed"),), digits_candidate=(recorded(1, "deployed"),))
        self.values: list[dict[str, Any]] = []

    def upgrade(self, release: str, *positional: Any, **named: Any) -> None:
        self.values.append(positional[1])
        super().upgrade(release, *positional, **named)


@pytest.fixture
def release(tmp_path: Path) -> Release:
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({"replicas": {"min": 3, "max": 6}}))
    image = Image(name="registry.example.com/digits:1", id="sha256:1", digest=None, platform="linux/amd64")
    return Release(2, tmp_path / "serving", "onnxruntime", "digits", 1, 60, image, share=0.5)


def splitting(answers: dict[str, Any], release: Release) -> tuple[KubernetesTarget, Helm]:
    helm = Helm()
    made = target(answers, helm)
    made._releases[2], made._candidate = release, made._alone(shared=True)
    return made, helm


def test_a_share_is_pods_that_the_service_selects_and_nothing_else_of_the_release_changes(release: Release) -> None:
    made, helm = splitting(shared(), release)
    split = made.split(2, 0.25)
    assert split is not None
    assert (split.share, split.how) == (0.25, "1 of 4 pods")
    assert split.new != split.old
    split.check()
    assert helm.done == ["upgrade digits-candidate"]
    (values,) = helm.values
    assert values["candidate"] == {"of": "digits", "traffic": True}
    assert values["replicas"] == {"min": 1, "max": 1}
    assert values["podDisruptionBudget"] == {"enabled": False}


def test_a_revision_that_is_taken_over_at_once_knows_nothing_of_shares(release: Release) -> None:
    made, _ = splitting(shared(), release)
    assert "candidate" not in made._alone(shared=False)


def test_where_nothing_serves_there_is_nothing_to_share(release: Release) -> None:
    made, helm = splitting(shared(stable=0), release)
    assert made.split(2, 0.25) is None
    assert helm.done == []


def test_a_candidate_that_the_service_does_not_get_is_refused(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.targets.kubernetes.canary._ENDPOINTS", 0.0)
    answers = shared()
    answers[f"{NAMESPACE}/endpoints/digits"]["subsets"][0]["addresses"].pop()
    made, _ = splitting(answers, release)
    problem = refused_by(lambda: made.split(2, 0.25))
    assert (problem.code, problem.cause) == ("E660", "the Service digits has 0 of the 1 pods of the new revision")


@pytest.mark.parametrize(
    ("found", "ready", "code", "cause"),
    [
        ({"restarts": 1, "exitCode": 3}, 2, "E658", "container server ended with exit code 3"),
        ({"restarts": 1, "reason": "OOMKilled"}, 2, "E659", "container server ran out of memory"),
        ({}, 1, "E660", "1 of its 2 pods are ready"),
    ],
)
def test_pods_that_fail_during_a_step_are_noticed(found: dict[str, Any], ready: int, code: str, cause: str) -> None:
    answers = shared(pods=2, **found)
    del answers[f"{NAMESPACE}/endpoints/digits"]["subsets"][0]["addresses"][3 + ready :]
    cluster: Any = RecordedCluster(answers)
    cluster.raw = lambda *_, **__: b""
    watched = SharedService(cluster, "models", "digits", 2, Share(0.4, 3, None), lambda: None)
    problem = refused_by(watched.check)
    assert problem.code == code
    assert cause in problem.cause


def test_a_container_that_restarted_before_its_pod_got_a_share_is_no_failure(release: Release) -> None:
    answers = shared(restarts=1, exitCode=1)
    made, _ = splitting(answers, release)
    split = made.split(2, 0.25)
    assert split is not None
    split.check()
    answers[f"{NAMESPACE}/pods"]["items"][0]["status"]["containerStatuses"][0]["restartCount"] = 2
    assert refused_by(split.check).code == "E658"


def test_a_share_is_seen_by_others_until_it_is_settled(release: Release) -> None:
    made, helm = splitting(shared(pods=2, stable=2), release)
    assert made.observe().beside == Beside(2, 0.5, "2 of 4 pods")
    assert made.observe().revision == 1
    with made.lock():  # by the next command
        pass
    assert helm.done == ["uninstall digits-candidate"]


def test_a_candidate_that_is_only_proven_takes_no_share() -> None:
    answers = shared()
    answers[f"{DEPLOYMENTS}/digits-candidate"] = candidate(1, instance="digits-candidate")
    cluster: Any = RecordedCluster(answers)
    assert standing_beside(cluster, "models", "digits", {}) is None
    answers[f"{DEPLOYMENTS}/digits-candidate"] = None
    assert standing_beside(cluster, "models", "digits", {}) is None


ROUTE = "/apis/gateway.networking.k8s.io/v1/namespaces/models/httproutes/digits"
WITH_ROUTE = {"httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]}}


def route(**more: Any) -> dict[str, Any]:
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
        "backendRefs": [{"name": "digits", "port": 80}],
    }
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "digits"},
        "spec": {"parentRefs": [{"name": "public"}], "rules": [rule]},
        **more,
    }


class Routed(RecordedCluster):
    """A cluster that merges what is patched, as the API server does."""

    def call(self, method: str, path: str, body: Any = None, **named: Any) -> Any:
        if method == "PATCH":
            self.answers[path]["spec"] |= body["spec"]
        return super().call(method, path, body, **named)


def test_a_route_gets_the_weights_and_the_service_keeps_its_pods(release: Release) -> None:
    answers = shared(pods=2, stable=4)
    answers[f"{NAMESPACE}/endpoints/digits-candidate"] = {
        "subsets": [{"addresses": [{"targetRef": {"name": f"new-{number}"}} for number in range(2)]}]
    }
    answers[f"{NAMESPACE}/pods"] = {"items": [pod(f"new-{number}", 2, "digits-candidate") for number in range(2)]}
    answers[f"{DEPLOYMENTS}/digits-candidate"] = candidate(2, instance="digits-candidate")
    answers[ROUTE] = route()
    helm = Helm()
    made = target(answers, helm, settings=WITH_ROUTE)
    made._cluster = cast("Any", Routed(answers))
    made._releases[2], made._candidate = release, made._alone(shared=True)
    split = made.split(2, 0.025)
    assert split is not None
    split.check()
    assert (split.share, split.how) == (0.025, "weight 2.5% of the HTTPRoute")
    assert helm.values[0]["candidate"]["traffic"] is False
    fits_the_schema(answers[ROUTE])
    assert answers[ROUTE]["spec"]["rules"][0]["backendRefs"] == [
        {"name": "digits", "port": 80, "weight": 975},
        {"name": "digits-candidate", "port": 80, "weight": 25},
    ]
    assert made.observe().beside == Beside(2, 0.025, "weight 2.5% of the HTTPRoute")
    made.split(2, 0.5)
    assert [each["weight"] for each in answers[ROUTE]["spec"]["rules"][0]["backendRefs"]] == [500, 500]
    assert helm.values[1]["replicas"] == {"min": 2, "max": 2}
    with made.lock():  # by the next command
        pass
    assert answers[ROUTE] == route()
    assert helm.done[-1] == "uninstall digits-candidate"


SCHEMA = json.loads(Path(__file__).with_name("httproute.schema.json").read_text("utf-8"))
"""The Gateway API's own, of version 1, without its descriptions."""


def fits_the_schema(document: dict[str, Any]) -> None:
    jsonschema.validate(document, SCHEMA)


def ref(name: str, weight: int | None = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "port": 80, **({} if weight is None else {"weight": weight}), **more}


OTHER = {"filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https"}}]}
LARGE = 1_000_000


@pytest.mark.parametrize(
    ("rules", "shared", "given_back"),
    [
        ([[ref("digits")]], [[ref("digits", 750), ref("digits-candidate", 250)]], [[ref("digits")]]),
        (
            [[ref("digits"), ref("shadow", 3)], [ref("other")], None, [ref("digits", 5)]],
            [
                [ref("digits", 750), ref("digits-candidate", 250), ref("shadow", 3000)],
                [ref("other")],
                None,
                [ref("digits", 3750), ref("digits-candidate", 1250)],
            ],
            [[ref("digits", 1), ref("shadow", 3)], [ref("other")], None, [ref("digits")]],
        ),
        (
            [[ref("digits", LARGE), ref("digits", kind="ServiceImport", weight=1)]],
            [
                [
                    ref("digits", 750_000),
                    ref("digits-candidate", 250_000),
                    ref("digits", kind="ServiceImport", weight=1),
                ]
            ],
            [[ref("digits", LARGE), ref("digits", kind="ServiceImport", weight=1)]],
        ),
        (
            [[ref("digits")], [ref("digits", 0), ref("other")]],
            [[ref("digits", 750), ref("digits-candidate", 250)], [ref("digits", 0), ref("other")]],
            [[ref("digits")], [ref("digits", 0), ref("other")]],
        ),
    ],
)
def test_each_rule_of_a_route_shares_what_it_sends_to_the_release(rules: Any, shared: Any, given_back: Any) -> None:
    def written(each: Any) -> list[Any]:
        return [OTHER if refs is None else {"backendRefs": refs} for refs in each]

    found = route()
    found["spec"]["rules"] = written(rules)
    fits_the_schema(found)
    cluster: Any = Routed({ROUTE: found})
    assert share_route(cluster, "models", found, 0.25) == 0.25
    assert found["spec"]["rules"] == written(shared)
    fits_the_schema(found)
    assert routed_share(found) == 0.25
    share_route(cluster, "models", found, 0.5)
    assert routed_share(found) == 0.5
    give_back_route(cluster, "models", found)
    assert found["spec"]["rules"] == written(given_back)
    fits_the_schema(found)


def test_a_route_that_somebody_has_led_elsewhere_leaves_the_share_to_pods() -> None:
    answers = shared(pods=1, stable=3) | {ROUTE: route()}
    cluster: Any = RecordedCluster(answers)
    given = share_of(cluster, "models", "digits", WITH_ROUTE, 0.25)
    assert given is not None
    assert given.route == route()
    answers[ROUTE]["spec"]["rules"][0]["backendRefs"] = [ref("maintenance")]
    given = share_of(cluster, "models", "digits", WITH_ROUTE, 0.25)
    assert given is not None
    assert (given.route, given.pods) == (None, 1)
    answers[ROUTE]["spec"]["rules"][0]["backendRefs"] = [ref("digits", 0), ref("maintenance")]
    given = share_of(cluster, "models", "digits", WITH_ROUTE, 0.25)
    assert given is not None
    assert given.route is None


def test_the_share_is_told_as_it_is_where_the_largest_weights_leave_no_room_for_it() -> None:
    found = route()
    found["spec"]["rules"][0]["backendRefs"] = [ref("digits", 2), ref("other", LARGE)]
    cluster: Any = Routed({ROUTE: found})
    assert share_route(cluster, "models", found, 0.1) == 0.5
    fits_the_schema(found)


def test_a_candidate_that_somebody_has_taken_the_share_from_is_taken_out_of_the_route_all_the_same() -> None:
    found = route()
    found["spec"]["rules"][0]["backendRefs"] = [ref("digits", 1000), ref("digits-candidate", 0)]
    cluster: Any = Routed({ROUTE: found})
    give_back_route(cluster, "models", found)
    assert found == route()
    give_back_route(cluster, "models", found)
    assert len(cluster.made) == 1, "what is as it was is not touched"


@pytest.mark.parametrize(
    ("refs", "given_back"),
    [
        ([ref("digits-candidate")], [ref("digits")]),
        ([ref("digits-candidate", 0)], [ref("digits")]),
        ([ref("shadow", 3000), ref("digits-candidate", 1000)], [ref("shadow", 3), ref("digits", 1)]),
    ],
)
def test_a_rule_from_which_somebody_has_removed_the_service_gets_it_back_in_place_of_the_candidate(
    refs: Any, given_back: Any
) -> None:
    found = route()
    found["spec"]["rules"][0]["backendRefs"] = refs
    answers = shared(pods=1, stable=3) | {ROUTE: found}
    given = share_of(cast("Any", RecordedCluster(answers)), "models", "digits", WITH_ROUTE, 0.25)
    assert given is not None
    assert given.route == found, "the next share is given by the route, too"
    give_back_route(cast("Any", Routed(answers)), "models", found)
    assert found["spec"]["rules"][0]["backendRefs"] == given_back
    fits_the_schema(found)


@pytest.mark.parametrize(("stable", "pods"), [(6, 2), (4, 1), (0, 1)])
def test_a_candidate_keeps_its_share_where_an_autoscaler_changes_the_pods_that_serve(
    release: Release, stable: int, pods: int
) -> None:
    answers = shared(pods=1, stable=3)
    made, _ = splitting(answers, release)
    split = made.split(2, 0.25)
    assert split is not None
    answers[f"{DEPLOYMENTS}/digits"] = deployment(1, replicas=stable, ready=stable)
    split.check()
    patched = f"PATCH {DEPLOYMENTS}/digits-candidate"
    cluster: Any = made._cluster
    assert cluster.made.count(patched) == (1 if pods != 1 else 0)
    if pods == 1:
        return
    assert cluster.bodies[patched] == {"spec": {"replicas": pods}}
    assert split.now() == (1 / 7, "1 of 7 pods"), "until the second one is there"
    later = shared(pods=2, stable=6)
    answers.update({path: later[path] for path in (f"{NAMESPACE}/pods", f"{NAMESPACE}/endpoints/digits")})
    split.check()
    assert split.now() == (0.25, "2 of 8 pods")
    answers.update({path: shared(pods=1, stable=6)[path] for path in (f"{NAMESPACE}/endpoints/digits",)})
    assert refused_by(split.check).code == "E660"


def test_what_stands_beside_the_server_in_its_pods_is_not_taken_for_it() -> None:
    one = candidate(1)
    containers = one["spec"]["template"]["spec"]["containers"]
    proxy = {"name": "kserve-container", "ports": [{"name": "http1", "containerPort": 15001}]}
    containers.insert(0, proxy)
    assert http_port(server_container(one)) == 8080
    assert http_port(server_container(one, kserve=True)) == 15001
    answers = shared()
    answers[f"{DEPLOYMENTS}/digits"]["spec"]["template"]["spec"]["containers"].insert(0, proxy)
    assert target(answers).observe().endpoint == "http://digits.models.svc"


def test_a_quota_must_have_room_for_all_pods_of_the_largest_step(release: Release) -> None:
    answers = shared(pods=0, stable=3) | KINDS
    del answers[f"{DEPLOYMENTS}/digits-candidate"]
    full: dict[str, Any] = {"metadata": {"name": "team"}, "status": {"hard": {"pods": "5"}, "used": {"pods": "3"}}}
    answers |= {f"{NAMESPACE}/resourcequotas": {"items": [full]}, f"{NAMESPACE}/limitranges": {"items": []}}
    answers["POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews"] = {"status": {"allowed": True}}
    helm = Helm()
    new = deployment(2, replicas=3)
    new["spec"]["strategy"] = {"rollingUpdate": {"maxSurge": 1}}
    helm.preview = lambda *_: (new,)  # type: ignore[attr-defined]
    made = target(answers, helm)
    problem = refused_by(lambda: made.start(release))
    assert problem.code == "E657"
    assert problem.cause == "`pods` of the quota `team` is 5: 3 are used, and up to 3 more are needed"
    assert "at the largest step of its canary, 3 pods of the new revision run beside those that serve" in problem.remedy
    assert helm.done == []
    full["status"]["hard"]["pods"] = "6"
    assert "E657" not in codes(lambda: made.start(release))


def codes(act: Any) -> list[str]:
    try:
        act()
    except DeployFailed as failed:
        return [each.code for each in failed.diagnostics]
    return []
