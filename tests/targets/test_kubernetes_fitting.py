"""Whether a cluster takes a release, before anything is changed: quotas, limits, kinds, rights, and the image."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, cast

import pytest

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.images.registry import Answer
from orchestrator.store.state import Image
from orchestrator.targets.kubernetes import pulling
from orchestrator.targets.kubernetes.connection import Cluster, Refused
from orchestrator.targets.kubernetes.fitting import check_fits
from orchestrator.targets.kubernetes.pod_resources import pod_use
from tests.targets.test_kubernetes import Recorded

MODELS = "/api/v1/namespaces/models"
KINDS = {
    "/api/v1": {"resources": [{"kind": "Service", "name": "services"}]},
    "/apis/apps/v1": {
        "resources": [{"kind": "Deployment", "name": "deployments"}, {"kind": "Scale", "name": "deployments/scale"}]
    },
    "/apis/autoscaling/v2": {"resources": [{"kind": "HorizontalPodAutoscaler", "name": "horizontalpodautoscalers"}]},
}
IMAGE = Image(name="registry.example.com/team/digits:1", id="sha256:1", digest="sha256:2", platform="linux/amd64")


def pods(cpu: str = "1", memory: str = "256Mi", **more: Any) -> dict[str, Any]:
    resources = {"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}}
    return {"containers": [{"name": "server", "resources": resources}], **more}


def deployment(spec: Mapping[str, Any] | None = None, replicas: int | None = 1, surge: int | str = 1) -> dict[str, Any]:
    number = {} if replicas is None else {"replicas": replicas}
    strategy = {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": 0}}
    template = {"spec": dict(spec or pods())}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "digits"},
        "spec": {**number, "strategy": strategy, "template": template},
    }


def quota(hard: Mapping[str, str], used: Mapping[str, str], **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "team"}, "spec": spec, "status": {"hard": dict(hard), "used": dict(used)}}


def limits(**row: Any) -> dict[str, Any]:
    return {"metadata": {"name": "sizes"}, "spec": {"limits": [{"type": "Container", **row}]}}


def cluster(quotas: list[Any] | None = None, ranges: list[Any] | None = None, **more: Any) -> Recorded:
    denied = more.pop("denied", ())
    answers = {f"{MODELS}/resourcequotas": {"items": quotas or []}, f"{MODELS}/limitranges": {"items": ranges or []}}
    return Recorded(KINDS | answers | more, denied)


def refused(
    recorded: Recorded, *objects: Any, live: Any = None, image: Image | None = None, said: list[str] | None = None
) -> tuple[Diagnostic, ...]:
    """What is wrong with releasing these objects."""
    told: list[str] = [] if said is None else said
    try:
        check_fits(cast("Cluster", recorded), "models", objects or (deployment(),), live, image, told.append)
    except DeployFailed as failed:
        return tuple(failed.diagnostics)
    return ()


@pytest.mark.parametrize(
    ("hard", "used", "live", "new", "words"),
    [
        ({"pods": "4"}, {"pods": "3"}, deployment(replicas=3), deployment(replicas=3), ()),
        ({"pods": "3"}, {"pods": "3"}, deployment(replicas=3), deployment(replicas=3), ("`pods` of the quota `team` is 3: 3 are used, and up to 1 more",)),
        ({"requests.cpu": "2"}, {"requests.cpu": "1"}, deployment(), deployment(), ()),
        ({"cpu": "1500m"}, {"cpu": "1"}, deployment(), deployment(), ("`cpu` of the quota `team` is 1500m: 1 are used",)),
        ({"limits.memory": "1Gi"}, {}, None, deployment(replicas=4), ()),
        ({"limits.memory": "1Gi"}, {}, None, deployment(replicas=5), ("1280Mi more are needed",)),
        # The last old pod runs beside all new ones, which are larger.
        ({"requests.memory": "640Mi"}, {"requests.memory": "512Mi"}, deployment(replicas=2), deployment(pods(memory="320Mi"), replicas=2), ("up to 384Mi more",)),
        ({"count/deployments.apps": "1"}, {"count/deployments.apps": "1"}, deployment(), deployment(), ("count/deployments.apps",)),
        ({"secrets": "10"}, {"secrets": "3"}, None, deployment(), ()),
        ({"limits.ephemeral-storage": "1Gi"}, {}, None, deployment(), ()),
    ],
)  # fmt: skip
def test_a_quota_must_have_room_for_the_release_beside_the_one_that_serves(
    hard: dict[str, str], used: dict[str, str], live: Any, new: Any, words: tuple[str, ...]
) -> None:
    found = refused(cluster([quota(hard, used)]), new, live=live)
    assert [each.code for each in found] == ["E657"] * len(words)
    assert all(word in found[0].cause for word in words), found
    if found:
        assert "free some of it (`kubectl describe quota -n models`), have it raised" in found[0].remedy
        assert not refused(cluster([quota(dict.fromkeys(hard, "1000Gi"), used)]), new, live=live)


def test_a_quota_for_other_pods_does_not_count() -> None:
    full = {"pods": "1"}
    assert not refused(cluster([quota(full, full, scopes=["BestEffort"])]))
    assert refused(cluster([quota(full, full, scopes=["NotBestEffort", "NotTerminating"])]))
    replaced = quota({"cpu": "4"}, {"cpu": "3"}, scopes=["NotBestEffort"])  # the pods that end are in what is used
    assert not refused(cluster([replaced]), deployment(replicas=3), live=deployment(replicas=3))
    high = {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}
    assert not refused(cluster([quota(full, full, scopeSelector=high)]))
    assert refused(cluster([quota(full, full, scopeSelector=high)]), deployment(pods(priorityClassName="high")))


def test_a_container_that_says_nothing_of_what_a_quota_limits_is_named_unless_a_default_says_it() -> None:
    bare = {"containers": [{"name": "server"}]}
    limited = quota({"limits.cpu": "8"}, {})
    (problem,) = refused(cluster([limited]), deployment(bare))
    assert "limits `limits.cpu`, of which a container of the pod says nothing" in problem.cause
    assert not refused(cluster([limited], [limits(default={"cpu": "1"})]), deployment(bare))
    (problem,) = refused(cluster([limited], [limits(default={"cpu": "9"})]), deployment(bare))
    assert "up to 9 more" in problem.cause


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"max": {"memory": "256Mi"}}, ""),
        ({"max": {"memory": "128Mi"}}, "the container `server` has a limit of 256Mi for memory, and at most 128Mi"),
        ({"min": {"cpu": "2"}}, "requests 1 of cpu, and at least 2"),
        ({"type": "Pod", "max": {"cpu": "500m"}}, "the pod has a limit of 1 for cpu, and at most 500m"),
        ({"maxLimitRequestRatio": {"cpu": "1"}}, ""),
    ],
)
def test_a_pod_must_be_within_the_limit_ranges(row: dict[str, Any], expected: str) -> None:
    found = refused(cluster(ranges=[limits(**row)]))
    assert [each.code for each in found] == (["E657"] if expected else [])
    assert not expected or expected in found[0].cause


def test_init_containers_count_where_they_ask_for_more_and_sidecars_always() -> None:
    def container(name: str, cpu: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "resources": {"requests": {"cpu": cpu}}, **more}

    server = [container("server", "1")]
    assert pod_use({"containers": server, "initContainers": [container("load", "3")]}).amounts["requests.cpu"] == 3
    side = container("proxy", "500m", restartPolicy="Always")
    use = pod_use({"containers": server, "initContainers": [side, container("load", "1")], "overhead": {"cpu": "250m"}})
    assert use.amounts["requests.cpu"] == Decimal("1.75")


def test_everything_that_is_wrong_is_said_at_once() -> None:
    scaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "digits"},
        "spec": {"minReplicas": 4},
    }
    monitor = {"apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor", "metadata": {"name": "digits"}}
    full = cluster([quota({"pods": "3"}, {})], denied=("horizontalpodautoscalers",))
    found = refused(full, deployment(replicas=None), scaler, monitor)
    assert [each.code for each in found] == ["E665", "E654", "E657"]
    assert "ServiceMonitor of monitoring.coreos.com/v1" in found[0].cause
    assert "create horizontalpodautoscalers.autoscaling" in found[1].cause
    assert "up to 4 more" in found[2].cause


def test_what_this_user_may_not_see_is_said_and_not_checked() -> None:
    hidden = cluster()
    hidden.answers[f"{MODELS}/resourcequotas"] = Refused(403, "Forbidden", "no")
    said: list[str] = []
    assert not refused(hidden, said=said)
    assert said == ["the resourcequotas of the namespace are not checked, since this user may not list them"]


def secret(place: str, user: str = "mlo") -> dict[str, Any]:
    entry = {"auth": base64.b64encode(f"{user}:word".encode()).decode()}
    packed = base64.b64encode(json.dumps({"auths": {place: entry}}).encode()).decode()
    return {"data": {".dockerconfigjson": packed}}


class RecordedRegistry:
    """A registry that gives the image to these users; the empty one is everybody, None the user of Docker's configuration."""

    def __init__(self, *users: str | None, missing: bool = False) -> None:
        self.users, self.missing = users, missing

    def __call__(self, repository: str, digest: str, credentials: Mapping[str, str] | None) -> Answer:
        assert (repository, digest) == ("registry.example.com/team/digits", "sha256:2")
        user = None if credentials is None else credentials.get("username", "")
        if user not in self.users:
            return Answer("denied", "unauthorized: authentication required")
        return Answer("missing", "manifest unknown") if self.missing else Answer("there")


@pytest.mark.parametrize(
    ("registry", "secrets", "there", "code", "expected"),
    [
        (RecordedRegistry(""), (), {}, "", ""),
        (RecordedRegistry("", None, missing=True), (), {}, "E656", "the registry has no image registry.example.com/team/digits@sha256:2"),
        (RecordedRegistry("mlo", None), ("pull",), {"pull": secret("registry.example.com")}, "", ""),
        (RecordedRegistry("mlo", None), ("pull",), {"pull": secret("https://registry.example.com/v1/")}, "", ""),
        (RecordedRegistry("mlo", None), ("pull",), {"pull": secret("*.example.com/team")}, "", ""),
        (RecordedRegistry("mlo", None), ("pull",), {"pull": secret("registry.example.com", "other")}, "E656", "do not lead to"),
        (RecordedRegistry("mlo", None), ("pull",), {"pull": secret("another.example.com")}, "E656", "do not lead to"),
        (RecordedRegistry("mlo", None), ("pull",), {}, "E663", "has no Secret `pull`"),
        (RecordedRegistry("mlo", None), (), {}, "told", "the nodes must have one of their own"),
    ],
)  # fmt: skip
def test_the_registry_is_asked_for_the_image_with_the_pull_secrets(
    registry: RecordedRegistry,
    secrets: tuple[str, ...],
    there: dict[str, Any],
    code: str,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pulling.pull_problems, "__defaults__", (registry,))
    recorded = cluster(**{f"{MODELS}/secrets/{name}": each for name, each in there.items()})
    said: list[str] = []
    new = deployment(pods(imagePullSecrets=[{"name": each} for each in secrets]))
    found = refused(recorded, new, image=IMAGE, said=said)
    assert [each.code for each in found] == ([code] if code.startswith("E") else [])
    assert expected in (" ".join(said) if code == "told" else "".join(each.message for each in found))
    assert bool(said) == (code == "told")
    if code == "E656" and secrets:
        mended: dict[str, Any] = {f"{MODELS}/secrets/{name}": secret("registry.example.com") for name in secrets}
        assert not refused(cluster(**mended), new, image=IMAGE)


@pytest.mark.parametrize("place", ["https://index.docker.io/v1/", "index.docker.io", "docker.io"])
def test_a_login_to_docker_hub_has_the_name_that_kubectl_gives_it(place: str) -> None:
    def hub(_: str, __: str, credentials: Mapping[str, str] | None) -> Answer:
        return Answer("there" if credentials is None or credentials.get("username") == "mlo" else "denied")

    image = IMAGE.model_copy(update={"name": "docker.io/team/digits:1"})
    asked = cast("Cluster", Recorded({f"{MODELS}/secrets/pull": secret(place)}))
    new = pods(imagePullSecrets=[{"name": "pull"}])
    assert not list(pulling.pull_problems(asked, "models", new, image, lambda _: None, hub))


def test_an_image_without_a_registry_and_a_registry_that_cannot_be_asked_are_told() -> None:
    said: list[str] = []
    assert not refused(cluster(), image=IMAGE.model_copy(update={"digest": None}), said=said)
    assert "without `image: registry:`" in said[0]
    problems = pulling.pull_problems(
        cast("Cluster", cluster()),
        "models",
        pods(),
        IMAGE,
        said.append,
        lambda *_: Answer("unknown", "no route to host"),
    )
    assert not list(problems)
    assert said[1].endswith("is not checked: no route to host")
