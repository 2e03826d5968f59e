"""The real servers under the real supervisor: deployed, proven by golden requests, replaced, ended without a trace."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from orchestrator.backends.backend import ServingSettings
from orchestrator.backends.table import serving_backend
from orchestrator.release.golden import check_golden
from orchestrator.spec.signature import Signature, Tensor
from orchestrator.targets.client import infer
from orchestrator.targets.local.target import LocalTarget
from orchestrator.targets.target import Release
from tests.artifacts.made import imported as imported_model

pytestmark = [pytest.mark.frameworks, pytest.mark.e2e]

Eventually = Callable[[Callable[[], bool]], None]

_SIGNATURE = Signature(
    (Tensor("x", "float32", ("batch", 3)),), (Tensor("y", "float32", ("batch", 3)),), {"batch": (1, 8)}, "batch"
)
_SCRIPT = """
import sys, torch
class Times(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor))
    def forward(self, x):
        return x * self.factor
torch.jit.trace(Times(float(sys.argv[1])).eval(), torch.ones(2, 3)).save(sys.argv[2])
"""


def _variant(folder: Path, form: str, factor: float) -> Path:
    """A model that multiplies by `factor`."""
    folder.mkdir(parents=True)
    if form == "torchscript":
        command = [sys.executable, "-W", "ignore", "-c", _SCRIPT, str(factor), str(folder / "model.pt")]
        subprocess.run(command, check=True, timeout=120)
        return folder
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "times",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.array([factor], np.float32), "factor")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(folder / "model.onnx"))
    return folder


def _serving(root: Path, name: str, form: str, factor: float) -> Path:
    settings = ServingSettings(
        name="times",
        backend=name,
        variant=f"{form}-fp32",
        format=form,
        precision="fp32",
        signature=_SIGNATURE,
        cpus=1.0,
        memory=2**30,
        max_batch_size=8,
        max_delay=0.0,
        startup_seconds=120,
        drain_seconds=5,
        model_digest="0" * 64,
        decision_digest="2" * 64,
        tools={},
    )
    folder = root / f"serving-{factor}"
    folder.mkdir()
    serving_backend(name).write_folder(settings, _variant(root / f"variant-{factor}", form, factor), folder)
    return folder


def _imported(folder: Path, factor: float) -> Path:
    folder.mkdir()
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    np.savez(folder / "samples.npz", x=x)
    np.savez(folder / "baseline.npz", y=x * np.float32(factor))
    imported_model(_SIGNATURE, samples="random").write(folder)
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Iterator[LocalTarget]:
    made = LocalTarget(tmp_path / "deployments" / "times")
    yield made
    made.stop()


@pytest.mark.parametrize(("name", "form"), [("onnxruntime", "onnx"), ("torchserve", "torchscript")])
def test_a_real_server_is_deployed_proven_and_replaced(
    name: str, form: str, target: LocalTarget, tmp_path: Path, eventually: Eventually
) -> None:
    server = serving_backend(name)
    missing = server.unavailable()
    if missing is not None:
        pytest.skip(missing.reason)
    endpoint = target.prepare()
    x = np.ones((1, 3), np.float32)
    live = None
    for revision, factor in ((1, 2.0), (2, 3.0)):
        serving = _serving(tmp_path, name, form, factor)
        live = Release(revision, serving, name, "times", 1, 120)
        started = target.start(live)
        assert started.url is not None
        report = check_golden(
            started.url,
            server,
            "times",
            _imported(tmp_path / f"import-{revision}", factor),
            {},
            precision="fp32",
        )
        assert report.rows == 20
        target.switch(revision)
        np.testing.assert_allclose(infer(endpoint, server, "times", {"x": x}, signature=_SIGNATURE)["y"], x * factor)
    observed = target.observe()
    assert (observed.health, observed.revision, observed.backend) == ("healthy", 2, name)

    supervisor = psutil.Process(int((tmp_path / "deployments" / "times" / "supervisor.lock").read_text()))
    eventually(lambda: len(supervisor.children()) == 1)  # the former revision is gone
    family = supervisor.children(recursive=True)
    supervisor.kill()
    _, left = psutil.wait_procs([supervisor, *family], timeout=30)
    assert left == []
    assert target.observe().health == "stopped"
    assert target.prepare(live) == endpoint
    eventually(
        lambda: target.observe().health == "healthy"
    )  # a request waits 10 s, TorchServe may take longer to start
    np.testing.assert_allclose(
        infer(endpoint, server, "times", {"x": x}, signature=_SIGNATURE, timeout=60)["y"], x * 3.0
    )
