"""Calls a model with inputs of given sizes, to see whether it takes them and how long that takes."""

from __future__ import annotations

import re
import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import process_time
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.frameworks.source.edge_cases import MAX_CASE_BYTES
from orchestrator.frameworks.source.samples import element_bytes, random_samples
from orchestrator.spec.signature import Allowed, Signature
from orchestrator.steps.context import StepError

if TYPE_CHECKING:
    from orchestrator.frameworks.source.integer_ranges import Tried
    from orchestrator.frameworks.source.samples import Array

__all__ = ["Trial", "Trials", "shortened"]

_LONGEST = 100
"""Characters of a reason; frameworks print whole graphs."""

_WORDY = re.compile(r"Non-zero status code returned while running |Status Message: |\S+\.(h|cc|cpp):\d+ ?|Name:")
"""What ONNX Runtime says around the operator's name and the reason."""

_MUCH_MEMORY = 2**30


@dataclass(frozen=True, slots=True)
class Trial:
    """What a model did with inputs of one size.

    Attributes:
        refused: why it does not take them; empty if it does.
        seconds: of computing.
        memory: by how much the call increased the most memory that the process ever had, bytes.
    """

    refused: str
    seconds: float = 0.0
    memory: int = 0


class Trials:
    """Calls of one model, each size once.

    Args:
        signature: with its inputs.
        tried: calls the model.
        values: what the inputs hold: for each alternative, the names of integer inputs with what they are drawn from. A size is
            taken if the model takes it with every alternative.
        patience: seconds of computing in all, after which every further size counts as refused.
        progress: shows what is tried.

    Attributes:
        calls: how many there were.
        last_refusal: why the model did not take the last inputs that it did not take; empty before.
    """

    def __init__(
        self,
        signature: Signature,
        tried: Tried,
        values: Sequence[Mapping[str, Allowed]],
        patience: float,
        progress: Callable[..., None],
    ) -> None:
        self.calls = 0
        self.last_refusal = ""
        self.values = list(values)
        self._signature = signature
        self._tried = tried
        self._ends = process_time() + patience
        self._progress = progress
        self._known: dict[tuple[tuple[str, int], ...], Trial] = {}

    def start_with(self, *alternatives: Mapping[str, Allowed]) -> None:
        """Forget all calls, and let the inputs hold each of these values."""
        self.values = list(alternatives)
        self._known.clear()

    def bearable(self, sizes: Mapping[str, int], seconds: float) -> bool:
        """Whether the model takes these sizes, in so many seconds of computing at most, and with less than a gigabyte."""
        trial = self.at(sizes)
        return not trial.refused and trial.seconds <= seconds and trial.memory <= _MUCH_MEMORY

    @property
    def out_of_time(self) -> bool:
        """Whether the time for trying is used up."""
        return process_time() > self._ends

    def takes(self, sizes: Mapping[str, int]) -> bool:
        """Whether the model answers, with outputs that are neither empty nor NaN."""
        return not self.at(sizes).refused

    def at(self, sizes: Mapping[str, int]) -> Trial:
        """The call with these sizes of all dimensions."""
        key = tuple(sorted(sizes.items()))
        if key not in self._known:
            if self.out_of_time:
                return Trial("the time for trying sizes was used up")
            trial = self._known[key] = self._called(sizes)
            self.last_refusal = trial.refused or self.last_refusal
        return self._known[key]

    def _called(self, sizes: Mapping[str, int]) -> Trial:
        if self._bytes(sizes) > MAX_CASE_BYTES:
            return Trial(f"such inputs fill more than {MAX_CASE_BYTES >> 20} MiB")
        shown = ", ".join(f"{name} {size}" for name, size in sizes.items())
        self._progress(f"trying {shown}" if shown else "trying the model")
        slowest = 0.0
        before = _most_memory()
        for values in self.values:
            self.calls += 1
            begun = process_time()
            try:
                outputs = list(self._tried(self.inputs(sizes, values)))
            except StepError as error:
                return Trial(shortened(error.cause or error.message), process_time() - begun)
            except MemoryError:
                return Trial("its memory does not suffice", process_time() - begun)
            slowest = max(slowest, process_time() - begun)
            if any(output.size == 0 for output in outputs):
                return Trial("an output is empty", slowest)
            if any(output.dtype.kind == "f" and np.isnan(output).any() for output in outputs):
                return Trial("it answers NaN", slowest)
        return Trial("", slowest, _most_memory() - before)

    def inputs(self, sizes: Mapping[str, int], values: Mapping[str, Allowed]) -> dict[str, Array]:
        """Random inputs of one call."""
        fixed = replace(
            self._signature,
            inputs=tuple(replace(t, allowed=values.get(t.name, t.allowed)) for t in self._signature.inputs),
            dims={name: (size, size) for name, size in sizes.items()},
            batch=None,
            multiples={},
        )
        # Not array[0], which is no array where the input has no dimensions.
        return {name: array.reshape(array.shape[1:]) for name, array in random_samples(fixed, 0, rows=1).inputs.items()}

    def _bytes(self, sizes: Mapping[str, int]) -> int:
        return sum(
            int(np.prod(self._signature.shape_at(tensor, sizes), dtype=np.int64)) * element_bytes(tensor.dtype)
            for tensor in self._signature.inputs
        )


def _most_memory() -> int:
    """The most memory that this process has had, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def shortened(reason: str) -> str:
    """A framework's reason in a few words, for a comment."""
    line = _WORDY.sub("", reason.strip().splitlines()[0]) if reason.strip() else "without a reason"
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3].rstrip()}..."
