"""What the tests of images share: the real engine, trees that were rendered, and containers run as they are deployed."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.backends.table import serving_backend
from orchestrator.backends.versions import installed_closure
from orchestrator.images.build import build_image
from orchestrator.images.settings import BuildSettings
from orchestrator.images.wheels import hashes_in_folder
from orchestrator.store.state import Image
from tests.render.conftest import renders_in

__all__ = [
    "ask",
    "built",
    "docker",
    "engine_platform",
    "no_container_runs",
    "onnx_model",
    "rendered",
    "require_engine",
    "running",
    "torchserve_image",
    "until_ready",
]

Render = Callable[..., Path]
REPOSITORY = "images-test/doubling"


def docker(*argv: str, seconds: int = 120) -> str:
    done = subprocess.run(["docker", *argv], capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, f"docker {' '.join(argv)}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def require_engine() -> None:
    if shutil.which("docker") is None:
        pytest.skip("no docker is on the PATH: images are not built")
    if subprocess.run(["docker", "version"], capture_output=True, timeout=60, check=False).returncode != 0:
        pytest.skip("no Docker Engine answers: images are not built")


def engine_platform() -> str:
    """What the engine runs, as images name it."""
    return docker("version", "--format", "{{.Server.Os}}/{{.Server.Arch}}")


def onnx_model(factor: int = 2) -> bytes:
    """y = x + x, or more of them."""
    import onnx
    from onnx import TensorProto, helper

    def tensor(name: str) -> object:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3])

    names = ["x", *(f"y{n}" for n in range(2, factor)), "y"]
    nodes = [helper.make_node("Add", [before, "x"], [after]) for before, after in itertools.pairwise(names)]
    graph = helper.make_graph(nodes, "times", [tensor("x")], [tensor("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def rendered(render_to: Render, folder: str = "rendered", **changes: Any) -> Path:
    """The tree of an ONNX model with all packages at their installed versions."""
    given: dict[str, Any] = {
        "model": onnx_model(),
        "tools": installed_closure(serving_backend("onnxruntime").tools),
        "registry": None,
        "memory": 2**30,
        "platform": engine_platform(),
    }
    return render_to("onnxruntime", folder, **(given | changes))


def built(tree: Path, evidence: Path, said: list[str] | None = None, **settings: Any) -> Image:
    """The image of a tree; what the build says is added to `said`."""
    lines: list[str] = [] if said is None else said
    return build_image(tree, BuildSettings(**({"repository": REPOSITORY} | settings)), evidence, lines.append)


@contextlib.contextmanager
def torchserve_image(place: Path, wheelhouse: Path) -> Iterator[tuple[Path, Image, Path]]:
    """The tree of a model that doubles, its image for the block, and what is known of it; an image of another model only adds the last layer.

    Args:
        place: an empty folder.
        wheelhouse: with the packages.
    """
    import torch

    class Double(torch.nn.Module):  # type: ignore[misc] # torch has no types here
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        torch.jit.save(torch.jit.script(Double()), place / "model.pt")
    tools = installed_closure(serving_backend("torchserve").tools)
    tree = renders_in(place)(
        "torchserve",
        model=(place / "model.pt").read_bytes(),
        tools=tools,
        registry=None,
        wheels=True,
        hashes=hashes_in_folder([f"{name}=={version}" for name, version in tools.items()], wheelhouse),
        platform=engine_platform(),
    )
    image = built(tree, place / "images", repository="images-test/torchserve", wheelhouse=wheelhouse)
    try:
        yield tree, image, place / "images"
    finally:
        docker("rmi", "--force", image.name)


@contextlib.contextmanager
def running(image: str, tree: Path, port: int, user: str = "") -> Iterator[tuple[str, int]]:
    """A container as the compose file runs it, and the port on loopback that leads to `port`."""
    service = yaml.safe_load((tree / "compose.yaml").read_text())["services"]["model"]
    name = docker(
        "run", "--detach", "--read-only", "--tmpfs", service["tmpfs"][0], "--cap-drop", "ALL",
        "--security-opt", "no-new-privileges:true", "--memory", str(service["mem_limit"]),
        "--cpus", str(service["cpus"]), "--pids-limit", str(service["pids_limit"]),
        *(("--user", user) if user else ()), "--publish", f"127.0.0.1::{port}", image,
    )  # fmt: skip
    try:
        yield name, int(docker("port", name, f"{port}/tcp").partition("\n")[0].rpartition(":")[2])
    finally:
        docker("rm", "--force", name)


def until_ready(name: str, port: int, path: str, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while ask(port, "GET", path)[0] != 200:
        assert time.monotonic() < until, docker("logs", name)
        time.sleep(0.2)


def ask(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """Status and body; status 0 while nothing answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (ConnectionError, http.client.HTTPException):
            return 0, b""


def no_container_runs(marker: str, seconds: float = 30) -> None:
    """Fail unless the containers whose command has this text are removed within that time."""
    until = time.monotonic() + seconds
    while marker in (left := docker("ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.Command}}")):
        assert time.monotonic() < until, left
        time.sleep(0.2)
