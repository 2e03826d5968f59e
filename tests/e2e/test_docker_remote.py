"""A Docker Engine over TCP and TLS, named by DOCKER_HOST or by a context: a relay to the real engine asks for certificates."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.containers.engine import EngineError, current_engine, engine_version
from orchestrator.errors import DeployFailed
from orchestrator.store.home import Home
from orchestrator.store.store import Store
from orchestrator.targets.docker.target import DockerTarget
from orchestrator.targets.target import Site
from tests.e2e.docker_engine import ON_ENGINE, Engine, ask, relay

pytestmark = [
    *ON_ENGINE,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        shutil.which("openssl") is None, reason="no openssl, which makes certificates for a remote engine"
    ),
]


@dataclass(frozen=True)
class Secure:
    """An engine that only talks to clients with a certificate.

    Attributes:
        host: for `DOCKER_HOST`.
        certificates: for `DOCKER_CERT_PATH`.
        strangers: certificates of another authority.
    """

    host: str
    certificates: Path
    strangers: Path


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


def _certificates(folder: Path) -> Path:
    """An authority, and a certificate of it that is good for the engine and for its client."""
    folder.mkdir()
    key, cert, request = str(folder / "key.pem"), str(folder / "cert.pem"), str(folder / "request.pem")
    ca, ca_key = str(folder / "ca.pem"), str(folder / "ca-key.pem")
    elliptic = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    _openssl("req", "-x509", *elliptic, "-keyout", ca_key, "-out", ca, "-subj", "/CN=authority", "-days", "2")
    _openssl("req", *elliptic, "-keyout", key, "-out", request, "-subj", "/CN=engine")
    names = folder / "names"
    names.write_text("subjectAltName=IP:127.0.0.1\n", encoding="ascii")
    authority = ("-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-extfile", str(names))
    _openssl("x509", "-req", "-in", request, *authority, "-out", cert)
    return folder


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    certificates = _certificates(tmp_path_factory.mktemp("tls") / "own")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    context.load_verify_locations(certificates / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    strangers = _certificates(tmp_path_factory.mktemp("tls") / "strangers")
    with relay(context) as way:
        yield Secure(f"tcp://127.0.0.1:{way.port}", certificates, strangers)


def test_an_engine_with_tls_is_deployed_to_and_found_again_from_a_shell_without_its_settings(
    here: Engine, secure: Secure, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as shell:
        shell.setenv("DOCKER_HOST", secure.host)
        shell.setenv("DOCKER_TLS_VERIFY", "1")
        shell.setenv("DOCKER_CERT_PATH", str(secure.certificates))
        target = here.target()
        endpoint = here.deploy(target, 1)
        assert ask(endpoint) == "1"
        placement = target.placement
    assert "BEGIN" not in placement.model_dump_json(), "certificates stay where they are"
    again = DockerTarget.placed(placement, here.site)
    assert again.observe().health == "healthy"
    assert (again.stop(), here.containers()) == ((), [])


def test_a_context_with_certificates_is_used_as_docker_uses_it(
    secure: Secure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = shutil.which("docker")
    if docker is None:
        pytest.skip("no docker command, which makes contexts: a context with certificates is not tested")
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text("{}", encoding="ascii")  # as `docker login` leaves one
    files = ",".join(
        f"{key}={secure.certificates / f'{name}.pem'}" for key, name in (("ca", "ca"), ("cert", "cert"), ("key", "key"))
    )
    subprocess.run(
        [docker, "context", "create", "lab", "--docker", f"host={secure.host},{files}"],
        check=True,
        capture_output=True,
        timeout=60,
    )
    monkeypatch.setenv("DOCKER_CONTEXT", "lab")
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")  # a context that is named comes first
    assert (current_engine().host, current_engine().context) == (secure.host, "lab")
    assert engine_version()
    target = DockerTarget(Site(Store.open(Home(tmp_path / "home")), "docker-context"), None, None, "127.0.0.1", None)
    placement = target.placement
    monkeypatch.delenv("DOCKER_CONTEXT")
    assert DockerTarget.placed(placement, target._site).observe().health == "stopped", "the context is remembered"
    subprocess.run([docker, "context", "rm", "--force", "lab"], check=True, capture_output=True, timeout=60)
    with pytest.raises(DeployFailed) as gone:
        DockerTarget.placed(placement, target._site).check()
    assert "the Docker context `lab`, which had the certificates" in gone.value.diagnostics[0].cause


def test_an_engine_that_is_not_the_one_it_claims_to_be_is_not_talked_to(
    secure: Secure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", secure.host)
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(secure.strangers))
    with pytest.raises(EngineError, match=r"no secure connection to tcp://127\.0\.0\.1.*check the certificates"):
        engine_version()
    monkeypatch.setenv("DOCKER_CERT_PATH", str(secure.certificates / "nowhere"))
    with pytest.raises(EngineError):
        engine_version()


def test_a_loopback_of_another_machine_is_refused_with_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "orchestrator.targets.docker.target.DockerTarget._host", lambda _: "tcp://engines.example.com:2376"
    )
    site = Site(Store.open(Home(tmp_path / "home")), "docker-far")
    with pytest.raises(DeployFailed) as refused:
        DockerTarget(site, None, None, "127.0.0.1", None).check()
    problem = refused.value.diagnostics[0]
    assert (problem.code, problem.at) == ("E647", ("deploy", "address"))
    assert "or to 0.0.0.0 for all of them" in problem.remedy
    DockerTarget(site, None, None, "0.0.0.0", None).check()
