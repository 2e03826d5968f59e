"""Olive: the workflows of its examples for BERT and ResNet on a CPU, with its own tuning of the session.

Sources: Olive's "BERT optimization with PTQ on CPU" (conversion, transformer optimization, quantization, tuning), and the manual of
its passes. What a workflow makes, and the settings that it found, is in `model_config.json` beside the file.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from by_hand import FILE, FUSED_OPSET, FUSED_TYPES, THREADS, Call, fusions, onnx_call
from networks import Network, network

WHICH = "PEERBENCH_NETWORK"
"""The environment variable by which Olive's own loading of this file finds the network: NAME:FOLDER."""


def load_module(model_path: str | None = None) -> torch.nn.Module:  # noqa: ARG001 - Olive gives it
    """For Olive: the network; a transformer with attention in single steps, of which alone it can fuse any."""
    return _which().module(attention="eager")


class Calibration(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """For Olive: the rows for calibration, each with a label that is not read."""

    def __init__(self) -> None:
        self._rows = _which().calibration()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], int]:
        return {name: array[0] for name, array in self._rows[index].items()}, 0


def _which() -> Network:
    name, _, folder = os.environ[WHICH].partition(":")
    return network(name, Path(folder))


def make_fp32(network: Network, folder: Path) -> str:
    """Convert, for a transformer fuse, and tune."""
    return _run(network, folder, {})


def make_dynamic(network: Network, folder: Path) -> str:
    """The same with dynamic int8; without the types, its run ends with no model."""
    kind = {"type": "OnnxDynamicQuantization", "precision": "int8", "extra_options": FUSED_TYPES}
    return _run(network, folder, {"quantization": kind})


def make_static(network: Network, folder: Path) -> str:
    """The same with static int8, with the types that Olive chooses."""
    return _run(network, folder, {"quantization": {"type": "OnnxStaticQuantization", "data_config": "rows"}})


def make_static_unsigned(network: Network, folder: Path) -> str:
    """The same with unsigned activations, for which x86 has the fast instructions."""
    types = {"activation_type": "uint8", "precision": "int8", "per_channel": True}
    return _run(network, folder, {"quantization": {"type": "OnnxStaticQuantization", "data_config": "rows", **types}})


def _run(network: Network, folder: Path, quantization: dict[str, Any]) -> str:
    from olive.workflows import run  # noqa: PLC0415 - takes seconds

    os.environ[WHICH] = f"{network.name}:{network.folder}"
    script = str(Path(__file__).resolve())
    example = network.asked()[-1]
    shapes = {name: list(example[name].shape) for name in network.inputs}
    transformer = network.name == "minilm"
    fuse = {"fuse": {"type": "OrtTransformersOptimization", "model_type": "bert", "num_heads": 12, "hidden_size": 384}}
    config = {
        "input_model": {
            "type": "PyTorchModel",
            "model_loader": "load_module",
            "model_script": script,
            "io_config": {
                "input_names": list(network.inputs),
                "input_shapes": list(shapes.values()),
                "input_types": [str(example[name].dtype) for name in network.inputs],
                "output_names": [network.output],
                **({"dynamic_axes": {name: {"1": "tokens"} for name in network.inputs}} if transformer else {}),
            },
        },
        "systems": {
            "here": {
                "type": "LocalSystem",
                "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
            }
        },
        "data_configs": [
            {
                "name": "rows",
                "type": "DataContainer",
                "user_script": script,
                "load_dataset_config": {"type": "calibration"},
                "dataloader_config": {"batch_size": 1},
            }
        ],
        "passes": {
            "conversion": {"type": "OnnxConversion", **({"target_opset": FUSED_OPSET} if transformer else {})},
            **(fuse if transformer else {"peephole": {"type": "OnnxPeepholeOptimizer"}}),
            **quantization,
            "tuning": {"type": "OrtSessionParamsTuning", "data_config": "rows", "cpu_cores": THREADS},
        },
        "host": "here",
        "target": "here",
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "output"),
        "log_severity_level": 2,
    }
    run(config)
    if not (folder / "output" / "model_config.json").is_file():
        raise RuntimeError("Olive made no model; the first failed pass in its log says why")
    found = json.loads((folder / "output" / "model_config.json").read_text(encoding="utf-8"))["config"]
    model = Path(found["model_path"])
    if model.is_dir():
        model /= found.get("onnx_file_name") or FILE
    model.rename(folder / FILE)
    (folder / "settings.json").write_text(json.dumps(found.get("inference_settings") or {}, indent=1), encoding="utf-8")
    for each in ("cache", "output"):
        shutil.rmtree(folder / each)
    return fusions(folder / FILE) if transformer else ""


def open_tuned(network: Network, folder: Path) -> Call:
    """The file in ONNX Runtime with the settings that Olive found."""
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    found = settings.get("session_options") or {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = found.get("intra_op_num_threads") or THREADS
    if (level := found.get("graph_optimization_level")) is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel(level)
    if found.get("execution_mode"):
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
        options.inter_op_num_threads = found.get("inter_op_num_threads") or 0
    for key, value in (found.get("extra_session_config") or {}).items():
        options.add_session_config_entry(key, str(value))
    return onnx_call(network, folder / FILE, options)


if os.environ.get(WHICH):
    from olive.data.registry import Registry

    @Registry.register_dataset("calibration")
    def calibration(**_: Any) -> Calibration:
        """For Olive, which looks datasets up by name."""
        return Calibration()
