"""Requests and responses of TensorFlow Serving's REST API, in the columnar format: each tensor as a whole, by name.

Source: `tensorflow_serving/util/json_tensor.cc`. NaN and infinities are written as `NaN`, `Infinity` and `-Infinity` in both
directions. Texts of outputs named `..._bytes` are in base64; others are plain.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any

from orchestrator.backends.tensorflow_serving.warmup import DATA_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from orchestrator.spec.signature import Signature, Tensor

__all__ = ["decode", "encode", "refusal"]


def refusal(signature: Signature) -> str | None:
    """A sentence about a tensor whose dtype the REST API does not support; None if there is none.

    Outputs have no dtype before the model was run; they are checked again when the folder is written.
    """
    for what, tensors in (("input", signature.inputs), ("output", signature.outputs)):
        for tensor in tensors:
            if tensor.dtype and tensor.dtype not in DATA_TYPES:
                return (
                    f"the {what} {tensor.name} is {tensor.dtype}, which TensorFlow Serving's REST API does not support"
                )
    return None


def encode(inputs: Mapping[str, np.ndarray[Any, Any]]) -> tuple[bytes, dict[str, str]]:
    """A request's body and headers.

    Raises:
        ValueError: the REST API does not support a dtype.
    """
    document = {"signature_name": "serving_default", "inputs": {name: _values(name, a) for name, a in inputs.items()}}
    return json.dumps(document).encode(), {"Content-Type": "application/json"}


def _values(name: str, array: np.ndarray[Any, Any]) -> Any:
    if array.dtype.kind == "U":
        # A lone text could be taken for base64 itself, if its input is called b64.
        return array.tolist() if array.ndim else {"b64": base64.b64encode(str(array).encode()).decode()}
    if array.dtype.name not in DATA_TYPES:
        raise ValueError(f"input {name}: TensorFlow Serving's REST API does not support {array.dtype.name}")
    return array.tolist()


def decode(body: bytes, signature: Signature) -> dict[str, np.ndarray[Any, Any]]:
    """The outputs by name, in the dtypes of the signature.

    Raises:
        ValueError: the body is not a response, or does not match the signature.
    """
    try:
        outputs = json.loads(body.decode())["outputs"]
    except UnicodeDecodeError as error:
        raise ValueError("an output holds bytes that are not UTF-8; only outputs named ..._bytes may") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not an answer of TensorFlow Serving: {type(error).__name__}: {error}") from error
    if len(signature.outputs) == 1:  # the one that there is comes without its name
        outputs = {signature.outputs[0].name: outputs}
    wanted = {tensor.name for tensor in signature.outputs}
    if not isinstance(outputs, dict) or set(outputs) != wanted:
        found = sorted(outputs) if isinstance(outputs, dict) else "no names"
        raise ValueError(f"the answer holds {found} instead of {sorted(wanted)}")
    return {tensor.name: _array(tensor, outputs[tensor.name]) for tensor in signature.outputs}


def _array(tensor: Tensor, value: Any) -> np.ndarray[Any, Any]:
    import numpy as np  # noqa: PLC0415 - the command line starts without numpy

    try:
        array = np.array(_texts(value), np.str_) if tensor.dtype == "string" else np.array(value, tensor.dtype or None)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"output {tensor.name}: {error}") from error
    if array.size == 0 and tensor.shape is not None and array.ndim < len(tensor.shape):
        # `[]` does not say how long the rows would be that are not there.
        inner = tensor.shape[array.ndim :]
        array = array.reshape(*array.shape, *(dim if isinstance(dim, int) else 0 for dim in inner))
    return array


def _texts(value: Any) -> Any:
    """Nested lists of texts, with base64 read."""
    if isinstance(value, list):
        return [_texts(item) for item in value]
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and isinstance(value.get("b64"), str):
        try:
            return base64.b64decode(value["b64"], validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise ValueError(f"its bytes are not text in UTF-8: {error}") from error
    raise ValueError(f"{value!r} is not a string")
