"""`serving.tls` on a cluster that is recorded: the Secret before anything is computed, and how pods are known and named."""

from __future__ import annotations

import base64
import ssl
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from orchestrator.steps.server_options import ServerAuth, ServerTls
from orchestrator.targets.kubernetes import preflight
from orchestrator.targets.kubernetes.connection import Refused
from orchestrator.targets.kubernetes.secrets import require_certificate, require_tokens
from orchestrator.targets.target import Offers
from tests.certificates import certificate
from tests.targets.test_kubernetes_target import (
    DEPLOYMENTS,
    NAMESPACE,
    RecordedCluster,
    refused_by,
    release,
    serves,
    target,
    write_kubeconfig,
)

TLS = ServerTls("/run/digits-tls/tls.crt", "/run/digits-tls/server.key", "digits-tls")
SECRET = f"{NAMESPACE}/secrets/digits-tls"


@pytest.fixture(autouse=True)
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_kubeconfig(tmp_path / "config", "https://127.0.0.1:1")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))


def cluster_of(answers: dict[str, Any]) -> Any:
    return cast("Any", RecordedCluster(answers))


def secret(certificate: bytes, *keys: str) -> dict[str, Any]:
    """A Secret with the certificate under the first key, and nothing that is one under the others."""
    first, *others = keys
    encoded = {first: base64.b64encode(certificate).decode(), **dict.fromkeys(others, "bm90aGluZw==")}
    return {"kind": "Secret", "data": encoded}


def test_the_secret_of_the_certificate_is_looked_at_before_anything_is_computed(tmp_path: Path) -> None:
    good = certificate(tmp_path, "good")[0].read_bytes()
    expired = certificate(tmp_path, "old", ends=timedelta(minutes=-1))[0].read_bytes()
    for there, code, says in (
        (None, "E663", "there is no Secret `digits-tls`"),
        (secret(good, "tls.crt"), "E663", "lacks server.key"),
        (secret(expired, "tls.crt", "server.key"), "E481", "the certificate in the Secret `digits-tls` has expired"),
    ):
        asked = partial(require_certificate, cluster_of({SECRET: there}), "models", asdict(TLS))
        problem = refused_by(asked)
        assert (problem.code, says in problem.message) == (code, True), problem.message
    missing = refused_by(lambda: require_certificate(cluster_of({}), "models", asdict(TLS)))
    assert (
        "kubectl create secret generic digits-tls --from-file=tls.crt --from-file=server.key --namespace models"
        in missing.remedy
    )
    usual = asdict(TLS) | {"key": "/run/digits-tls/tls.key", "secret": "other"}
    problem = refused_by(lambda: require_certificate(cluster_of({}), "models", usual))
    assert "kubectl create secret tls other --cert=tls.crt --key=tls.key --namespace models" in problem.remedy
    require_certificate(cluster_of({SECRET: secret(good, "tls.crt", "server.key")}), "models", asdict(TLS))
    require_certificate(cluster_of({SECRET: Refused(403, "Forbidden", "no")}), "models", asdict(TLS))


def test_the_secret_of_the_tokens_is_looked_at_before_anything_is_computed() -> None:
    path, values = (
        f"{NAMESPACE}/secrets/digits-token",
        {"tokenFile": "/run/secrets/digits/token", "secret": "digits-token"},
    )

    def asked(there: Any, **more: Any) -> None:
        require_tokens(cluster_of({NAMESPACE: {}, path: there, **more}), "models", values)

    missing = refused_by(partial(asked, None))
    assert (missing.code, missing.at) == ("E663", ("serving", "auth", "secret"))
    assert missing.message == "there is no Secret `digits-token` in the namespace `models`"
    make = "kubectl create secret generic digits-token --from-file=token --namespace models"
    assert missing.remedy == f"run `{make}` where the file is"
    unread = refused_by(lambda: asked(None, **{NAMESPACE: Refused(403, "Forbidden", "no")}))
    assert unread.remedy == missing.remedy
    anew = refused_by(lambda: asked(None, **{NAMESPACE: None}))  # with `deploy: create_namespace: true`
    assert anew.remedy == f"run `kubectl create namespace models; {make}` where the file is"
    for data in ({"tokens": "bm90aGluZw=="}, {"token": ""}):
        problem = refused_by(partial(asked, {"data": data}))
        assert problem.message == "the Secret `digits-token` in the namespace `models` lacks token"
        assert f"kubectl delete secret digits-token --namespace models; {make}" in problem.remedy
    asked({"data": {"token": "bm90aGluZw=="}})
    asked(Refused(403, "Forbidden", "no"))


def test_the_secret_is_made_in_the_cluster_that_is_deployed_to_whichever_kubectl_would_take() -> None:
    cluster = cluster_of({NAMESPACE: {}})
    cluster.context = "production"  # and the current one is another
    values = {"tokenFile": "/run/secrets/digits/token", "secret": "digits-token"}
    make = "kubectl create secret generic digits-token --from-file=token --namespace models --context production"
    assert make in refused_by(lambda: require_tokens(cluster, "models", values)).remedy


def test_a_deployment_is_refused_without_its_tokens_and_taken_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "found_helm", lambda: "helm")
    auth = ServerAuth("/run/secrets/digits/token", "digits-token")
    answers = serves(1) | {
        "/apis": {"groups": [{"name": name} for name in ("apps", "networking.k8s.io", "coordination.k8s.io")]},
        "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews": {"status": {"allowed": True}},
    }
    assert refused_by(lambda: target(answers).check(Offers(auth=auth))).code == "E663"
    answers[f"{NAMESPACE}/secrets/digits-token"] = {"data": {"token": "bm90aGluZw=="}}
    target(answers).check(Offers(auth=auth))
    others = {"auth": {"secret": "others"}}  # `deploy.values`
    problem = refused_by(lambda: target(answers, settings=others).check(Offers(auth=auth)))
    assert "there is no Secret `others`" in problem.message


def test_a_revision_is_known_by_its_secret_and_later_by_the_way_to_its_pod(tmp_path: Path) -> None:
    pem = certificate(tmp_path, "good")[0].read_bytes()
    answers = {SECRET: secret(pem, "tls.crt", "server.key")}
    here, named = target(answers), Path(TLS.certificate)
    assert here.certificate(named, "https://127.0.0.1:1").read is None
    new = release(tmp_path)
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({"tls": asdict(TLS)}))
    here._releases[2] = new
    read = here.certificate(named, "https://127.0.0.1:1").read
    assert read is not None
    assert read() == ssl.PEM_cert_to_DER_cert(pem.decode())
    answers[SECRET] = secret(b"nothing", "tls.crt")
    assert refused_by(read).code == "E482"


def test_a_service_over_tls_is_named_with_its_scheme() -> None:
    answers = serves(2)
    probe = answers[f"{DEPLOYMENTS}/digits"]["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]
    assert target(answers).observe().endpoint == "http://digits.models.svc"
    probe["httpGet"]["scheme"] = "HTTPS"
    assert target(answers).observe().endpoint == "https://digits.models.svc:80"
    assert target(answers, port=443).observe().endpoint == "https://digits.models.svc"
    assert target(answers, port=443).difference("https://digits.models.svc") is None
    assert target(answers).difference("https://digits.models.svc:80") is None
    assert "moves" in str(target(answers).difference("https://digits.models.svc"))
    assert target(answers).url().startswith("https://127.0.0.1:")
