"""Every runtime computes on the requested GPU or fails; none silently uses the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts.imported import Imported
from orchestrator.artifacts.runtime_report import RuntimeReport
from orchestrator.artifacts.server_report import ServerReport
from orchestrator.measure import runtime_benchmark, server_benchmark
from orchestrator.server.config import load_config
from orchestrator.steps.context import StepContext, StepError
from orchestrator.verify.step import verify
from tests.frameworks.verify_case import verify_params
from tests.measure.fake_gpus import write_gpus
from tests.measure.real_case import (
    DIGITS,
    SIGNATURE,
    candidate,
    step_context,
    write_import,
    write_linear_model,
    write_verdict,
)
from tests.optimize.select_case import runtime_candidate, runtime_report
from tests.server.conftest import add_model

pytestmark = pytest.mark.frameworks

VARIANT = "folder / 'variant', signature, 1"
MODEL = "SourceParameters({kind!r}), {{'weights': folder / 'variant' / 'model.onnx'}}, folder, signature, 1"
OPENED = {
    "onnxruntime": "onnx.runtime:open_onnx",
    "torchscript": "pytorch.runtime:open_torchscript",
    "exported-program": "pytorch.runtime:open_exported_program",
    "saved-model": "tensorflow.runtime:open_saved_model",
}
BASELINES = {
    "torch": "pytorch.source:open_baseline",
    "keras": "tensorflow.keras_source:open_baseline",
    "saved-model": "tensorflow.saved_model_source:open_baseline",
    "onnx": "onnx.source:open_baseline",
    "tflite": "litert.source:open_baseline",
}
SCRIPT = """
import importlib, json
from pathlib import Path
from orchestrator.spec.signature import Signature
from orchestrator.steps.context import StepError
from orchestrator.steps.parameters import SourceParameters
signature = Signature.from_json(json.loads({signature!r}))
folder = Path({folder!r})
def refusal(module, function, *arguments):
    call = getattr(importlib.import_module("orchestrator.frameworks." + module), function)
    try:
        call(*arguments, accelerator="cuda")
    except StepError as error:
        return [error.code, error.message, error.cause, list(error.at)]
print(json.dumps({calls}))
"""
Refusals = Callable[[str, str], list[Any]]


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> Refusals:
    """What an opener says of these arguments; all openers of a framework in one process, as frameworks are kept apart."""
    folder = tmp_path_factory.mktemp("accelerators")
    write_linear_model(folder / "variant")
    openings = [(opener, VARIANT) for opener in OPENED.values()]
    openings += [(opener, MODEL.format(kind=kind)) for kind, opener in BASELINES.items()]
    said: dict[tuple[str, str], list[Any] | None] = {}

    def refusal(opener: str, arguments: str) -> list[Any]:
        framework = opener.partition(".")[0]
        if (opener, arguments) not in said:
            together = [each for each in openings if each[0].startswith(f"{framework}.")]
            calls = ", ".join("refusal({!r}, {!r}, {})".format(*o.split(":"), a) for o, a in together)
            script = SCRIPT.format(calls=f"[{calls}]", folder=str(folder), signature=json.dumps(SIGNATURE.as_json()))
            done = subprocess.run(
                [sys.executable, "-c", script], capture_output=True, text=True, timeout=200, check=True
            )
            said.update(zip(together, json.loads(done.stdout.splitlines()[-1]), strict=True))
        found = said[opener, arguments]
        if found is None:
            pytest.skip("this machine has a GPU that the runtime uses")
        return found

    return refusal


@pytest.mark.parametrize("format_name", OPENED)
def test_a_variant_is_not_opened_on_the_cpu_if_a_gpu_is_requested(refusals: Refusals, format_name: str) -> None:
    code, message, cause, at = refusals(OPENED[format_name], VARIANT)
    assert code == "E427"
    assert message.endswith("does not use the GPU that the spec asks for")
    assert cause
    assert at == ["hardware", "accelerator"]


@pytest.mark.parametrize("kind", BASELINES)
def test_the_original_model_is_not_opened_on_the_cpu_if_a_gpu_is_requested(refusals: Refusals, kind: str) -> None:
    assert refusals(BASELINES[kind], MODEL.format(kind=kind))[0] == "E427"


def test_measured_models_are_opened_on_the_same_device_as_served_ones(tmp_path: Path) -> None:
    from orchestrator.frameworks.onnx.runtime import CUDA_OPTIONS
    from orchestrator.server.onnxruntime_session import provider_options

    config = add_model(tmp_path, provider="CUDAExecutionProvider", devices=[0])
    served = provider_options(load_config(config), 0)
    assert served.pop("enable_cuda_graph") == "0"
    assert served == CUDA_OPTIONS


def test_on_a_machine_without_gpus_nothing_is_verified_for_them(tmp_path: Path) -> None:
    imported = write_import(tmp_path / "import")
    (imported / "baseline.npz").write_bytes((imported / "samples.npz").read_bytes())
    (tmp_path / "output").mkdir()
    context = StepContext(
        params=verify_params(Imported.read(imported).signature, "onnx", "fp32", accelerator="cuda"),
        inputs={"import": imported, "variant": write_linear_model(tmp_path / "variant")},
        output=tmp_path / "output",
        scratch=tmp_path,
        project=tmp_path,
    )
    with pytest.raises(StepError, match="does not use the GPU") as raised:
        verify(context)
    assert raised.value.code == "E427"


def test_on_a_machine_without_gpus_nothing_is_measured_and_the_report_says_why(tmp_path: Path) -> None:
    inputs = {
        "import": write_import(tmp_path / "import"),
        "weights": DIGITS / "digits.safetensors",
        "variant:onnx-fp32": write_linear_model(tmp_path / "fp32"),
        "verdict:onnx-fp32": write_verdict(tmp_path / "verdict", passed=True),
    }
    measured = step_context(tmp_path / "runtime", inputs, [candidate("onnx-fp32")], accelerator="cuda")
    runtime_benchmark.benchmark(measured)
    report = RuntimeReport.read(measured.output).as_json()
    for row in (report["baseline"], *report["candidates"]):
        assert row["fate"] == "failed"
        assert "does not use the GPU that the spec asks for" in row["reason"]
    assert report["measured_on"]["accelerators"] is not None


def test_a_server_that_gets_no_gpu_is_a_fate_with_its_reason(tmp_path: Path) -> None:
    inputs = {
        "import": write_import(tmp_path / "import"),
        "variant:onnx-fp32": write_linear_model(tmp_path / "fp32"),
        "verdict:onnx-fp32": write_verdict(tmp_path / "verdict", passed=True),
        "runtime": tmp_path / "measured",
    }
    context = step_context(
        tmp_path / "step", inputs, [candidate("onnx-fp32")], accelerator="cuda", devices=2, cuda_graphs=False
    )
    inputs["runtime"].mkdir()
    runtime_report([runtime_candidate("onnx-fp32", ratio=0.5, spread=0.01)]).write(inputs["runtime"])
    server_benchmark.benchmark(context)
    (found,) = ServerReport.read(context.output).candidates
    assert found.fate == "failed"
    assert "lacks CUDAExecutionProvider" in found.reason


def test_a_step_that_uses_gpus_sees_those_that_this_process_may_use(tmp_path: Path) -> None:
    from orchestrator.machine.cuda_devices import cuda_devices

    root = write_gpus(tmp_path, ["NVIDIA A10G"] * 3)
    assert cuda_devices(root, {}).choice == "0,1,2"
    assert cuda_devices(root, {"CUDA_VISIBLE_DEVICES": "2"}).choice == "2"
