"""Saves a model in PyTorch's formats and as ONNX: `python torch_files.py resnet-50|bert-base|gpt-2 FOLDER`.

Random weights: the size of a file does not depend on its values. `build` and `example` are also what `timing.py` measures.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
)

SEQUENCE = 128
IMAGE = (3, 224, 224)
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "resnet-50": lambda: ResNetForImageClassification(ResNetConfig(num_labels=1000)),
    "bert-base": lambda: BertModel(BertConfig()),
    "gpt-2": lambda: GPT2LMHeadModel(GPT2Config(use_cache=False)),
}


class FirstOutput(torch.nn.Module):
    """The model with one tensor in and its first output out, which all formats can express."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = MODELS[name]()
        self.images = name == "resnet-50"

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Its first output."""
        named = {"pixel_values": values} if self.images else {"input_ids": values}
        found: torch.Tensor = self.model(**named, return_dict=False)[0]
        return found


def build(name: str) -> FirstOutput:
    return FirstOutput(name).eval()


def example(name: str, rows: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Images with values around 0, or token ids."""
    draw = np.random.default_rng(seed)
    if name == "resnet-50":
        return draw.standard_normal((rows, *IMAGE), np.float32)
    return draw.integers(0, 30000, (rows, SEQUENCE))


class Calibration(CalibrationDataReader):
    """Sixteen random rows, one after the other."""

    def __init__(self, name: str) -> None:
        self._rows = iter([{"values": example(name, 1, seed)} for seed in range(16)])

    def get_next(self) -> dict[str, Any] | None:
        """The next inputs by name; None after the last."""
        return next(self._rows, None)


def save(name: str, folder: Path) -> None:
    """All files of one model, each in a folder of its own."""
    for each in ("state-dict", "whole", "torchscript", "onnx", "int8"):
        (folder / each).mkdir(parents=True, exist_ok=True)
    model, values = build(name), torch.from_numpy(example(name, 2))
    torch.save(model.model.state_dict(), folder / "state-dict" / "model.pt")
    torch.save(model.model, folder / "whole" / "model.pt")
    with torch.inference_mode():
        traced = torch.jit.trace(model, values, strict=False)
        torch.jit.save(traced, folder / "torchscript" / "model.pt")
        torch.onnx.export(
            model,
            (values,),
            folder / "onnx" / "model.onnx",
            input_names=["values"],
            output_names=["output"],
            dynamic_shapes={"values": {0: torch.export.Dim("batch", min=1, max=64)}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    source, quantized = folder / "onnx" / "model.onnx", folder / "int8" / "model.onnx"
    if name == "resnet-50":
        prepared = folder / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(quantized),
            Calibration(name),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        prepared.unlink()
    else:
        quantize_dynamic(str(source), str(quantized), per_channel=True, weight_type=QuantType.QInt8)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # TorchScript and the quantizer warn of what is known here
    save(sys.argv[1], Path(sys.argv[2]))
