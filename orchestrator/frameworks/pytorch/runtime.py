"""Runs TorchScript and exported-program variants, and any module in the same way, in PyTorch on the CPU or a GPU."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.export.passes import move_to_device_pass
from torch.utils import _pytree as pytree

from orchestrator.artifacts.runtime_facts import RuntimeFacts
from orchestrator.frameworks.source.runtime import gpu_not_used
from orchestrator.steps.context import StepError, refuse_on

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from orchestrator.frameworks.source.runtime import Accelerator
    from orchestrator.spec.signature import Signature

__all__ = [
    "CPU",
    "TorchRuntime",
    "as_tensors",
    "call",
    "device_for",
    "open_exported_program",
    "open_torchscript",
]

CPU = torch.device("cpu")


class TorchRuntime:
    """One module in inference mode; see `orchestrator.frameworks.source.runtime.Runtime`.

    Args:
        module: on its device.
        signature: with the inputs and outputs in the module's order.
        threads: for the operators of one call.
        name: of the runtime, for reports.
        device: the module's device.
    """

    def __init__(
        self, module: Callable[..., Any], signature: Signature, threads: int, name: str, device: torch.device = CPU
    ) -> None:
        self._module = module
        self._signature = signature
        self._threads = threads
        self._name = name
        self._device = device
        torch.set_num_threads(threads)

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """One call; see `Runtime.run`."""
        tensors = [_shared(inputs[tensor.name]) for tensor in self._signature.inputs]
        return _called(self._module, self._signature, tensors, self._device)

    def facts(self) -> RuntimeFacts:
        """See `Runtime.facts`."""
        device = None if self._device == CPU else str(self._device)
        return RuntimeFacts(self._name, {"torch": str(torch.__version__)}, self._threads, device=device)


def device_for(accelerator: Accelerator) -> torch.device:
    """The CPU or the first GPU, with float32 computed as float32.

    By default PyTorch uses TF32 with its 10 bits for convolutions, which is less precise than what was verified.

    Raises:
        StepError: E427, PyTorch cannot use a GPU.
    """
    if accelerator == "none":
        return CPU
    if torch.version.cuda is None:
        raise gpu_not_used("PyTorch", "the installed torch is a CPU build")
    if not torch.cuda.is_available():
        raise gpu_not_used(
            "PyTorch", f"it finds none; it is built for CUDA {torch.version.cuda}, which needs a driver at least as new"
        )
    for kernels in (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn):
        kernels.fp32_precision = "ieee"
    return torch.device("cuda", 0)


def call(
    module: Callable[..., Any], signature: Signature, inputs: Mapping[str, np.ndarray[Any, Any]]
) -> dict[str, np.ndarray[Any, Any]]:
    """One call of `module` on the CPU in inference mode, its inputs given by position in the signature's order.

    The model gets copies of the inputs, and copies of its outputs are returned. Nested outputs (a tuple, a dict, a dataclass
    registered with PyTorch) are flattened.

    Raises:
        StepError: E421, the number of tensors that the model returns differs from the signature.
    """
    outputs = _called(module, signature, as_tensors(signature, inputs))
    return {name: array.copy() for name, array in outputs.items()}


def as_tensors(signature: Signature, inputs: Mapping[str, np.ndarray[Any, Any]]) -> list[torch.Tensor]:
    """Copies of the inputs in the signature's order: a model may write into its inputs."""
    return [torch.from_numpy(np.array(inputs[tensor.name], order="C")) for tensor in signature.inputs]


def _called(
    module: Callable[..., Any], signature: Signature, tensors: list[torch.Tensor], device: torch.device = CPU
) -> dict[str, np.ndarray[Any, Any]]:
    # On a GPU, the copies to and from it are a part of the call, as in a request.
    if device != CPU:
        tensors = [tensor.to(device) for tensor in tensors]
    with torch.inference_mode():
        leaves = [leaf for leaf in pytree.tree_leaves(module(*tensors)) if isinstance(leaf, torch.Tensor)]
    if len(leaves) != len(signature.outputs):
        raise StepError(
            "E421",
            f"the model returns {len(leaves)} tensors, but the spec declares {len(signature.outputs)}",
            remedy="name every output that the model returns, in order",
            at=("model", "outputs"),
        )
    return {tensor.name: _array(leaf) for tensor, leaf in zip(signature.outputs, leaves, strict=True)}


def open_torchscript(
    directory: Path, signature: Signature, threads: int, accelerator: Accelerator = "none"
) -> TorchRuntime:
    """Load `model.pt` of a variant; see `open_runtime`."""
    device = device_for(accelerator)
    with warnings.catch_warnings():
        # Every function of torch.jit warns that it is deprecated; the plan mentions it once.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated")
        with refuse_on(RuntimeError, "E420", "PyTorch does not load the TorchScript archive"):
            module = torch.jit.load(str(directory / "model.pt"), map_location=device)
    return TorchRuntime(module, signature, threads, "torchscript", device)


def open_exported_program(
    directory: Path, signature: Signature, threads: int, accelerator: Accelerator = "none"
) -> TorchRuntime:
    """Load `model.pt2` of a variant; see `open_runtime`."""
    device = device_for(accelerator)
    # The exception depends on which part of the archive is damaged (ValueError, KeyError, RuntimeError, ...).
    with refuse_on(Exception, "E420", "PyTorch does not load the exported program"):
        program = torch.export.load(str(directory / "model.pt2"))
        if device != CPU:  # also constants on the CPU in the graph, which `to` does not move
            program = move_to_device_pass(program, device)
        module = program.module()
    return TorchRuntime(module, signature, threads, "exported-program", device)


def _shared(array: np.ndarray[Any, Any]) -> torch.Tensor:
    # PyTorch shares memory with numpy and has no read-only tensors, so read-only arrays are copied.
    usable = array.flags.writeable and array.flags.c_contiguous
    return torch.from_numpy(array if usable else np.array(array, order="C"))


def _array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.float()
    array: np.ndarray[Any, Any] = tensor.detach().cpu().numpy()
    return array
