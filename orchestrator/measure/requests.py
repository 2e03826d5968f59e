"""Forms the requests that the load generator sends, before anything is measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.backends.wire import encode_message, grpc_prefixed
from orchestrator.measure.certificate import Trust
from orchestrator.measure.load_connections import LOOPBACK, http_request
from orchestrator.measure.session import MeasuredProcess
from orchestrator.spec.signature import Signature
from orchestrator.spec.types import HttpWire, Wire

__all__ = ["Encode", "encoded_request", "open_requests", "rows_of", "sample_rows"]

Encode = Callable[[Mapping[str, Any], HttpWire], tuple[bytes, Mapping[str, str]]]
"""As `ServingBackend.encode`."""

_REQUESTS, _REQUESTS_BYTES = 64, 4 * 2**20
"""At most so many different requests, and bytes of their tensors, which are five times as many in JSON; but one at least."""

_CONNECTIONS_AT_MOST = 256
_OPENED_WITHIN = 60.0  # seconds


def sample_rows(samples: Path, signature: Signature) -> Iterator[Mapping[str, Any]]:
    """The inputs of requests of the smallest size: a sample, or as many as the smallest batch has.

    Args:
        samples: an .npz file with the inputs by name, rows first.
        signature: of the model.
    """
    import numpy as np  # noqa: PLC0415 - as in runtime_report

    with np.load(samples, allow_pickle=False) as file:
        yield from rows_of({tensor.name: file[tensor.name] for tensor in signature.inputs}, signature)


def rows_of(inputs: Mapping[str, Any], signature: Signature) -> Iterator[Mapping[str, Any]]:
    """The same from arrays by name."""
    import numpy as np  # noqa: PLC0415 - as in runtime_report

    batch = signature.batch
    count = len(next(iter(inputs.values())))
    each = max(1, sum(array.nbytes for array in inputs.values()) // count)
    for number in range(min(_REQUESTS, count, max(1, _REQUESTS_BYTES // each))):
        if batch is None:
            yield {name: array[number] for name, array in inputs.items()}
        else:
            rows = np.arange(number, number + signature.dims[batch][0])
            yield {name: array.take(rows, axis=0, mode="wrap") for name, array in inputs.items()}


def encoded_request(
    encode: Encode,
    path: str,
    inputs: Mapping[str, Any],
    wire: Wire,
    name: str,
    headers: Mapping[str, str] | None = None,
    host: str = LOOPBACK,
) -> bytes:
    """What is sent over a connection: a whole HTTP request, or a message of gRPC.

    Args:
        encode: makes body and headers of the inputs.
        path: of the URL.
        inputs: by name.
        wire: in which form.
        name: of the model, which gRPC wants.
        headers: besides those of the form.
        host: as in `http_request`.
    """
    if wire == "grpc":
        return grpc_prefixed(encode_message(name, inputs))
    body, own = encode(inputs, wire)
    return http_request(path, {**own, **(headers or {})}, body, host)


def open_requests(
    generator: MeasuredProcess, folder: Path, wire: Wire, requests: Sequence[bytes], tls: Trust | str | None
) -> None:
    """Hand requests to the load generator.

    Args:
        generator: that will send them in turn.
        folder: in which they are written for a moment.
        wire: over which they are sent.
        requests: as `encoded_request` makes them.
        tls: which certificate the server must have; None for plain TCP.

    Raises:
        MeasureError: the generator failed.
    """
    trust = asdict(tls) if isinstance(tls, Trust) else tls
    # Requests may hold a token, so their files are gone as soon as they were read.
    with tempfile.TemporaryDirectory(dir=folder) as own:
        files = [Path(own, str(number)) for number in range(len(requests))]
        for file, request in zip(files, requests, strict=True):
            file.write_bytes(request)
        opened = {"do": "open", "wire": wire, "requests": [str(file) for file in files], "tls": trust}
        generator.ask({**opened, "limit": _CONNECTIONS_AT_MOST}, _OPENED_WITHIN)
