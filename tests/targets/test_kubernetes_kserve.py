"""A release as an InferenceService of KServe, on a cluster that is recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.targets.kubernetes.connection import Cluster, Refused
from orchestrator.targets.kubernetes.kserve import not_ready
from orchestrator.targets.kubernetes.section import KubernetesDeploy
from tests.targets import test_kubernetes as preflighted
from tests.targets.test_kubernetes_target import (
    DEPLOYMENTS,
    NAMESPACE,
    RecordedCluster,
    RecordedHelm,
    kubeconfig,  # noqa: F401 - a fixture that all tests here use
    recorded,
    refused_by,
    release,
    serves,
    target,
)

SETTINGS: dict[str, Any] = {"inferenceService": {"enabled": True}}
SERVICE = "/apis/serving.kserve.io/v1beta1/namespaces/models/inferenceservices/digits"


def inference_service(ready: str = "True", *, seen: int = 1, **status: Any) -> dict[str, Any]:
    condition = {"type": "Ready", "status": ready} | ({} if ready == "True" else {"reason": "Waiting"})
    return {
        "metadata": {"generation": 1, "annotations": {"meta.helm.sh/release-name": "digits"}},
        "status": {"observedGeneration": seen, "conditions": [condition], **status},
    }


def kserve(revision: int, service: dict[str, Any]) -> dict[str, Any]:
    """A cluster where KServe has made this revision's pods."""
    answers = serves(revision)
    for path in (DEPLOYMENTS, f"{NAMESPACE}/endpoints"):
        answers[f"{path}/digits-predictor"] = answers.pop(f"{path}/digits")
    (server,) = answers[f"{DEPLOYMENTS}/digits-predictor"]["spec"]["template"]["spec"]["containers"]
    server["name"], server["ports"] = "kserve-container", [{"name": "http1", "containerPort": 8080}]
    return answers | {SERVICE: service, f"{NAMESPACE}/secrets": {"items": []}}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("port_forwards", "releasing"):
        monkeypatch.setattr(f"orchestrator.targets.kubernetes.{module}._LOOK", 0.01)


def test_a_cluster_without_kserve_is_refused_and_a_right_to_it_is_needed() -> None:
    known: dict[str, Any] = {"/api/v1/namespaces/models": {}}
    problem = refused_by(lambda: preflighted.check(preflighted.Recorded(known), **SETTINGS))
    assert (problem.code, "inferenceservices.serving.kserve.io" in problem.remedy) == ("E665", True)
    known["/apis"] = {"groups": [*preflighted.GROUPS["groups"], {"name": "serving.kserve.io"}]}
    denied = preflighted.Recorded(known, denied=("inferenceservices",))
    problem = refused_by(lambda: preflighted.check(denied, **SETTINGS))
    assert (problem.code, "create inferenceservices.serving.kserve.io" in problem.cause) == ("E654", True)
    preflighted.check(preflighted.Recorded(known), **SETTINGS)


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        (None, "there is no InferenceService digits"),
        ({"metadata": {"generation": 1}}, "KServe's controller has not taken note of it; it may not run"),
        (inference_service(), ""),
        (inference_service(seen=0), "has not taken note of its last change"),
        (inference_service("False"), "KServe says: Ready is False (Waiting)"),
        (
            inference_service("False", modelStatus={"lastFailureInfo": {"message": "no such image"}}),
            "KServe says: Ready is False (Waiting); no such image",
        ),
    ],
)
def test_kserves_own_words_say_why_it_is_not_ready(service: dict[str, Any] | None, expected: str) -> None:
    found = not_ready(cast("Cluster", RecordedCluster({SERVICE: service})), "models", "digits")
    assert expected in found
    assert bool(found) == bool(expected)


def test_it_is_observed_by_what_kserve_makes_of_it() -> None:
    healthy = target(kserve(2, inference_service()), settings=SETTINGS)
    assert (healthy.observe().health, healthy.observe().revision) == ("healthy", 2)
    assert healthy.describe().where == "digits-predictor.models.svc"
    assert healthy.observe().endpoint == "http://digits-predictor.models.svc"
    degraded = target(kserve(2, inference_service("False")), settings=SETTINGS).observe()
    assert (degraded.health, degraded.reason) == ("degraded", "KServe says: Ready is False (Waiting)")
    nothing = target({SERVICE: inference_service("False")}, settings=SETTINGS).observe()
    assert (nothing.health, "no Deployment digits-predictor" in nothing.reason) == ("stopped", True)


class Controlled(RecordedHelm):
    """Helm, and a KServe that takes note of an upgrade after a while."""

    answers: dict[str, Any]

    def upgrade(self, release: str, *arguments: Any, **more: Any) -> None:
        super().upgrade(release, *arguments, **more)
        if release == "digits":
            self.answers[SERVICE] = {"metadata": {"generation": 2}, "status": inference_service(seen=1)["status"]}


def test_an_upgrade_waits_until_kserve_calls_the_new_revision_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "serving").mkdir()
    helm = Controlled(digits=(recorded(1, "deployed"),))
    upgrading = target(kserve(1, inference_service()), helm, settings=SETTINGS)
    helm.answers = cast("Any", upgrading._cluster).answers
    said: list[str] = []

    def later(_: float) -> None:
        """KServe has replaced the pods, then says so."""
        if len(said) == 1:
            helm.answers.update(kserve(2, helm.answers[SERVICE]))
        if len(said) == 2:
            helm.answers[SERVICE] = inference_service()
        said.append(upgrading.observe().health)

    monkeypatch.setattr("orchestrator.targets.kubernetes.releasing.time.sleep", later)
    upgrading._releases[2] = release(tmp_path)
    assert upgrading.switch(2) == ()
    assert said == ["degraded", "degraded", "healthy"]
    assert helm.done == ["upgrade digits"]


def test_one_that_kserve_does_not_call_ready_is_rolled_back_and_its_words_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "serving").mkdir()
    monkeypatch.setattr("orchestrator.targets.kubernetes.releasing._MARGIN", -95.0)
    helm = RecordedHelm(digits=(recorded(1, "deployed"),))
    answers = kserve(1, inference_service())
    failing = target(answers, helm, settings=SETTINGS)
    failing._releases[2] = release(tmp_path)
    problem = refused_by(lambda: failing.switch(2))
    assert (problem.code, "was not ready within 0 s" in problem.message) == ("E660", True)
    assert helm.done == ["upgrade digits", "rollback digits 1"]
    assert failing.observe().revision == 1


def test_a_deployment_does_not_become_an_inference_service_while_it_serves() -> None:
    helm = RecordedHelm(digits=(recorded(1, "deployed"),))
    groups = [*preflighted.GROUPS["groups"], {"name": "serving.kserve.io"}]
    may = {
        "/apis": {"groups": groups},
        "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews": {"status": {"allowed": True}},
    }
    plain = serves(1) | may
    plain[f"{DEPLOYMENTS}/digits"]["metadata"]["annotations"]["meta.helm.sh/release-name"] = "digits"
    for answers, settings in ((plain, SETTINGS), (kserve(1, inference_service()) | may, {})):
        problem = refused_by(target(answers, helm, settings=settings).check)
        assert (problem.code, "mlo destroy digits" in problem.remedy) == ("E668", True)
        other = {} if settings else SETTINGS
        target(answers, helm, settings=other).check()


def test_a_deployment_needs_no_right_to_inference_services() -> None:
    may = {"POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews": {"status": {"allowed": True}}}
    answers = serves(1) | may | {"/apis": preflighted.GROUPS, SERVICE: Refused(403, "Forbidden", "may not")}
    target(answers, RecordedHelm(digits=(recorded(1, "deployed"),))).check()


def test_an_inference_service_cannot_take_over_by_steps() -> None:
    steps = {"canary": {"steps": ["10%"]}}
    for form, codes in (("deployment", []), ("inference-service", ["E623"])):
        section = KubernetesDeploy.model_validate({"target": "kubernetes", "as": form, "strategy": steps})
        found = section.problems(cast("Any", lambda *_, **__: None))
        assert [each.code for each in found] == codes
