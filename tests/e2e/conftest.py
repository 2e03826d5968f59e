"""Runs the real command line in a folder of its own, and takes its deployments down afterwards."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.table import serving_backend
from orchestrator.backends.versions import cpu_indexes, installed_closure
from orchestrator.images.settings import BuildSettings
from orchestrator.images.wheels import fetch_wheels
from orchestrator.store.atomic import canonical_json
from orchestrator.store.digest import sha256_bytes
from orchestrator.store.state import Image
from tests.e2e.docker_engine import Engine, engine, front_kept, stand_in_server
from tests.e2e.images_case import require_engine, torchserve_image
from tests.render.conftest import render_to

__all__ = ["DIGITS", "ROOT", "Mlo", "mlo", "render_to", "torchserve_spec"]

_NUMBERS = itertools.count()

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "specs" / "digits"


@dataclass(frozen=True)
class Mlo:
    """The command line, run in `folder` with its store in `folder/home`."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "MLO_HOME": str(self.folder / "home"), "NO_COLOR": "1"}

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "orchestrator.cli", *arguments],
            cwd=self.folder,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0, timeout: float = 280, **env: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **env)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.terminate()  # it would go on with what the next test finds
            out, err = process.communicate(timeout=60)
            pytest.fail(f"it has not ended within {timeout:g} s\n{out}\n{err}")
        assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, code=code).stdout)


@pytest.fixture(scope="session")
def wheelhouse(pytestconfig: pytest.Config) -> Path:
    """The wheels of TorchServe's image, fetched by this machine's pip: a build does not reach every index that pip does.

    They are kept in pytest's cache, so that only the first of the tests that build the image fetches them.
    """
    pins = installed_closure(serving_backend("torchserve").tools)
    named = sha256_bytes(canonical_json(dict(pins)))[:16]
    folder: Path = pytestconfig.cache.mkdir("wheelhouse") / named
    if not folder.is_dir():
        part = folder.with_name(f"{named}-{os.getpid()}")
        part.mkdir()
        wanted = part.with_suffix(".txt")
        lines = [f"--extra-index-url {index}" for index in cpu_indexes(pins)]
        text = "\n".join([*lines, *(f"{name}=={version}" for name, version in pins.items())])
        wanted.write_text(text, encoding="utf-8")
        fetch_wheels(wanted, BuildSettings("torchserve", wheelhouse=part), "linux/amd64", part)
        wanted.unlink()
        part.rename(folder)
    return folder


def torchserve_spec(mlo: Mlo, name: str, deploy: str, wheelhouse: Path) -> Path:
    """The digits as an archive for TorchServe, with one candidate, so that deploying is what takes the time."""
    for each in ("digits", "archives"):
        if not (mlo.folder / each).exists():
            shutil.copytree(ROOT / "specs" / each, mlo.folder / each)
    subprocess.run([sys.executable, mlo.folder / "archives" / "make.py"], check=True, timeout=120)
    file = mlo.folder / "archives" / "torchscript.yaml"
    text = file.read_text(encoding="utf-8").replace("name: digits-script", f"name: {name}")
    text = text.replace("throughput: 200/s}", "throughput: 100/s, enforce: false}")
    text = text.replace("  time_budget: 5m", "  precisions: [fp32]\n  formats: [torchscript]\n  time_budget: 1m")
    text = text.replace("deploy: {target: local}", f"deploy: {deploy}")
    image = f"image: {{build: {{wheelhouse: {wheelhouse}}}}}\n"
    file.write_text(f"{text}serving: {{backend: torchserve}}\n{image}", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def mlo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mlo]:
    failed = request.session.testsfailed
    runner = Mlo(tmp_path_factory.mktemp("mlo"))
    yield runner
    for deployment in json.loads(runner.start("status", "--json").communicate(timeout=60)[0] or '{"deployments": []}')[
        "deployments"
    ]:
        runner.run("destroy", deployment["name"], "--yes")
    # All stores of a run together are gigabytes; where a test failed, its logs are in one.
    if request.session.testsfailed == failed:
        shutil.rmtree(runner.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def stand_in() -> Iterator[str]:
    """The image of the server that stands in for a model's, built once."""
    with stand_in_server() as image:
        yield image


@pytest.fixture(scope="session")
def torchserve(tmp_path_factory: pytest.TempPathFactory, wheelhouse: Path) -> Iterator[tuple[Path, Image, Path]]:
    """An image of TorchServe, which the engine has until the last test has ended: the layers below the model are built once."""
    require_engine()
    with torchserve_image(tmp_path_factory.mktemp("torchserve"), wheelhouse) as made:
        yield made


@pytest.fixture(scope="session")
def front() -> Iterator[None]:
    """The front's image, which the engine has until the last test has ended."""
    with front_kept():
        yield


@pytest.fixture
def here(tmp_path: Path, stand_in: str, front: None) -> Iterator[Engine]:
    """A deployment at the engine under a name of its own, of which nothing is left after the test."""
    with engine(f"docker-test-{os.getpid()}-{next(_NUMBERS)}", tmp_path, stand_in) as there:
        yield there
