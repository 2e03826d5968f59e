"""Each rendered value says where it comes from, and is the one that is in the files."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from orchestrator.backends.table import BACKENDS, serving_backend
from orchestrator.cli.rendered_text import RENDERED, rendered_values
from orchestrator.select.step import select
from orchestrator.spec.load import LoadedSpec, load_spec
from tests.optimize.select_case import candidate, context, runtime_candidate, server_candidate

if TYPE_CHECKING:
    from conftest import Render

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Done:
    """What is asked of a plan whose steps have run."""

    loaded: LoadedSpec
    folders: dict[str, Path]

    def output(self, store: Any, step: str) -> Path | None:
        del store
        return self.folders.get(step)


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedSpec:
    for file in (ROOT / "specs" / "digits").glob("digits*.*"):
        shutil.copy(file, tmp_path)
    return load_spec(tmp_path / "digits.yaml")


def test_the_values_are_those_in_the_files_with_their_reasons(
    tmp_path: Path, loaded: LoadedSpec, render_to: Render
) -> None:
    made = context(
        tmp_path / "case", [candidate("onnx-fp32")], [runtime_candidate("onnx-fp32")],
        [server_candidate("onnx-fp32", ready=25.0)],
    )  # fmt: skip
    select(made)
    rendered = render_to("onnxruntime")
    planned: Any = Done(loaded, {"select": made.output, "render": rendered})
    said = {name: " ".join(text.split()) for name, text in rendered_values(planned, planned).items()}
    assert set(said) == set(RENDERED) - {"costPerMillion"}  # the spec has no price
    assert said["startupSeconds"].startswith(
        "startupSeconds = 120 three times the measured start of 25 s, at least 60 s"
    )
    assert said["memory"].startswith(
        "memory = request 128Mi, limit 2Gi the request is what its server needed under load, "
    )
    assert "100 MiB, and 25 %, rounded up to 64, 96, 128" in said["memory"]
    assert said["memory"].endswith("digits.yaml line 33")
    assert said["cpu"].startswith(
        "cpu = request 1.5, limit 2 the request is what its server used at saturation with what"
    )
    assert said["requestSeconds"].startswith("requestSeconds = 30 s how long a stopping server waits")
    assert "three times the longest measured, 0.05 s" in said["requestSeconds"]
    assert said["targetCpuPercent"].startswith(
        "targetCpuPercent = 20 % of the CPU request at the knee, 400/s (p99 8ms of 20ms), its server used 0.4 CPUs"
    )
    assert said["maxBatchSize"].startswith("maxBatchSize = 8 rows `serving.batching: auto`: of 1 (500 rows/s)")
    assert said["maxDelay"].startswith("maxDelay = 0 `serving.batching: auto`: nobody waits")
    queue_rows = json.loads((rendered / "serving" / "server.json").read_text(encoding="utf-8"))["queue_rows"]
    assert said["queue"].startswith(f"queue = {queue_rows} rows ")
    assert said["replicas"] == "replicas = 1 to 1 `serving.replicas`, the default"


def test_nothing_is_said_of_what_is_not_rendered(tmp_path: Path, loaded: LoadedSpec) -> None:
    planned: Any = Done(loaded, {})
    assert rendered_values(planned, planned) == {}


@pytest.mark.parametrize("name", [name for name, row in BACKENDS.items() if row.served])
def test_the_queue_is_read_from_the_folder_that_is_served(render_to: Render, name: str) -> None:
    served_by = serving_backend(name)
    folder = render_to(name) / "serving"
    said = served_by.queue(folder, "digits")
    number, what = said.split()
    if name == "torchserve":
        configured = yaml.safe_load((folder / "model-store" / "digits" / "model-config.yaml").read_text("utf-8"))
        assert (int(number), what) == (configured["jobQueueSize"], "requests")
    elif name == "tensorflow-serving":
        assert f"value: {number}" in (folder / "batching.config").read_text("utf-8")
        assert what == "batches"
    else:
        assert (int(number), what) == (json.loads((folder / "server.json").read_text("utf-8"))["queue_rows"], "rows")
