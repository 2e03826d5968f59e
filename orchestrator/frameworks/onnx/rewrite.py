"""Passes that rewrite the graph of an ONNX variant and keep its arithmetic: slimming, fusing, and optimizing in advance."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import onnxruntime

from orchestrator.artifacts.variant_facts import VariantFacts
from orchestrator.frameworks.onnx import finish as onnx_finish
from orchestrator.frameworks.onnx.fuse import fuse_attention
from orchestrator.frameworks.onnx.runtime import session_options
from orchestrator.frameworks.source.comparison import check_sizes, trace_sizes
from orchestrator.frameworks.source.edge_cases import call_at
from orchestrator.frameworks.source.import_step import read_import
from orchestrator.frameworks.source.runtime import open_runtime
from orchestrator.steps.context import StepError, refuse_on

if TYPE_CHECKING:
    from orchestrator.steps.context import StepContext

__all__ = ["quiet", "to_fused", "to_optimized", "to_slim"]

_FILE = "model.onnx"
_DATA = "model.onnx.data"


def to_slim(context: StepContext) -> dict[str, Any]:
    """Step: the variant without nodes that onnxslim finds superfluous: folded constants, joined and removed nodes.

    Raises:
        StepError: E425, the library fails or finds nothing; E423, the result differs from the variant.
    """
    import onnxslim

    context.progress("slimming the graph", 0.0)
    model = onnx.load(str(context.inputs["model"] / _FILE))
    before = _operators(model)
    # The library raises whatever its patterns raise.
    with refuse_on(Exception, "E425", "onnxslim does not take the model"), quiet():
        slim = onnxslim.slim(model)
    if _operators(slim) == before:
        raise _nothing("onnxslim", "it finds no node that can be removed, joined or computed in advance")
    _save(slim, context)
    return _finished(context)


def to_fused(context: StepContext) -> dict[str, Any]:
    """Step: the variant with its attentions as single operators of ONNX Runtime.

    Raises:
        StepError: E425, there is no attention that it finds; E423, the result differs from the variant.
    """
    context.progress("looking for attentions", 0.0)
    model = onnx.load(str(context.inputs["model"] / _FILE))
    signature, samples = read_import(context.inputs["import"])
    call = call_at(samples, signature, trace_sizes(samples, signature))
    # Seeing the shapes takes a call, which fails as ONNX Runtime fails.
    with refuse_on(Exception, "E425", "the attentions of the model cannot be joined"):
        joined = fuse_attention(model, context.scratch, call, large=_is_large(context))
    if not joined:
        raise _nothing(
            "joining attentions", "it finds no softmax between two products of heads as exporters write them"
        )
    _save(model, context)
    attentions = "1 attention is one operator" if joined == 1 else f"{joined} attentions are one operator each"
    return _finished(context, note=f"{attentions} of ONNX Runtime")


def to_optimized(context: StepContext) -> dict[str, Any]:
    """Step: the variant as ONNX Runtime rewrites it when it loads it (level `extended`).

    The level above it, `all`, also arranges tensors for the instruction set of one CPU; the server does that when it loads.

    Raises:
        StepError: E425, ONNX Runtime changes nothing; E423, the result differs from the variant.
    """
    context.progress("optimizing the graph", 0.0)
    source = context.inputs["model"] / _FILE
    with refuse_on(Exception, "E425", "ONNX Runtime does not optimize the model in advance"):
        optimized = _loaded(source, context.scratch / "optimized.onnx")
    if _operators(optimized) == _operators(onnx.load(str(source), load_external_data=False)):
        raise _nothing("being optimized in advance", "ONNX Runtime runs every node as it is")
    _keep_used_domains(optimized)
    _save(optimized, context)
    return _finished(
        context,
        note="its graph was optimized by ONNX Runtime in advance, for CPUs with the instructions of the one that made it",
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the advice that these libraries log on every call."""
    loggers = [logging.getLogger(name) for name in (None, "onnxruntime", "onnxslim")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _loaded(source: Path, target: Path) -> Any:
    """What ONNX Runtime makes of the model at `source` when it loads it, without arranging it for one CPU."""
    options = session_options(1)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    if source.with_name(_DATA).is_file() or source.with_name(f"{source.name}.data").is_file():
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{target.name}.data"
        )
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return onnx.load(str(target))


def _is_large(context: StepContext) -> bool:
    return (context.inputs["model"] / _DATA).is_file()


def _save(model: Any, context: StepContext) -> None:
    onnx.save(model, str(context.output / _FILE), save_as_external_data=_is_large(context), location=_DATA)


def _finished(context: StepContext, *, note: str | None = None) -> dict[str, Any]:
    """Check the written file as a conversion is checked, and describe it."""
    context.progress("checking the graph", 0.7)
    before = VariantFacts.read(context.inputs["model"])
    signature, samples = read_import(context.inputs["import"])
    # ONNX's checker does not know ONNX Runtime's own operators; the runtime and the comparison decide.
    size = onnx_finish.finish(context.output / _FILE, signature, checked=False)
    checked = before.checked
    if before.precision == "fp32":
        one, other = (
            open_runtime("onnx", at, signature, threads=1) for at in (context.inputs["model"], context.output)
        )
        checked = tuple(check_sizes(signature, samples, one.run, other.run))
    notes = before.notes if note is None else (*before.notes, note)
    facts = before.model_copy(update={**size, "checked": checked, "notes": notes})
    facts.write(context.output)
    return facts.summary()


def _operators(model: Any) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def _keep_used_domains(model: Any) -> None:
    """Drop the domains that these libraries declare without using them; other runtimes refuse to load them."""
    used = {node.domain for node in model.graph.node} | {""}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    copies = [type(entry).FromString(entry.SerializeToString()) for entry in kept]
    del model.opset_import[:]
    model.opset_import.extend(copies)


def _nothing(what: str, cause: str) -> StepError:
    return StepError("E425", f"the model gains nothing by {what}", cause=cause)
