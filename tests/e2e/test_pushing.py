"""Images pushed to real registries, with the credentials of Docker's own configuration."""

from __future__ import annotations

import base64
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import DeployFailed
from orchestrator.images.build import CONTEXT_LABEL, build_image
from orchestrator.images.context import context_digest
from orchestrator.images.evidence import Sizes, provenance, read_evidence, write_evidence
from orchestrator.images.push import push_image
from orchestrator.images.settings import BuildSettings
from orchestrator.store.state import Image
from tests.e2e.images_case import docker, engine_platform, require_engine
from tests.e2e.registries import PASSWORD, USER, free_port, registry, token_server

pytestmark = [pytest.mark.e2e, pytest.mark.containers, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_engine()
    (tmp_path / "docker").mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What the build reads of a rendered tree."""
    tree = tmp_path / "rendered"
    (tree / "docker").mkdir(parents=True)
    (tree / "serving").mkdir()
    (tree / "serving" / "model").write_text(uuid.uuid4().hex)
    (tree / "docker" / "Dockerfile").write_text(
        f'FROM scratch\nCOPY serving /\nLABEL mlo.platform="{engine_platform()}"\n'
    )
    return tree


@pytest.fixture
def names() -> Iterator[list[str]]:
    """The images of a test, which are removed after it."""
    names: list[str] = []
    yield names
    for name in names:
        docker("rmi", "--force", name)


def _pushed(tree: Path, repository: str, names: list[str]) -> Image:
    """Push an image as `build_image` leaves one, but of a few bytes, since it is the push that is tested."""
    evidence, digest = tree.parent / "images", context_digest(tree)
    name = f"{repository}:{digest[:16]}"
    docker(
        "build", "--quiet", "--file", str(tree / "docker" / "Dockerfile"), "--tag", name,
        "--label", f"{CONTEXT_LABEL}=sha256:{digest}", str(tree),
    )  # fmt: skip
    names.append(name)
    image = Image(name=name, id=docker("inspect", "--format", "{{.Id}}", name), platform=engine_platform())
    statement = provenance(
        image, context=digest, base="scratch", base_digest="sha256:0", labels={}, engine="", network=None
    )
    write_evidence(evidence, image, Sizes(2, 1, 1), b"{}", statement)
    assert build_image(tree, BuildSettings(repository), evidence, lambda _: None) == image, "it counts as built"
    return push_image(image, evidence, lambda _: None)


def _log_in(folder: Path, host: str, password: str = PASSWORD) -> None:
    secret = base64.b64encode(f"{USER}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": secret}}}))


def _failure(tree: Path, repository: str, names: list[str]) -> tuple[str, str]:
    with pytest.raises(DeployFailed) as failed:
        _pushed(tree, repository, names)
    said = failed.value.diagnostics[0]
    assert PASSWORD not in str(said.as_json())
    return said.code, said.remedy


def test_a_plain_registry_on_loopback_names_the_image_by_digest_from_then_on(
    tree: Path, tmp_path: Path, names: list[str]
) -> None:
    with registry(tmp_path / "registry") as host:
        image = _pushed(tree, f"{host}/team/digits", names)
        assert image.digest is not None
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", image.digest)
        assert image.reference == f"{host}/team/digits@{image.digest}"
        docker("pull", "--quiet", image.reference)
        known = read_evidence(tmp_path / "images", image)
        assert known is not None
        statement = json.loads(known.provenance.read_bytes())
        assert statement["subject"] == [
            {"name": image.name, "digest": {"sha256": image.digest.removeprefix("sha256:")}}
        ]
        again = build_image(tree, BuildSettings(f"{host}/team/digits"), tmp_path / "images", lambda _: None)
        assert again.reference == image.reference


def test_a_registry_with_passwords_takes_those_of_dockers_configuration(
    tree: Path, tmp_path: Path, names: list[str]
) -> None:
    file = tmp_path / "registry" / "htpasswd"
    with registry(tmp_path / "registry", {"htpasswd": {"realm": "tests", "path": str(file)}}) as host:
        assert _failure(tree, f"{host}/digits", names) == ("E635", f"log in: docker login {host}")
        _log_in(tmp_path / "docker", host, "a wrong word")
        assert _failure(tree, f"{host}/digits", names)[0] == "E635"
        _log_in(tmp_path / "docker", host)
        assert _pushed(tree, f"{host}/digits", names).digest is not None


def test_a_credential_helper_is_asked(
    tree: Path, tmp_path: Path, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, helper = tmp_path / "registry" / "htpasswd", tmp_path / "bin" / "docker-credential-tests"
    helper.parent.mkdir()
    answer = json.dumps({"ServerURL": "it", "Username": USER, "Secret": PASSWORD})
    helper.write_text(f"#!/bin/sh\ntest \"$1\" = get && cat >{tmp_path / 'asked'} && echo '{answer}'\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{helper.parent}{os.pathsep}{os.environ['PATH']}")
    with registry(tmp_path / "registry", {"htpasswd": {"realm": "tests", "path": str(file)}}) as host:
        (tmp_path / "docker" / "config.json").write_text(json.dumps({"credHelpers": {host: "tests"}}))
        assert _pushed(tree, f"{host}/digits", names).digest is not None
        assert (tmp_path / "asked").read_text().strip() == host


def test_a_registry_with_tokens_denies_what_is_not_granted(tree: Path, tmp_path: Path, names: list[str]) -> None:
    with token_server(tmp_path / "tokens", "team/digits") as auth, registry(tmp_path / "registry", auth) as host:
        _log_in(tmp_path / "docker", host)
        code, remedy = _failure(tree, f"{host}/other/digits", names)
        assert code == "E636"
        assert f"log in to {host} as a user who may push there, or set another path in `image.registry`" in remedy
        assert _pushed(tree, f"{host}/team/digits", names).digest is not None


def test_a_registry_that_is_not_there_is_named(tree: Path, tmp_path: Path, names: list[str]) -> None:
    host = f"127.0.0.1:{free_port()}"
    code, remedy = _failure(tree, f"{host}/digits", names)
    assert code == "E637"
    assert f"check that {host} is right in `image.registry`" in remedy
    with registry(tmp_path / "registry") as right:
        assert _pushed(tree, f"{right}/digits", names).digest is not None
