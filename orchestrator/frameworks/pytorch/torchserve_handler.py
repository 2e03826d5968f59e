"""TorchServe's handler: Open Inference Protocol v2 in JSON, requests batched along the batch dimension.

This file is copied unchanged to the model's folder, where TorchServe imports it. So it imports nothing from this project,
and defines exactly one class, because TorchServe refuses a module with several.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch.export.passes import move_to_device_pass
from torch.utils import _pytree as pytree

__all__ = ["Handler"]

_DTYPES = {
    "bool": torch.bool,
    "uint8": torch.uint8,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}
_DATATYPES = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.float16: "FP16",
    torch.float32: "FP32",
    torch.float64: "FP64",
}
_LOG = logging.getLogger(__name__)

Tensors = dict[str, torch.Tensor]


class Handler:
    """Holds the model; TorchServe calls `initialize` once and `handle` for every batch of requests."""

    def initialize(self, context: Any) -> None:
        """Load the model that `model-config.yaml` names under `mlo:`, and warm it up."""
        # Logging a line for every batch costs more time than a small model.
        logging.getLogger("root").setLevel(logging.WARNING)
        folder = Path(context.system_properties["model_dir"])
        config = context.model_yaml_config["mlo"]
        self.name = str(context.model_name)
        self.max_rows = int(config["max_rows"])
        self.signature = json.loads((folder / "signature.json").read_text(encoding="utf-8"))
        batch = self.signature["batch"]
        # Results can only be split again if every output has one row for each input row.
        self.joins = batch is not None and all((t["shape"] or [None])[0] == batch for t in self.signature["outputs"])
        # The threads are shared by all workers.
        torch.set_num_threads(max(1, int(os.environ.get("MLO_THREADS", config["threads"])) // int(config["workers"])))
        self.device = _device(config["accelerator"], context.system_properties.get("gpu_id"))
        path = str(folder / config["file"])
        # Only weights and graphs: neither loader runs Python code from the file.
        self.model = (
            torch.jit.load(path, map_location=self.device) if path.endswith(".pt") else _exported(path, self.device)
        )
        for rows in sorted({1, self.max_rows}):
            self._run(_zeros(self.signature, rows))

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """One answer for each request, in order; an invalid request gets a 400 without affecting the others in its batch."""
        answers = [b""] * len(data)
        ids: dict[int, str] = {}
        waiting: dict[tuple[Any, ...], list[tuple[int, Tensors]]] = {}
        for index, request in enumerate(data):
            context.set_response_content_type(index, "application/json")
            if context.get_request_header(index, "url_path") == "ready":
                answers[index] = b'{"ready": true}'
                continue
            try:
                document = _document(request.get("body"))
                tensors = _read(document, self.signature)
            except (ValueError, OverflowError) as error:
                context.set_response_status(code=400, phrase="Bad Request", idx=index)
                answers[index] = json.dumps({"error": str(error)}).encode()
                continue
            if isinstance(document.get("id"), str):
                ids[index] = document["id"]
            # Requests in a group have the same inner shapes; a request that cannot be batched is a group by itself.
            key = tuple(tuple(t.shape[1:]) for t in tensors.values()) if self.joins else (index,)
            waiting.setdefault(key, []).append((index, tensors))
        for group in waiting.values():
            for chunk in self._chunks(group):
                for index, outputs in self._results(chunk, answers, context):
                    answers[index] = _write(self.name, ids.get(index), outputs)
        return answers

    def _chunks(self, group: list[tuple[int, Tensors]]) -> list[list[tuple[int, Tensors]]]:
        """Requests in order, in chunks of at most `max_rows` rows; a larger request is a chunk by itself."""
        chunks: list[list[tuple[int, Tensors]]] = []
        rows = self.max_rows
        for index, tensors in group:
            size = _rows(tensors) if self.joins else self.max_rows
            if rows + size > self.max_rows:
                chunks.append([])
                rows = 0
            chunks[-1].append((index, tensors))
            rows += size
        return chunks

    def _results(
        self, chunk: list[tuple[int, Tensors]], answers: list[bytes], context: Any
    ) -> list[tuple[int, Tensors]]:
        """The outputs of the requests on which the model did not fail; the others are answered with 500 here."""
        try:
            if len(chunk) == 1:
                return [(chunk[0][0], self._run(chunk[0][1]))]
            joined = {name: torch.cat([tensors[name] for _, tensors in chunk]) for name in chunk[0][1]}
            results = _split(self._run(joined), [_rows(tensors) for _, tensors in chunk])
            return [(index, outputs) for (index, _), outputs in zip(chunk, results, strict=True)]
        except Exception as error:  # noqa: BLE001 - a model may raise anything
            if len(chunk) > 1:  # one request may be the cause: each is tried separately
                return [result for request in chunk for result in self._results([request], answers, context)]
            _LOG.exception("the model failed on a request")
            index = chunk[0][0]
            context.set_response_status(code=500, phrase="Internal Server Error", idx=index)
            answers[index] = json.dumps({"error": f"the model failed: {type(error).__name__}"}).encode()
            return []

    def _run(self, tensors: Tensors) -> Tensors:
        if self.device.type != "cpu":
            tensors = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        with torch.inference_mode():
            leaves = [t for t in pytree.tree_leaves(self.model(*tensors.values())) if isinstance(t, torch.Tensor)]
        names = [t["name"] for t in self.signature["outputs"]]
        # Copies: a model may return memory of its own, which the next request's call would overwrite.
        return {name: leaf.to("cpu", copy=True) for name, leaf in zip(names, leaves, strict=True)}


def _device(accelerator: str, gpu: int | None) -> torch.device:
    """The device of this worker's model: the CPU, or the GPU that TorchServe assigned to the worker.

    Raises:
        RuntimeError: a GPU is required, but none was assigned: TorchServe counts GPUs with `nvidia-smi`, and otherwise uses
            the CPU.
    """
    if accelerator == "none":
        return torch.device("cpu")
    if gpu is None:
        raise RuntimeError("TorchServe gave this worker no GPU: it found fewer than configured, or no nvidia-smi")
    # Compute float32 as float32, as verified; by default PyTorch uses TF32 for convolutions.
    for kernels in (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn):
        kernels.fp32_precision = "ieee"
    return torch.device("cuda", gpu)


def _exported(path: str, device: torch.device) -> Any:
    program = torch.export.load(path)
    if device.type != "cpu":  # also constants on the CPU in the graph, which `to` does not move
        program = move_to_device_pass(program, device)
    return program.module()


def _rows(tensors: Tensors) -> int:
    return int(next(iter(tensors.values())).shape[0])


def _split(outputs: Tensors, sizes: list[int]) -> list[Tensors]:
    """The rows of each request; raises if an output has a different number of rows than the input."""
    parts = {name: torch.split(tensor, sizes) for name, tensor in outputs.items()}
    return [{name: part[i] for name, part in parts.items()} for i in range(len(sizes))]


def _zeros(signature: dict[str, Any], rows: int) -> Tensors:
    low = {name: bounds[0] for name, bounds in signature["dims"].items()}
    if signature["batch"] is not None:
        low[signature["batch"]] = max(rows, low[signature["batch"]])
    shapes = {t["name"]: [low.get(d, d) for d in t["shape"]] for t in signature["inputs"]}
    return {
        t["name"]: torch.full(shapes[t["name"]], _filler(t), dtype=_DTYPES[t["dtype"]]) for t in signature["inputs"]
    }


def _filler(tensor: dict[str, Any]) -> float:
    """Zero, or the nearest number that the input may hold."""
    allowed = tensor.get("allowed")
    nearest: float = 0
    if allowed is not None and allowed["range"] is not None:
        low, high = allowed["range"]
        nearest = min(max(0, low), high)
    elif allowed is not None:
        nearest = min(allowed["values"], key=abs)
    return nearest


def _document(body: Any) -> dict[str, Any]:
    """The request's JSON object.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(body, bytes | bytearray):
        raise ValueError("expected a JSON body")  # noqa: TRY004 - the caller answers ValueError
    try:
        document = json.loads(body, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("the body is nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError("expected a JSON object")  # noqa: TRY004 - the caller answers ValueError
    return document


def _read(document: dict[str, Any], signature: dict[str, Any]) -> Tensors:
    """The inputs by name in the signature's order.

    Raises:
        ValueError: what is wrong with the request.
    """
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or not all(isinstance(t, dict) for t in inputs):
        raise ValueError('expected {"inputs": [{"name", "shape", "datatype", "data"}, ...]}')
    given = {str(t.get("name")): t for t in inputs}
    wanted = {t["name"]: t for t in signature["inputs"]}
    if len(given) != len(inputs) or given.keys() != wanted.keys():
        raise ValueError(f"expected the inputs {', '.join(wanted)}, each once")
    sizes: dict[str, int] = {}
    tensors = {name: _tensor(given[name], wanted[name], signature, sizes) for name in wanted}
    for name, tensor in tensors.items():
        _check_values(name, tensor, wanted[name].get("allowed"))
    return tensors


def _check_values(name: str, tensor: torch.Tensor, allowed: dict[str, Any] | None) -> None:
    """Refuse values that the spec does not allow, where it asks for that; NaN is in no range."""
    if allowed is None or not allowed["enforce"]:
        return
    if allowed["range"] is not None:
        low, high = torch.tensor(allowed["range"], dtype=tensor.dtype)
        wrong = ~((tensor >= low) & (tensor <= high))
        meant = f"from {allowed['range'][0]} to {allowed['range'][1]}"
    else:
        wrong = ~torch.isin(tensor, torch.tensor(allowed["values"], dtype=tensor.dtype))
        meant = f"one of {', '.join(map(str, allowed['values']))}"
    if wrong.any():
        raise ValueError(f"input {name}: {tensor[wrong][0].item()} is not allowed; every value must be {meant}")


_NOT_FINITE: dict[str | None, float] = {None: math.nan, "NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""What JSON lacks, as mlo's own server reads and writes it."""


def _no_constant(word: str) -> Any:
    raise ValueError(f'{word} is not JSON; write it as a text, "{word}"')


def _tensor(
    given: dict[str, Any], wanted: dict[str, Any], signature: dict[str, Any], sizes: dict[str, int]
) -> torch.Tensor:
    name, dtype = wanted["name"], _DTYPES[wanted["dtype"]]
    if given.get("datatype") != _DATATYPES[dtype]:
        raise ValueError(f"input {name}: expected datatype {_DATATYPES[dtype]}")
    shape = _shape(given.get("shape"), wanted, signature, sizes)
    numbers = _flat(given.get("data"))
    if len(numbers) != math.prod(shape):
        raise ValueError(f"input {name}: shape {shape} needs {math.prod(shape)} values, and data has {len(numbers)}")
    if dtype.is_floating_point:
        numbers = [_NOT_FINITE.get(n, n) if n is None or isinstance(n, str) else n for n in numbers]
    kinds = set(map(type, numbers))
    allowed = {int, float} if dtype.is_floating_point else {bool} if dtype is torch.bool else {int}
    if not kinds <= allowed:
        raise ValueError(f"input {name}: data must be {_DATATYPES[dtype]} values")
    if dtype is not torch.bool and not dtype.is_floating_point and numbers:
        limits = torch.iinfo(dtype)
        if min(numbers) < limits.min or max(numbers) > limits.max:
            raise ValueError(f"input {name}: data must be {_DATATYPES[dtype]} values")
    return torch.tensor(numbers, dtype=dtype).reshape(shape)


def _shape(shape: Any, wanted: dict[str, Any], signature: dict[str, Any], sizes: dict[str, int]) -> list[int]:
    expected = f"input {wanted['name']}: expected shape {wanted['shape']}"
    if not isinstance(shape, list) or len(shape) != len(wanted["shape"]) or not all(type(n) is int for n in shape):
        raise ValueError(expected)
    for given, dim in zip(shape, wanted["shape"], strict=True):
        low, high = signature["dims"][dim] if isinstance(dim, str) else (dim, dim)
        if not low <= given <= high:
            raise ValueError(f"{expected}; dimension {dim} must lie in [{low}, {high}], not {given}")
        step = signature.get("multiples", {}).get(dim, 1)
        if given % step:
            raise ValueError(f"{expected}; dimension {dim} must be a multiple of {step}, not {given}")
        if isinstance(dim, str) and sizes.setdefault(dim, given) != given:
            raise ValueError(f"dimension {dim} is {sizes[dim]} in one place and {given} in another")
    return shape


def _flat(data: Any) -> list[Any]:
    """Values in row-major order, from flat or nested data."""
    if not isinstance(data, list):
        raise ValueError("data must be a list")  # noqa: TRY004 - the caller answers ValueError
    values: list[Any] = data
    while values and isinstance(values[0], list):
        if not all(isinstance(part, list) for part in values):
            raise ValueError("data is nested unevenly")
        values = [value for part in values for value in part]
    return values


def _write(name: str, identity: str | None, outputs: Tensors) -> bytes:
    tensors = []
    for output, given in outputs.items():
        tensor = given.float() if given.dtype is torch.bfloat16 else given
        head = json.dumps({"name": output, "shape": list(tensor.shape), "datatype": _DATATYPES[tensor.dtype]})
        data = json.dumps(tensor.flatten().tolist())
        if tensor.is_floating_point():
            data = re.sub("NaN|-?Infinity", r'"\g<0>"', data)
        tensors.append(f'{head[:-1]}, "data": {data}}}')
    answer = {"model_name": name, "model_version": "1"} | ({} if identity is None else {"id": identity})
    return f'{json.dumps(answer)[:-1]}, "outputs": [{", ".join(tensors)}]}}'.encode()
