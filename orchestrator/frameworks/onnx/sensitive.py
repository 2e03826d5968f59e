"""Finds the smallest set of layers that have to stay in floating point for a quantized model to hold its gates.

Layers are ranked by what quantizing each alone does to the outputs, as NNCF ranks them for its quantization with accuracy
control. Then the most sensitive ones are left out: 1, 2, 4, ... until the gates hold, by bisection between the last two, and
at last without those that turn out not to be needed. The number of trials is limited, so that the result depends on nothing but
the model, the samples and the gates, unless the step is given a time that is too short for that: then more layers are ranked
together, and the search ends with the fewest layers that it has found to be enough.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx
import onnxruntime

from orchestrator.artifacts.variant_facts import FloatLayer
from orchestrator.frameworks.onnx.runtime import session_options
from orchestrator.steps.context import StepError

if TYPE_CHECKING:
    from orchestrator.frameworks.source.samples import Array

__all__ = ["Layer", "LeftOut", "Quantize", "layers_of", "leave_out"]

MOST_RANKED = 16
"""Neighbouring layers are ranked together if a model has more: each rank takes one quantization and some calls."""

MOST_DROPPED = 4
"""The number of layers that are tried in int8 again, the least sensitive first."""

_WEIGHTED = frozenset(
    {"Conv", "ConvTranspose", "MatMul", "Gemm", "Gather", "LSTM", "Attention", "EmbedLayerNormalization"}
)


class Quantize(Protocol):
    """Writes the quantized model to a file."""

    def __call__(self, target: Path, *, only: Sequence[str] = (), without: Sequence[str] = ()) -> None:
        """Quantize.

        Args:
            target: the file.
            only: names of the nodes to quantize; none: all.
            without: names of the nodes to leave in floating point.
        """


@dataclass(frozen=True, slots=True)
class Layer:
    """A node with weights, and the nodes after it up to the next one with weights.

    Attributes:
        name: for people: that of its weights if it says more than the node's.
        operator: of the node with weights.
        nodes: names in the graph.
    """

    name: str
    operator: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What stayed in floating point.

    Attributes:
        layers: the most sensitive first.
        hurried: whether the time ran out, so that fewer layers might do.
    """

    layers: tuple[FloatLayer, ...]
    hurried: bool


def layers_of(path: Path) -> list[Layer]:
    """The layers of the main graph at `path`, in its order; all nodes must have names."""
    graph = onnx.load(str(path), load_external_data=False).graph
    weights = {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1
    }
    users = {name: node for node in graph.node for name in node.input}
    stored = {tensor.name for tensor in graph.initializer}
    found: list[tuple[Any, list[str]]] = []
    before: list[str] = []
    for node in graph.node:
        if node.op_type in _WEIGHTED and weights & set(node.input):
            found.append((node, [*before, node.name]))
            before = []
        elif found:
            found[-1][1].append(node.name)
        else:
            before.append(node.name)
    return [Layer(_shown(node, users, stored), node.op_type, tuple(names)) for node, names in found]


def _shown(node: Any, users: Mapping[str, Any], stored: set[str]) -> str:
    """The name of the layer's weights or bias without its last part, if an exporter kept the module's; else the node's own."""
    after = users.get(node.output[0])
    named = [*node.input, *(after.input if after is not None and after.op_type == "Add" else ())]
    for name in named:
        if name in stored and "." in name:
            return str(name).rpartition(".")[0]
    return str(node.name)


def leave_out(
    prepared: Path,
    target: Path,
    scratch: Path,
    calls: Iterable[Mapping[str, Array]],
    quantize: Quantize,
    holds: Callable[[Path], bool],
    progress: Callable[..., None],
    *,
    seconds: float | None = None,
) -> LeftOut:
    """Write the quantized model that leaves out as few layers as its gates demand.

    Args:
        prepared: the model in floating point; all its nodes have names.
        target: where to write it.
        scratch: a folder for trials.
        calls: the inputs to rank layers with.
        quantize: writes a quantized model.
        holds: whether the model at a path holds its gates.
        progress: as in `StepContext`.
        seconds: that ranking and trying should take at most; None for any number. What holds the gates is looked for even longer.

    Raises:
        StepError: E425, the gates hold without leaving out any layer, or not even with one layer in int8.
    """
    layers = layers_of(prepared)
    if len(layers) < 2:
        raise StepError(
            "E425", "no layer can be left out", cause=f"the model has {len(layers)} with weights of its own"
        )
    clock = _Clock(seconds)
    progress("quantizing all layers", 0.3)
    quantize(target)
    if holds(target):
        raise StepError(
            "E425", "the option exclude changes nothing here", cause="the gates hold with every layer in int8"
        )
    clock.turn()  # a trial takes as long as this one
    ranked = _ranked(prepared, scratch, layers, list(calls), quantize, progress, clock)
    written: Sequence[_Ranked] = ()

    def tried(left: Sequence[_Ranked]) -> bool:
        nonlocal written
        _removed(target)
        written = left
        quantize(target, without=[name for each in left for name in each.layer.nodes])
        found = holds(target)
        clock.turn()
        return found

    few = _fewest(ranked, tried, progress, clock)
    kept = _without_needless(few, tried, progress, clock)
    if list(written) != list(kept) and not tried(kept):
        raise StepError("E425", "the model cannot be quantized the same way twice")
    return LeftOut(
        tuple(FloatLayer(name=each.layer.name, operator=each.layer.operator, error=each.error) for each in kept),
        clock.hurried,
    )


@dataclass(frozen=True, slots=True)
class _Ranked:
    layer: Layer
    error: float


class _Clock:
    """The time that is left, in trials of which each takes as long as the last one."""

    def __init__(self, seconds: float | None) -> None:
        self._begun = self._last = time.monotonic()
        self._seconds = float("inf") if seconds is None else seconds
        self._each = 0.0
        self.hurried = False

    def turn(self) -> None:
        """Note that a trial has ended."""
        now = time.monotonic()
        self._each, self._last = now - self._last, now

    def has(self, trials: float) -> bool:
        """Whether there is time for so many trials; if not, the result is a hurried one."""
        enough = time.monotonic() - self._begun + trials * self._each <= self._seconds
        self.hurried = self.hurried or not enough
        return enough

    def trials(self, share: float, at_most: int) -> int:
        """How many trials fit into this share of the time that is left, at least 1."""
        for number in range(at_most, 1, -1):
            if time.monotonic() - self._begun + number * self._each / share <= self._seconds:
                return number
            self.hurried = True
        return 1


def _ranked(
    prepared: Path,
    scratch: Path,
    layers: Sequence[Layer],
    calls: Sequence[Mapping[str, Array]],
    quantize: Quantize,
    progress: Callable[..., None],
    clock: _Clock,
) -> list[_Ranked]:
    """The layers by their error alone, the largest first; equal ones in the order of the graph."""
    exact = _outputs(prepared, calls)
    together = clock.trials(0.5, min(MOST_RANKED, len(layers)))
    groups = [list(part) for part in np.array_split(np.arange(len(layers)), together)]
    found = []
    trial = scratch / "alone.onnx"
    for number, group in enumerate(groups):
        progress(f"ranking layers ({number + 1} of {len(groups)})", 0.3 + 0.3 * number / len(groups))
        _removed(trial)
        quantize(trial, only=[name for index in group for name in layers[index].nodes])
        error = _error(exact, _outputs(trial, calls))
        found += [_Ranked(layers[index], error) for index in group]
        clock.turn()
    return sorted(found, key=lambda each: -each.error)


def _fewest(
    ranked: Sequence[_Ranked],
    tried: Callable[[Sequence[_Ranked]], bool],
    progress: Callable[..., None],
    clock: _Clock,
) -> Sequence[_Ranked]:
    """The shortest beginning of the ranking whose layers have to be left out, or the shortest that there was time to find.

    Raises:
        StepError: E425, that is all of them.
    """
    fails, holds = 0, 1
    while True:
        progress(f"leaving out {holds} of {len(ranked)} layers", 0.6)
        if tried(ranked[:holds]):
            break
        if holds == len(ranked) - 1:
            raise StepError(
                "E425",
                "no layer can be quantized within the gates",
                cause=f"they fail even with only {ranked[-1].layer.name} in int8",
                remedy="leave int8 out of `optimize.precisions`, or allow it more error under `verify:`",
            )
        # Where only one more trial is left, it is that of the set which is the most likely to hold.
        fails, holds = holds, min(2 * holds if clock.has(2) else len(ranked), len(ranked) - 1)
    while holds - fails > 1 and clock.has(1):
        middle = (fails + holds) // 2
        progress(f"leaving out {middle} of {len(ranked)} layers", 0.75)
        if tried(ranked[:middle]):
            holds = middle
        else:
            fails = middle
    return ranked[:holds]


def _without_needless(
    left: Sequence[_Ranked],
    tried: Callable[[Sequence[_Ranked]], bool],
    progress: Callable[..., None],
    clock: _Clock,
) -> list[_Ranked]:
    """These layers without those that may be in int8 after all. The last one is needed: without it, bisection failed."""
    kept = list(left)
    for each in list(reversed(left[:-1]))[:MOST_DROPPED]:
        # What is kept is written once more where the last trial was another set.
        if not clock.has(2):
            break
        progress(f"trying {each.layer.name} in int8 again", 0.9)
        fewer = [other for other in kept if other is not each]
        if tried(fewer):
            kept = fewer
    return kept


def _outputs(path: Path, calls: Sequence[Mapping[str, Array]]) -> list[list[Array]]:
    session = onnxruntime.InferenceSession(str(path), session_options(1), providers=["CPUExecutionProvider"])
    return [session.run(None, dict(inputs)) for inputs in calls]


def _error(exact: Sequence[Sequence[Array]], other: Sequence[Sequence[Array]]) -> float:
    """The largest error of an output over all calls, as a fraction of its magnitude (both as Euclidean norms)."""
    worst = 0.0
    for position in range(len(exact[0])):
        if exact[0][position].dtype.kind != "f":
            continue
        one, two = (
            np.concatenate([call[position].reshape(-1).astype(np.float64) for call in calls])
            for calls in (exact, other)
        )
        length = float(np.linalg.norm(one[np.isfinite(one)])) or 1.0
        difference = np.nan_to_num(one - two, nan=0.0, posinf=length, neginf=length)
        worst = max(worst, float(np.linalg.norm(difference)) / length)
    return round(worst, 6)


def _removed(path: Path) -> None:
    """Remove a model, since weights in a second file would be appended to it."""
    path.unlink(missing_ok=True)
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)
