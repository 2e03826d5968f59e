"""What a server of the Open Inference Protocol v2 says of a model, so that it can be asked without a spec.

https://github.com/kserve/open-inference-protocol: `GET /v2/models/NAME` lists the inputs with datatype and shape, where -1 is a size
that the client chooses.
"""

from __future__ import annotations

import http.client
import json
import math
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult

from orchestrator.backends.wire import DATATYPES
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import UsageError
from orchestrator.measure.certificate import Trust, trusting_context
from orchestrator.spec.signature import Signature, Tensor

__all__ = ["PORTS", "described", "made_up_inputs"]

PORTS = {"http": 80, "https": 443}
"""Of URLs that name none."""

_TIMEOUT = 30.0
_LARGEST = 2**31 - 1
_DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()} | {"BYTES": "string"}
_EXCERPT = 200
_ROWS = 8
"""Different requests that are made up."""

_MOST_ELEMENTS = 2**24
"""Of an input in a request that is made up: 16 million, as of a hundred photographs."""

_PIECE, _MOST_BYTES = 64 * 1024, 16 * 2**20


def described(url: SplitResult, path: str, headers: Mapping[str, str], trust: Trust | None) -> Signature:
    """The model's inputs and outputs.

    Args:
        url: of the server.
        path: of the model: `/v2/models/NAME`.
        headers: of the request.
        trust: which certificate the server must have; None for plain HTTP.

    Raises:
        UsageError: E680, it does not describe the model as the protocol does.
    """
    host, port = (
        url.hostname or "",
        url.port or PORTS[url.scheme],
    )  # without a port, a part of an IPv6 address is taken for it
    try:
        if trust is None:
            connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT)
        else:
            connection = http.client.HTTPSConnection(host, port, timeout=_TIMEOUT, context=trusting_context(trust))
        try:
            connection.request("GET", path, headers=dict(headers))
            with connection.getresponse() as answer:
                body = _whole(answer, time.monotonic() + _TIMEOUT)
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        said = error.strerror if isinstance(error, OSError) else None
        raise _undescribed(url, f"{host}, port {port}: {said or str(error) or type(error).__name__}") from error
    if answer.status != http.HTTPStatus.OK:
        said = body[:_EXCERPT].decode(errors="replace").strip()
        raise _undescribed(url, f"GET {path} was answered with status {answer.status}: {said}")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        start = body[:_EXCERPT].decode(errors="replace").strip()
        raise _undescribed(url, f"what GET {path} was answered with is not JSON: {start}") from error
    try:
        inputs = tuple(_tensor(each) for each in document["inputs"])
        outputs = tuple(_tensor(each) for each in document["outputs"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else error
        raise _undescribed(url, f"its description of the model is not that of the protocol: {why}") from error
    if not inputs:
        raise _undescribed(url, "it says that the model has no inputs")
    free = all(tensor.shape and isinstance(tensor.shape[0], str) for tensor in inputs)
    if free:  # the first dimension of all inputs is the client's choice: rows
        inputs, outputs = (tuple(_with_batch(each) for each in tensors) for tensors in (inputs, outputs))
    dims = {dim: (1, _LARGEST) for each in (*inputs, *outputs) for dim in each.shape or () if isinstance(dim, str)}
    return Signature(inputs=inputs, outputs=outputs, dims=dims, batch="batch" if free else None)


def made_up_inputs(signature: Signature) -> list[dict[str, Any]]:
    """Inputs for requests of one row: numbers around 0, whole numbers 0 and 1, the text `text`; sizes that may be chosen are 1.

    Raises:
        UsageError: E680, they would be too large.
    """
    import numpy as np  # noqa: PLC0415 - as in runtime_report

    largest = max(signature.inputs, key=_elements)
    if _elements(largest) > _MOST_ELEMENTS:
        raise UsageError(
            Diagnostic(
                "E680",
                f"no inputs are made up for {largest.name}",
                cause=f"the server says that a row of it has {_elements(largest):,} elements",
                remedy="give inputs with --input",
            )
        )
    draw = np.random.default_rng(1)

    def one(tensor: Tensor) -> Any:
        shape = _smallest(tensor)
        if tensor.dtype == "string":
            return np.full(shape, "text")
        if np.dtype(tensor.dtype).kind == "f":
            return draw.standard_normal(shape).astype(tensor.dtype)
        return draw.integers(0, 2, shape).astype(tensor.dtype)

    return [{tensor.name: one(tensor) for tensor in signature.inputs} for _ in range(_ROWS)]


def _smallest(tensor: Tensor) -> list[int]:
    return [dim if isinstance(dim, int) else 1 for dim in tensor.shape or ()]


def _elements(tensor: Tensor) -> int:
    return math.prod(_smallest(tensor))


def _whole(answer: http.client.HTTPResponse, ends: float) -> bytes:
    """The body, unless it is larger than a description can be, or does not end in time; the connection's time-out is for each piece.

    Raises:
        OSError: either of them.
    """
    body = b""
    while piece := answer.read1(_PIECE):
        body += piece
        if len(body) > _MOST_BYTES:
            raise OSError(f"its answer is longer than {_MOST_BYTES:,} bytes")
        if time.monotonic() > ends:
            raise TimeoutError(f"its answer was not whole after {_TIMEOUT:g} s")
    return body


def _tensor(each: Mapping[str, Any]) -> Tensor:
    name = str(each["name"])
    if each["datatype"] not in _DTYPES:
        raise ValueError(f"{name} has the datatype {each['datatype']!r}")
    shape = tuple(f"{name}.{place}" if int(size) < 0 else int(size) for place, size in enumerate(each["shape"]))
    return Tensor(name, _DTYPES[each["datatype"]], shape)


def _with_batch(tensor: Tensor) -> Tensor:
    shape = tensor.shape or ()
    return Tensor(tensor.name, tensor.dtype, ("batch", *shape[1:]) if shape and isinstance(shape[0], str) else shape)


def _undescribed(url: SplitResult, why: str) -> UsageError:
    return UsageError(
        Diagnostic(
            "E680",
            f"{url.geturl()} cannot be measured",
            cause=why,
            remedy="give the URL of a model on a server of the Open Inference Protocol, such as "
            "http://localhost:8080/v2/models/NAME; a token is given by --token-file, a private authority by --ca",
        )
    )
