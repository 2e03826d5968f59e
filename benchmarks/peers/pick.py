"""mlo's pick: what a real `mlo apply` with a search puts into a folder, opened as mlo's server opens it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from accuracy import MIN_COSINE
from by_hand import THREADS, Call
from networks import Array, Inputs, Network

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

_MODELS = {
    "resnet50": """\
  source: {kind: pytorch, weights: resnet50.safetensors, factory: networks:resnet50}
  inputs: [{name: image, dtype: float32, shape: [1, 3, 224, 224]}]
  outputs: [{name: logits, shape: [1, 1000]}]
  samples: samples.npz
""",
    "minilm": """\
  source: {kind: transformers, weights: model}
  dims: {batch: {min: 1, max: 1}, sequence: {min: 2, max: 128}}
  samples: samples.npz
""",
}
SPEC = """\
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {{name: {name}}}
model:
{model}\
optimize: {{formats: [onnx], precisions: [fp32, int8], time_budget: {budget}, search: true}}
verify:  # int8 by the limit that all candidates have, and by no other
  min_row_cosine: {{int8: {cosine}}}
  min_cosine: {{int8: {cosine}}}
  max_abs_error: {{int8: 1000}}
  min_top1_agreement: 0
benchmark: {{batch_sizes: [1]}}
hardware: {{cpus: 2, memory: 4Gi}}
slo: {{enforce: false}}
optimize_for: latency
deploy: {{target: folder, path: {path}}}
"""
BUDGET = "PEERBENCH_BUDGET"
"""The environment variable with the time budget of the search."""


def make_pick(network: Network, folder: Path) -> None:
    """Apply the spec, with an empty store."""
    shutil.copy(HERE / "networks.py", network.folder)
    spec = network.folder / "spec.yaml"
    text = SPEC.format(
        name=network.name,
        model=_MODELS[network.name],
        budget=os.environ.get(BUDGET, "5m"),
        cosine=MIN_COSINE[network.name],
        path=folder / "served",
    )
    spec.write_text(text, encoding="utf-8")
    environment = {**os.environ, "MLO_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "orchestrator.cli", "apply", "--yes", "--json", str(spec)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    (folder / "apply.json").write_text(done.stdout, encoding="utf-8")
    if done.returncode:
        sys.exit(f"mlo apply ended with {done.returncode}; what it said is above, and in {folder / 'apply.json'}")


def open_pick(network: Network, folder: Path) -> Call:
    """The model by the server's own code and settings, without a wire."""
    sys.path.insert(0, str(ROOT))
    from orchestrator.server.config import load_config  # noqa: PLC0415 - only where the repository is on the path
    from orchestrator.server.session import open_model  # noqa: PLC0415

    config = load_config(server_json(folder))
    model = open_model(config, None, config.threads or THREADS, [1])

    def call(inputs: Inputs) -> Array:
        answer: Array = model.run(inputs)[network.output]
        return answer

    return call


def server_json(folder: Path) -> Path:
    """The settings of the server that the folder is for."""
    return folder / "served" / "current" / "server.json"
