"""The image of the front, built by the real engine where Debian's packages cannot be had."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.containers.engine import connected
from orchestrator.errors import DeployFailed
from orchestrator.targets.docker.front_image import FrontImages
from tests.e2e.docker_engine import BASE, ON_ENGINE
from tests.e2e.images_case import docker

pytestmark = [*ON_ENGINE, pytest.mark.timeout(120)]

_NO_PACKAGES = "RUN printf '#!/bin/sh\\necho no way to any package; exit 100\\n' >/usr/bin/apt-get"
_PROGRAMS = "RUN for name in haproxy socat; do cp /bin/true /usr/bin/$name; done"


@pytest.fixture
def api() -> Iterator[Any]:
    with connected(120.0) as client:
        yield cast("Any", client.api)


def _base(folder: Path, *instructions: str) -> str:
    """An image without a way to Debian's packages."""
    name = f"images-test/front-base:{uuid.uuid4().hex[:12]}"
    (folder / "Dockerfile").write_text("\n".join((f"FROM {BASE}", _NO_PACKAGES, *instructions, "")))
    docker("build", "--quiet", "--tag", name, str(folder))
    return name


def test_a_base_with_its_programs_needs_no_packages(api: Any, tmp_path: Path) -> None:
    base, said = _base(tmp_path, _PROGRAMS), list[str]()
    built = ""
    try:
        built = FrontImages(api).on(base, said.append)
        assert docker("run", "--rm", "--entrypoint", "id", built, "-u") == "65532"
        assert len(said) == 1
        assert FrontImages(api).on(base, said.append) == built
        assert len(said) == 1, "the engine has it by now"
    finally:
        docker("rmi", "--force", *([built] if built else []), base)


def test_without_packages_and_programs_it_is_said_what_to_do(api: Any, tmp_path: Path) -> None:
    base = _base(tmp_path)
    try:
        with pytest.raises(DeployFailed) as failed:
            FrontImages(api).on(base, lambda _: None)
    finally:
        docker("rmi", "--force", base)
    said = failed.value.diagnostics[0]
    assert said.code == "E645"
    assert f"packages on {base}, with another network in `image: {{build: {{network: ...}}}}`" in said.remedy
    assert "or name an `image: {base: ...}` that has haproxy and socat" in said.remedy
    assert "no way to any package" in said.notes
    named, built = _base(tmp_path, _PROGRAMS), ""
    try:
        built = FrontImages(api).on(named, lambda _: None)
    finally:
        docker("rmi", "--force", *([built] if built else []), named)


def test_its_build_has_the_network_of_the_spec_and_the_proxies_of_dockers_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tells = "RUN printf '#!/bin/sh\\necho networks: $(ls /sys/class/net), proxy: $http_proxy; exit 100\\n' >/usr/bin/apt-get"
    base = _base(tmp_path, tells)
    (tmp_path / "config.json").write_text('{"proxies": {"default": {"httpProxy": "http://proxy.example.com:3128"}}}')
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    try:
        with connected(120.0) as client:
            for network, seen in (("none", "lo"), (None, "eth0 lo")):
                with pytest.raises(DeployFailed) as failed:
                    FrontImages(client.api, network).on(base, lambda _: None)
                notes = failed.value.diagnostics[0].notes
                assert f"networks: {seen}, proxy: http://proxy.example.com:3128" in notes
    finally:
        monkeypatch.undo()
        docker("rmi", "--force", base)
