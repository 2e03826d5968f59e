"""Sends a request to a deployment: one call over HTTP, every failure explained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np

from orchestrator.backends.backend import ServingBackend
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.spec.signature import Signature
from orchestrator.targets.certificate import Expected, pinned_connection
from orchestrator.targets.inputs import Requests, read_requests

__all__ = ["Array", "Requests", "infer", "read_requests", "rows_within", "token_headers"]

Array = np.ndarray[Any, Any]

_LONGEST_REASON = 500
"""Characters of a server's answer that are shown when it is not the JSON of an error."""


def infer(
    endpoint: str,
    backend: ServingBackend,
    name: str,
    inputs: Mapping[str, Array],
    *,
    signature: Signature,
    timeout: float = 30.0,
    max_body: int | None = None,
    token_file: Path | None = None,
    certificate: Expected | None = None,
) -> dict[str, Array]:
    """The outputs by name for these inputs.

    Args:
        endpoint: `http://HOST:PORT` or `https://HOST:PORT`.
        backend: the backend that serves there; it knows the wire format.
        name: the model's name on the wire.
        inputs: by name, each with its batch dimension if the model has one.
        signature: of the model; more rows than one call may have are sent in several calls.
        timeout: seconds for one call.
        max_body: bytes of the largest request that the server takes; None if nothing has to be smaller for it.
        token_file: whose first token is sent; None if the server asks for none.
        certificate: the one that a server at `https:` must show; no other is talked to, whatever name it is for.

    Raises:
        DeployFailed: E610 nothing listens, E611 the request is refused (4xx), E612 the server failed (5xx, broken
            connection, an answer that is none), E613 no answer within `timeout`, E625 there is no token, E482 the server shows
            another certificate.
    """
    largest = _largest(signature, inputs, max_body)
    headers = token_headers(token_file)

    def call(part: Mapping[str, Array]) -> dict[str, Array]:
        return _call(_Connect(endpoint, timeout, certificate), backend, name, part, signature, headers)

    if largest is None:
        return call(inputs)
    assert signature.batch is not None, "only rows of a batch are sent in several calls"
    rows = len(next(iter(inputs.values())))
    parts = []
    for start in range(0, rows, largest):
        # If the last rows are too few for the model, they are sent with some of those before them.
        first = (
            min(start, rows - signature.covering(signature.batch, rows - start)) if rows - start < largest else start
        )
        outputs = call({key: array[first : start + largest] for key, array in inputs.items()})
        parts.append({key: array[start - first :] for key, array in outputs.items()})
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def rows_within(signature: Signature, inputs: Mapping[str, Array], size: int) -> int:
    """The most rows of a batch whose raw tensors have at most `size` bytes; at least the fewest of a call."""
    assert signature.batch is not None, "only a batch has rows"
    row = max(1, sum(array[:1].nbytes for array in inputs.values()))
    return signature.fitting(signature.batch, size // row)


def _largest(signature: Signature, inputs: Mapping[str, Array], max_body: int | None) -> int | None:
    """The rows of one call, if there are more of them than one call may have."""
    if signature.batch is None:
        return None
    largest = signature.dims[signature.batch][1]
    if max_body is not None:
        largest = rows_within(signature, inputs, max_body // 2)  # the rest is for what is said of the tensors
    return largest if any(len(array) > largest for array in inputs.values()) else None


class _Connect(NamedTuple):
    """Where and how to connect."""

    endpoint: str
    timeout: float
    certificate: Expected | None

    def __call__(self) -> HTTPConnection:
        """A connection, not yet made if it needs no certificate."""
        where = urlsplit(self.endpoint)
        if where.scheme != "https":
            return HTTPConnection(where.hostname or "", where.port, timeout=self.timeout)
        assert self.certificate is not None, "a server with TLS has a certificate"
        return pinned_connection(where.hostname or "", where.port, self.timeout, self.certificate)


def _call(
    connect: _Connect,
    backend: ServingBackend,
    name: str,
    inputs: Mapping[str, Array],
    signature: Signature,
    more: Mapping[str, str],
) -> dict[str, Array]:
    body, headers = backend.encode(inputs, "binary" if "binary" in backend.wires else "json")
    endpoint, timeout = connect.endpoint, connect.timeout
    connection: HTTPConnection | None = None
    try:
        connection = connect()
        connection.request("POST", backend.infer_path(name), body, {**headers, **more})
        answer = connection.getresponse()
        content = answer.read()
    except ConnectionRefusedError as error:
        raise _failure(
            "E610",
            f"nothing listens at {endpoint}",
            "the deployment is stopped",
            f"run `mlo status {name}`, and `mlo apply` with its spec to start it again",
        ) from error
    except TimeoutError as error:
        raise _failure(
            "E613",
            f"{endpoint} did not answer within {timeout:g} s",
            "the call takes longer, or the server is overloaded",
            "send fewer rows in one call, or wait longer with --timeout",
        ) from error
    except (OSError, HTTPException) as error:
        raise _failure(
            "E612",
            f"the connection to {endpoint} broke before the answer arrived",
            str(error) or type(error).__name__,
            f"run `mlo logs {name}`",
        ) from error
    finally:
        if connection is not None:
            connection.close()
    if answer.status != 200:
        refused = 400 <= answer.status < 500
        raise _failure(
            "E611" if refused else "E612",
            f"{endpoint} {'refused the request' if refused else 'failed'} with status {answer.status}",
            _reason(content),
            _REMEDIES.get(answer.status, "correct the inputs" if refused else "run `mlo logs {name}`").format(
                name=name
            ),
        )
    try:
        return backend.decode(content, {key.lower(): value for key, value in answer.getheaders()}, signature)
    except ValueError as error:
        raise _failure(
            "E612",
            f"the answer from {endpoint} is not a valid answer of {backend.name}",
            str(error),
            f"run `mlo status {name}`: another server may be listening there",
        ) from error


_REMEDIES = {
    401: "let the first token in the file of `serving.auth` be one that the server accepts",
    403: "let the first token in the file of `serving.auth` be one that the server accepts",
    404: "run `mlo status {name}`: another server may be listening there",
    413: "send fewer rows in one call",
    429: "send it again in a moment, or fewer requests at a time",
}
"""Status → what to do; for other refusals the server's reason names what is wrong with the inputs."""


def token_headers(token_file: Path | None) -> Mapping[str, str]:
    """The header with the first token of a file; none if the server asks for none.

    Raises:
        DeployFailed: E625 there is no token.
    """
    return {} if token_file is None else {"Authorization": f"Bearer {_token(token_file)}"}


def _token(file: Path) -> str:
    """The first of the accepted tokens."""
    token = ""
    try:
        token = next(iter(file.read_text(encoding="ascii").split()), "")
        problem = "" if token and token.isprintable() else "it holds no token"
    except OSError as error:
        problem = f"it cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        problem = "it holds other characters than ASCII"
    if problem:
        raise _failure(
            "E625",
            f"there is no token in {file}",
            problem,
            "write the accepted tokens into it, one per line, and let the user who runs `mlo` read it",
        )
    return token


def _reason(content: bytes) -> str:
    """The error that an answer states."""
    text = content.decode("utf-8", "replace").strip()
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if isinstance(document, dict):
        for key in ("error", "message"):
            if isinstance(document.get(key), str):
                return str(document[key])
    return text[:_LONGEST_REASON] or "the server gave no reason"


def _failure(code: str, message: str, cause: str, remedy: str) -> DeployFailed:
    return DeployFailed(Diagnostic(code, message, cause=cause, remedy=remedy))
