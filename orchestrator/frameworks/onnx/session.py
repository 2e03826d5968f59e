"""Opens an ONNX model as given in ONNX Runtime; large weights stay in their files, mapped into memory."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import onnxruntime
from onnx.external_data_helper import uses_external_data

from orchestrator.frameworks.onnx.file import objection
from orchestrator.frameworks.onnx.runtime import OrtRuntime, open_session, session_options
from orchestrator.frameworks.source.expected_kind import AT_WEIGHTS
from orchestrator.steps import StepError

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.frameworks.onnx.declared import Names
    from orchestrator.frameworks.onnx.file import GivenModel
    from orchestrator.frameworks.source.accelerators import Accelerator

__all__ = ["open_given", "open_where_it_lies", "runtime_says", "short_of_memory"]

_PROVIDERS = ["CPUExecutionProvider"]
_NO_OPERATOR = re.compile(
    r"(?P<unknown>[\w.:]+)\(-?\d+\) is not a registered function/op"
    r"|No Op registered for (?P<unnamed>\w+)"
    r"|Could not find an implementation for (?P<op>\w+)\((?P<version>\d+)\)"
)
_TOO_NEW = re.compile(
    r"Unsupported model IR version: \d+, max supported IR version: \d+|Opset \d+ is under development"
)
_NO_MEMORY = ("Failed to allocate memory", "bad_alloc", "not enough memory")
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_SOURCE_LINE = re.compile(r"/\S+\.(?:cc|h):\d+ \S.*?\) (?=\S)")


def open_given(model: GivenModel, names: Names, threads: int) -> OrtRuntime:
    """The model on the CPU with ONNX Runtime's default optimizations, called by the names of the spec.

    The files that hold the weights are not opened again: what was checked is what is run.

    Args:
        model: as read.
        names: the spec's name of each tensor → the model's own.
        threads: for the operators of one call.

    Raises:
        StepError: E302 ONNX Runtime does not load the model, E364 it lacks an operator.
    """
    options = _options(threads)
    outside = [tensor for tensor in model.proto.graph.initializer if uses_external_data(tensor)]
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(model.data.array(tensor)) for tensor in outside]
    if outside:
        options.add_external_initializers([tensor.name for tensor in outside], values)
    try:
        session = onnxruntime.InferenceSession(model.proto.SerializeToString(), options, providers=_PROVIDERS)
    # Its exceptions share no base class of their own; whatever it says is the reason.
    except Exception as error:
        raise _not_loaded(error, model) from error
    return OrtRuntime(session, names["inputs"], names["outputs"], threads, held=values)


def runtime_says(error: Exception) -> str:
    """What ONNX Runtime raises, in one line, without its prefixes and places in its own source."""
    return " ".join(_SOURCE_LINE.sub("", _PREFIX.sub("", str(error))).split()) or type(error).__name__


def open_where_it_lies(path: Path, names: Names, threads: int, accelerator: Accelerator = "none") -> OrtRuntime:
    """The model at `path`, which was checked, loaded by ONNX Runtime itself, as whoever has the file would load it.

    Args:
        path: the file; ONNX Runtime reads no file for it that lies outside of its folder.
        names: the spec's name of each tensor → the model's own.
        threads: for the operators of one call.
        accelerator: what computes.

    Raises:
        StepError: E302 ONNX Runtime does not load the model, E364 it lacks an operator, E427 the GPU is not used.
    """
    try:
        session = open_session(str(path), _options(threads), accelerator)
    except StepError:
        raise
    # As above.
    except Exception as error:
        raise _not_loaded(error, None) from error
    return OrtRuntime(session, names["inputs"], names["outputs"], threads)


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = session_options(threads)
    # Whatever the file's name ends with, it is no file of ONNX Runtime's own format.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return options


def short_of_memory(error: Exception) -> bool:
    """Whether an allocation failed; ONNX Runtime has no type of its own for it."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)


def _not_loaded(error: Exception, model: GivenModel | None) -> StepError | MemoryError:
    text = runtime_says(error)
    if short_of_memory(error):
        return MemoryError(text)
    if match := _NO_OPERATOR.search(text):
        name = match["unknown"] or match["unnamed"] or f"{match['op']} of version {match['version']}"
        return StepError(
            "E364",
            f"the model uses an operator that ONNX Runtime does not have: {name}",
            cause=f"the CPU provider of ONNX Runtime {onnxruntime.__version__} has no kernel for it"
            if match["op"]
            else text,
            remedy="export the model with standard operators, best of a newer opset",
            at=AT_WEIGHTS,
        )
    if _TOO_NEW.search(text):
        return StepError(
            "E302",
            "the model was written for a newer ONNX than this ONNX Runtime reads",
            cause=text,
            remedy=f"export it for an older opset, or install a newer onnxruntime than {onnxruntime.__version__}",
            at=AT_WEIGHTS,
        )
    against = objection(model) if model is not None else ""
    return StepError(
        "E302",
        "ONNX Runtime does not load the model",
        cause=text,
        remedy="install that locale here and in the image, or give the model's StringNormalizer the locale C.UTF-8"
        if "locale" in text
        else "export the model again",
        at=AT_WEIGHTS,
        notes=(f"the checker of ONNX says: {against}",) if against else (),
    )
