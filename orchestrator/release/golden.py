"""Golden requests: the samples, sent as real requests to a server, must be answered within the gates of `verify`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.artifacts.baseline import Answers, read_baseline
from orchestrator.artifacts.imported import SAMPLES_FILE, Imported
from orchestrator.artifacts.verdict import CaseKind, GateResult
from orchestrator.backends.backend import ServingBackend
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.spec.gates import DEFAULT_GATES, is_floor
from orchestrator.spec.signature import Signature
from orchestrator.targets.certificate import Expected
from orchestrator.targets.client import infer, rows_within
from orchestrator.verify.gates import Gates, closeness, judge, worst
from orchestrator.verify.parity import compare, magnitude
from orchestrator.verify.rows import with_rows

__all__ = ["GoldenReport", "check_golden", "sample_calls"]

Array = np.ndarray[Any, Any]

_BATCHED_BYTES = 4 * 2**20
"""Bytes of inputs that are sent in batches; as JSON they are about five times as many."""
_AT_ONCE = 4
"""Requests of one row under way together, so that a server which batches has something to mix up."""
_REQUEST_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class GoldenReport:
    """The result of the golden requests.

    Attributes:
        requests: how many were sent.
        rows: different samples in them.
        samples: `real`, or `random` where the spec gives none.
        gates: for each gate and output the result nearest to its limit; all passed.
    """

    requests: int
    rows: int
    samples: str
    gates: tuple[GateResult, ...]

    def summary(self) -> str:
        """One line for people."""
        nearest = max(self.gates, key=closeness)
        kind = "samples" if self.samples == "real" else "random inputs"
        return (
            f"{self.rows} {kind} in {self.requests} requests answered within the gates;"
            f" nearest: {nearest.gate} of {nearest.output} {nearest.measured:.3g}, limit {nearest.limit:.3g}"
        )


@dataclass(frozen=True, slots=True)
class _Golden:
    """The import step's output that is needed here, inputs by name, rows first; and how many bytes of them go in one call."""

    signature: Signature
    inputs: Mapping[str, Array]
    baseline: Mapping[str, Answers]
    classes: tuple[str, ...]
    samples: str
    call_bytes: int

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def smallest(self) -> int:
        """The fewest rows of a request."""
        return 1 if self.signature.batch is None else self.signature.dims[self.signature.batch][0]

    @property
    def batches(self) -> Iterator[Array]:
        """The rows of as many samples as fit, in calls of the largest size that the model accepts."""
        if self.signature.batch is None:
            return
        row = max(1, sum(array[:1].nbytes for array in self.inputs.values()))
        fitting = max(self.smallest, _BATCHED_BYTES // row)
        size = rows_within(self.signature, self.inputs, self.call_bytes)
        sent = min(self.rows, fitting)
        for start in range(0, sent, size):
            stop = min(sent, start + size)
            # The last call may be none that the model accepts, so it overlaps the one before; or repeats samples.
            least = self.signature.covering(self.signature.batch, stop - start)
            yield np.resize(np.arange(max(0, min(start, stop - least)), stop), max(least, stop - start))


def check_golden(
    base_url: str,
    backend: ServingBackend,
    name: str,
    samples: Path,
    gates: Mapping[str, float],
    *,
    precision: str,
    rows: int = 32,
    batches: bool = True,
    max_body: int | None = None,
    token_file: Path | None = None,
    certificate: Expected | None = None,
) -> GoldenReport:
    """Send samples to a server and judge its answers by the gates of `verify`.

    They go in the smallest requests that the model takes, and in batches. The limits on single values hold for every request; those
    over all samples (cosine, top-1 agreement) are only judged if all samples fit into the batches, as in `verify`.

    Args:
        base_url: `http://HOST:PORT` or `https://HOST:PORT` of the server.
        backend: the backend of the server.
        name: the model's name on the wire.
        samples: the output folder of the import step.
        gates: what the spec sets for `precision`; the rest is the precision's default.
        precision: of the variant that is served.
        rows: samples that are sent alone, or as the first of a smallest batch.
        batches: whether samples are sent in batches as well.
        max_body: see `infer`.
        token_file: see `infer`.
        certificate: see `infer`.

    Raises:
        DeployFailed: E608 an answer is not within the gates; E609 a request failed.
    """
    golden = _read(samples, _BATCHED_BYTES if max_body is None else min(_BATCHED_BYTES, max_body // 2))

    def send(chosen: Array | int) -> dict[str, Array]:
        inputs = {key: np.asarray(array[chosen], order="C") for key, array in golden.inputs.items()}
        try:
            answer = infer(
                base_url,
                backend,
                name,
                inputs,
                signature=golden.signature,
                timeout=_REQUEST_SECONDS,
                token_file=token_file,
                certificate=certificate,
            )
        except DeployFailed as failed:
            error = failed.diagnostics[0]
            raise DeployFailed(
                Diagnostic(
                    "E609",
                    f"the server failed on a golden request ({_named(chosen)})",
                    cause=f"{error.message}: {error.cause}",
                    remedy="the server's log ends with the reason; a server that is too slow for a request made from the samples "
                    "needs more `hardware.cpus`, one that runs out of memory more `hardware.memory`",
                )
            ) from failed
        missing = set(golden.baseline) - set(answer)
        if missing:
            raise _wrong(f"output {min(missing)} is missing from the answer to {_named(chosen)}")
        return answer

    alone = _rows_alone(golden, rows)
    together = list(golden.batches) if batches else []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = list(pool.map(send, alone))
    answers += [send(batch) for batch in together]
    limits = Gates(DEFAULT_GATES[precision], gates)
    requests: list[Array | int] = [*alone, *together]
    results = [
        result
        for chosen, answer in zip(requests, answers, strict=True)
        for result in _judged(golden, limits, (_named(chosen), "call"), answer, chosen)
    ]
    covered = _covered(golden, together, answers[len(alone) :])
    if covered is not None:
        results += _judged(golden, limits, ("all samples", "samples"), covered, slice(None))
    gated = worst(results)
    failed = [result for result in gated if not result.passed]
    if failed:
        raise _wrong(*(_describe(result) for result in failed))
    seen = {row for chosen in requests for row in np.atleast_1d(chosen).tolist()}
    return GoldenReport(len(requests), len(seen), golden.samples, tuple(gated))


def sample_calls(samples: Path, count: int, most_bytes: int) -> Iterator[Mapping[str, Array]]:
    """The inputs of the smallest calls that the model takes, by name, one for each of the first samples; at least one.

    Args:
        samples: the output folder of the import step.
        count: at most so many.
        most_bytes: of all tensors together.
    """
    golden = _read(samples, most_bytes)
    sent = 0
    for chosen in _rows_alone(golden, count):
        inputs = {key: np.asarray(array[chosen], order="C") for key, array in golden.inputs.items()}
        size = sum(array.nbytes for array in inputs.values())
        if sent and sent + size > most_bytes:
            return
        sent += size
        yield inputs


def _rows_alone(golden: _Golden, count: int) -> list[Array | int]:
    """The smallest requests that the model takes; without a batch dimension the row axis is not part of the call."""
    chosen = range(min(count, golden.rows))
    if golden.signature.batch is None:
        return list(chosen)
    return [np.arange(row, row + golden.smallest) % golden.rows for row in chosen]


def _covered(golden: _Golden, batches: list[Array], answers: list[dict[str, Array]]) -> dict[str, Array] | None:
    """The answers to all samples in their order, if the batches hold each of them exactly once."""
    if not batches or not np.array_equal(np.concatenate(batches), np.arange(golden.rows)):
        return None
    return {key: np.concatenate([answer[key] for answer in answers]) for key in golden.baseline}


def _judged(
    golden: _Golden, limits: Gates, case: tuple[str, CaseKind], actual: Mapping[str, Array], chosen: Any
) -> list[GateResult]:
    """The answers to the chosen samples by every gate."""
    results = []
    for output, baseline in golden.baseline.items():
        expected, found = np.asarray(baseline[chosen]), actual[output]
        parity = compare(expected, found, scale=magnitude(baseline))
        parity = with_rows(parity, *(((expected,), (found,)) if isinstance(chosen, int) else (expected, found)))
        results += judge(output, *case, parity, gates=limits, classes=output in golden.classes)
    return results


def _named(chosen: Array | int) -> str:
    if isinstance(chosen, int):
        return f"sample {chosen}"
    if len(chosen) == 1:
        return f"sample {chosen[0]}"
    return f"samples {chosen[0]} to {chosen[-1]} in one call"


def _describe(result: GateResult) -> str:
    if result.gate == "shape":
        return f"output {result.output} has the {result.detail} ({result.case})"
    if result.detail:
        return f"{result.gate} of output {result.output}: {result.detail} ({result.case})"
    side = "below" if is_floor(result.gate) else "above"
    return (
        f"{result.gate} of output {result.output} is {result.measured:.4g},"
        f" {side} the limit {result.limit:.4g} ({result.case})"
    )


def _wrong(*reasons: str) -> DeployFailed:
    return DeployFailed(
        Diagnostic(
            "E608",
            "the server's answers differ from those of the verified variant",
            cause=reasons[0],
            remedy="choose another `serving.backend`; or, if the difference does not matter, a wider limit in `verify:`",
            notes=tuple(f"also: {reason}" for reason in reasons[1:]),
        )
    )


def _read(folder: Path, call_bytes: int) -> _Golden:
    imported = Imported.read(folder)
    arrays = _arrays(folder / SAMPLES_FILE)
    return _Golden(
        signature=imported.signature,
        inputs={tensor.name: arrays[tensor.name] for tensor in imported.signature.inputs},
        baseline=read_baseline(folder),
        classes=imported.classes,
        samples=imported.samples,
        call_bytes=call_bytes,
    )


def _arrays(path: Path) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
