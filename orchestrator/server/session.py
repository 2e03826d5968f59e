"""The model: opened in the configured runtime, called by names, warmed up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from .allowed_values import filler
from .config import ServerConfig
from .datatypes import Array, numpy_dtype
from .errors import BAD_MODEL, UNAVAILABLE, RequestError, StartError
from .inline_calls import InlineCalls
from .signature import Signature

__all__ = ["Model", "Session", "StoppableCalls", "check_tensors", "open_model"]


class StoppableCalls(Protocol):
    """Calls of a session that another thread may end."""

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """As `Session.run`.

        Raises:
            Stopped: `stop` was called.
        """

    def stop(self) -> None:
        """End the call that is running, or the next one if it is over; any thread may."""


class Session(Protocol):
    """An opened model in a runtime. One thread at a time calls it."""

    @property
    def stoppable(self) -> StoppableCalls | None:
        """Calls that can be ended before they are over; None where no call can."""

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """One call with every input of the signature; the outputs in the signature's order.

        Raises:
            RequestError: 400 if the model refuses the values (an index outside a table), 500 if it fails.
        """


class Model:
    """An opened model, called by names."""

    def __init__(self, session: Session, signature: Signature, device: int | None) -> None:
        """Wrap an opened session.

        Args:
            session: the model in its runtime.
            signature: the model's.
            device: the number of its device; None for the CPU.
        """
        self.device = device
        self._session = session
        self._signature = signature
        self._outputs = list(signature.outputs)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One call with every input of the signature; all outputs by name. See `Session.run`."""
        return self._named(self._session.run(inputs))

    def inline_calls(self) -> InlineCalls | None:
        """Calls for the event loop; None where a call cannot be ended before it is over."""
        calls = self._session.stoppable
        return None if calls is None else InlineCalls(lambda inputs: self._named(calls.run(inputs)), calls.stop)

    def warm_up(self, rows: int) -> None:
        """Run once on zeros, or what is allowed instead of them, with a batch of `rows` and every other dimension at its minimum.

        Raises:
            StartError: `BAD_MODEL`; the model does not run at a size that its signature allows.
        """
        shapes = {name: self._signature.shape_at(tensor, rows) for name, tensor in self._signature.inputs.items()}
        zeros = {
            name: np.full(shapes[name], filler(tensor), dtype=numpy_dtype(tensor.dtype))
            for name, tensor in self._signature.inputs.items()
        }
        try:
            self.run(zeros)
        except RequestError as error:
            where = "" if self.device is None else f" on device {self.device}"
            message = f"the model does not run on zeros of shapes {shapes}{where}: {error}"
            raise StartError(BAD_MODEL, message) from error

    def _named(self, outputs: list[Array]) -> dict[str, Array]:
        return dict(zip(self._outputs, outputs, strict=True))


def open_model(config: ServerConfig, device: int | None, threads: int, sizes: Sequence[int]) -> Model:
    """Open the model on a device, or on the CPU, with its share of `threads`; `sizes` are the calls to be warm at.

    Raises:
        StartError: `BAD_MODEL` if the file is missing, is not the configured one, or its inputs and outputs are not the
            signature's; `UNAVAILABLE` if the runtime or its device is missing or cannot be started.
    """
    session: Session
    try:
        if config.runtime == "openvino":
            from . import openvino_session  # noqa: PLC0415 - each runtime is imported only where it is configured

            session = openvino_session.open_session(config, threads)
        else:
            from . import onnxruntime_session  # noqa: PLC0415

            session = onnxruntime_session.open_session(config, device, threads, sizes)
    except ImportError as error:
        raise StartError(UNAVAILABLE, f"the runtime {config.runtime} cannot be imported: {error}") from error
    return Model(session, config.model.signature, device)


def check_tensors(inputs: Mapping[str, str], outputs: Mapping[str, str], signature: Signature) -> None:
    """Compare the opened model's tensors, as name → dtype, with the signature.

    Raises:
        StartError: `BAD_MODEL`, they differ. The signature may omit outputs, but not inputs, because every call needs them.
    """
    for what, found, tensors in (("input", inputs, signature.inputs), ("output", outputs, signature.outputs)):
        wanted = {tensor.name: tensor.dtype for tensor in tensors.values()}
        missing = any(found.get(name) != dtype for name, dtype in wanted.items())
        if missing or (what == "input" and found.keys() - wanted.keys()):
            raise StartError(BAD_MODEL, f"the model's {what}s {dict(found)} are not the signature's {wanted}")
