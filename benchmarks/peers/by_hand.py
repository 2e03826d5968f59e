"""PyTorch's own ways and ONNX Runtime by hand: how each is made, as its manual says, and opened with two threads.

Sources: PyTorch's manual on `torch.jit.optimize_for_inference`, `torch.compile` and freezing in TorchInductor; ONNX Runtime's "Quantize
ONNX models" (pre-processing; dynamic for transformers, static with QDQ for convolutions; the types and `reduce_range` for x86) and
"Transformers Model Optimization Tool".
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from networks import Array, Inputs, Network
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

Call = Callable[[Inputs], Array]
THREADS = 2
FILE = "model.onnx"
FUSED_OPSET = 17
"""The last one for which the transformer optimizer fuses all of MiniLM: from 18 on, its shape inference stops at the masks."""
FUSED_TYPES = {"DefaultTensorType": onnx.TensorProto.FLOAT}
"""What the quantizer's error asks for where operators are fused, because ONNX infers no types behind them."""


def torch_call(module: Any, network: Network) -> Call:
    """Calls of a module or an archive."""

    def call(inputs: Inputs) -> Array:
        with torch.inference_mode():
            answer: Array = module(*(torch.from_numpy(inputs[name]) for name in network.inputs)).numpy()
            return answer

    return call


def open_eager(network: Network, folder: Path) -> Call:  # noqa: ARG001
    """The network itself."""
    return torch_call(network.module(), network)


def make_torchscript(network: Network, folder: Path) -> None:
    """Trace the network; what it is optimized to cannot be saved."""
    with torch.inference_mode():
        torch.jit.save(torch.jit.trace(network.module(), network.example()), folder / "model.pt")


def open_torchscript(network: Network, folder: Path) -> Call:
    """The archive, frozen and optimized."""
    archive = torch.jit.load(folder / "model.pt").eval()
    return torch_call(torch.jit.optimize_for_inference(torch.jit.freeze(archive)), network)


def make_compiled(network: Network, folder: Path) -> None:
    """Compile the network by calling it; the compiled code is kept."""
    call = _compiled(network, folder, freezing=False)
    for row in network.asked():
        call(row)


def open_compiled(network: Network, folder: Path) -> Call:
    """The network, with the compiled code that was kept."""
    return _compiled(network, folder, freezing=False)


def make_frozen(network: Network, folder: Path) -> None:
    """The same with weights as constants, which are arranged for the CPU."""
    call = _compiled(network, folder, freezing=True)
    for row in network.asked():
        call(row)


def open_frozen(network: Network, folder: Path) -> Call:
    """The same with weights as constants."""
    return _compiled(network, folder, freezing=True)


def _compiled(network: Network, folder: Path, *, freezing: bool) -> Call:
    import torch._inductor.config as inductor  # noqa: PLC0415 - takes seconds

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "code")
    inductor.freezing = freezing
    return torch_call(torch.compile(network.module()), network)


def export(network: Network, path: Path) -> None:
    """The network as ONNX, for calls of one row."""
    tokens = torch.export.Dim("tokens", min=2, max=512)
    dynamic = tuple({1: tokens} if network.name == "minilm" else None for _ in network.inputs)
    with torch.inference_mode():
        torch.onnx.export(
            network.module(),
            network.example(),
            path,
            input_names=list(network.inputs),
            output_names=[network.output],
            dynamic_shapes=dynamic,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def make_onnx(network: Network, folder: Path) -> None:
    """Export the network."""
    export(network, folder / FILE)


def make_fused(network: Network, folder: Path) -> str:
    """Export it, and fuse what a transformer consists of.

    The optimizer looks for the graphs that PyTorch's older exporter makes of attention in single steps: in those of the newer
    exporter, or of PyTorch's operator for attention, it finds none.
    """
    from onnxruntime.transformers import optimizer  # noqa: PLC0415 - for one of the two

    exported = folder / "exported.onnx"
    with torch.inference_mode():
        torch.onnx.export(
            network.module(attention="eager"),
            network.example(),
            exported,
            input_names=list(network.inputs),
            output_names=[network.output],
            dynamic_axes={name: {1: "tokens"} for name in network.inputs},
            opset_version=FUSED_OPSET,
            dynamo=False,
        )
    fused = optimizer.optimize_model(str(exported), model_type="bert", num_heads=12, hidden_size=384, opt_level=1)
    fused.save_model_to_file(str(folder / FILE))
    exported.unlink()
    return fusions(folder / FILE)


def fusions(path: Path) -> str:
    """What the transformer optimizer has fused in a file.

    Raises:
        RuntimeError: no attention, so that this is not the candidate that its title promises.
    """
    found = Counter(
        node.op_type.removeprefix("Q")
        for node in onnx.load(path, load_external_data=False).graph.node
        if node.domain == "com.microsoft"
    )
    if not found["Attention"] + found["MultiHeadAttention"]:
        raise RuntimeError(f"the transformer optimizer fused no attention; it made {dict(found) or 'nothing'}")
    kinds = ("Attention", "MultiHeadAttention", "SkipLayerNormalization", "BiasGelu")
    return ", ".join(f"{found[each]} {each}" for each in kinds if found[each])


def make_dynamic(network: Network, folder: Path) -> str:
    """Fuse it, then quantize with ranges of every call."""
    return _dynamic(network, folder, reduce_range=False)


def make_dynamic_reduced(network: Network, folder: Path) -> str:
    """The same with weights of 7 bits, which do not saturate on AVX2."""
    return _dynamic(network, folder, reduce_range=True)


def _dynamic(network: Network, folder: Path, *, reduce_range: bool) -> str:
    make_fused(network, folder)
    (folder / FILE).rename(folder / "fused.onnx")
    quantize_dynamic(
        folder / "fused.onnx",
        folder / FILE,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=reduce_range,
        extra_options=FUSED_TYPES,
    )
    (folder / "fused.onnx").unlink()
    return fusions(folder / FILE)


def make_static(network: Network, folder: Path) -> None:
    """Quantize with calibrated ranges, U8S8."""
    _static(network, folder, reduce_range=False)


def make_static_reduced(network: Network, folder: Path) -> None:
    """The same with weights of 7 bits, which do not saturate on AVX2."""
    _static(network, folder, reduce_range=True)


def _static(network: Network, folder: Path, *, reduce_range: bool) -> None:
    exported, prepared = folder / "exported.onnx", folder / "prepared.onnx"
    export(network, exported)
    # No symbolic shape inference: it does not get through MiniLM, and the exporter has written the shapes.
    quant_pre_process(str(exported), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(folder / FILE),
        _Rows(iter(network.calibration())),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=reduce_range,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    exported.unlink()
    prepared.unlink()


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, rows: Iterator[Inputs]) -> None:
        self._rows = rows

    def get_next(self) -> Inputs | None:
        return next(self._rows, None)


def open_onnx(network: Network, folder: Path) -> Call:
    """The file in ONNX Runtime, with its defaults."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    return onnx_call(network, folder / FILE, options)


def onnx_call(network: Network, path: Path, options: onnxruntime.SessionOptions) -> Call:
    """Calls of a session."""
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    known = {node.name for node in session.get_inputs()}
    output = session.get_outputs()[0].name
    used = [name for name in network.inputs if name in known]

    def call(inputs: Inputs) -> Array:
        answer: Array = session.run([output], {name: inputs[name] for name in used})[0]
        return answer

    return call
