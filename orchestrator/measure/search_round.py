"""The step `benchmark.round-N`: measures the candidates of one round of a search in their runtimes, cheaply and in turns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from orchestrator.artifacts.candidate import candidate_identity
from orchestrator.artifacts.imported import SAMPLES_FILE, Imported
from orchestrator.artifacts.measurement import MeasuredOn
from orchestrator.artifacts.round_report import RoundReport, RoundResult, RoundTimes
from orchestrator.artifacts.variant_facts import VariantFacts
from orchestrator.machine.cpus import cpu_share
from orchestrator.machine.cuda_devices import cuda_devices
from orchestrator.measure.runtime_benchmark import batch_sizes
from orchestrator.measure.runtime_candidates import RuntimeCandidate, converted_candidates
from orchestrator.measure.runtime_report import best_rows
from orchestrator.measure.sweep import NO_TIME, Measurement, SweepSettings, sweep
from orchestrator.steps.context import StepContext
from orchestrator.steps.parameters import CandidateParameters, RoundParameters
from orchestrator.steps.roles import variant_role
from orchestrator.store.digest import digest_tree

__all__ = ["measure"]

_TURNS = 20
"""Turns of a group, if there is time: with twelve, a change would have to be faster in every one to be proven among twenty of them."""

_TURNS_AT_MOST = 1000
"""The turns of the second group are numbered from here."""

_SCREENING = 3
"""The turns of the first round after which candidates are dropped that are twice as slow as another."""

_LOADING = 0.75
"""The part of a round's time after which no more candidates are loaded, so that the round ends in time if the machine has become slower."""

_MEASURING, _WARMING = 5.0, 0.3
"""Seconds: less than half of what the runtime benchmark takes, since only few candidates reach that one."""


def measure(context: StepContext) -> dict[str, Any]:
    """Measure the candidates of a round; writes a `RoundReport` (docs/measuring.md).

    Inputs: `import`, and `variant:VARIANT` and `verdict:CANDIDATE` if they exist.

    Raises:
        StepError: E440, no batch size is within the model's range.
    """
    begun = time.monotonic()
    parameters = RoundParameters.from_json(context.params)
    signature = Imported.read(context.inputs["import"]).signature
    share = cpu_share(parameters.cpus)
    same = _same(context, parameters)
    candidates, left_out = converted_candidates(
        context,
        [each for each in parameters.candidates if each.candidate not in same],
        signature.as_json(),
        share.threads,
        accelerator=parameters.accelerator,
        unverified=parameters.unverified,
    )
    sizes = batch_sizes(parameters.batch_sizes, signature)
    settings = SweepSettings(
        batch_sizes=sizes[:1] if parameters.objective == "latency" else sizes,
        batched=signature.batch is not None,
        share=share,
        memory=parameters.memory,
        samples=context.inputs["import"] / SAMPLES_FILE,
        time_budget=parameters.time_budget,
        measuring=_MEASURING,
        rounds=_TURNS,
        warming=_WARMING,
        screening=_SCREENING if parameters.drops else 0,
        loading=_LOADING,
    )
    found = _measured(candidates, parameters, settings, context)
    reasons = {each.name: NO_TIME for each in candidates} | {left.name: left.reason for left in left_out}
    results = [
        _result(each, found.get(each.candidate, []), same.get(each.candidate), reasons.get(each.candidate, ""))
        for each in parameters.candidates
    ]
    RoundReport(
        measured_on=MeasuredOn.of(share, cuda_devices() if parameters.accelerator == "cuda" else None),
        batch_sizes=settings.batch_sizes,
        seconds=round(time.monotonic() - begun, 3),
        candidates=tuple(results),
    ).write(context.output)
    return {"measured": len(found), "line": _line(results, parameters)}


def _measured(
    candidates: Sequence[RuntimeCandidate],
    parameters: RoundParameters,
    settings: SweepSettings,
    context: StepContext,
) -> dict[str, list[tuple[int, Measurement]]]:
    """Candidate → its measurements with the numbers of their groups: one, or for a reference one in each group.

    Every candidate of a group is a process with the model in memory, so a round with many candidates has several groups, each with
    the candidates that the others are compared with.
    """
    again = [each for each in candidates if each.name in parameters.references]
    others = [each for each in candidates if each.name not in parameters.references]
    size = parameters.at_once if again else max(1, len(others))
    groups = [others[start : start + size] for start in range(0, len(others), size)] or [[]]
    ends = time.monotonic() + settings.time_budget
    found: dict[str, list[tuple[int, Measurement]]] = {}
    for number, group in enumerate(groups):
        left = (ends - time.monotonic()) / (len(groups) - number)
        if number and left <= 0:
            break

        def progress(text: str, fraction: float, number: int = number) -> None:
            part = f"part {number + 1} of {len(groups)}: " if len(groups) > 1 else ""
            context.progress(f"{part}{text}", (number + fraction) / len(groups))

        for each in sweep([*again, *group], replace(settings, time_budget=left), context.scratch, progress):
            found.setdefault(each.name, []).append((number, each))
    return found


def _same(context: StepContext, parameters: RoundParameters) -> dict[str, str]:
    """Candidate → an earlier one whose model file, backend and options are the same, so that measuring it says nothing."""
    first: dict[tuple[str, str, str], str] = {}
    found: dict[str, str] = {}
    digests: dict[str, str] = {}
    for each in parameters.candidates:
        folder = context.inputs.get(variant_role(each.variant))
        if folder is None:
            continue
        content = digests.setdefault(each.variant, _content(folder))
        known = first.setdefault((content, each.backend, each.options.suffix()), each.candidate)
        if known != each.candidate:
            found[each.candidate] = known
    return found


def _content(folder: Path) -> str:
    """The digests of a variant's files, without the facts, which name how it was made."""
    files = digest_tree(folder).files
    return " ".join(f"{name}:{files[name].sha256}" for name in sorted(files) if name != VariantFacts.FILE)


def _result(
    each: CandidateParameters, measured: Sequence[tuple[int, Measurement]], same: str | None, left_out: str
) -> RoundResult:
    identity = dict(candidate_identity(each))
    if same is not None:
        reason = f"its model file and options are those of {same}"
        return RoundResult(**identity, fate="same", reason=reason, error=None, same_as=same, times=())
    if not measured:
        return RoundResult(**identity, fate="not measured", reason=left_out, error=None, same_as=None, times=())
    # A reference that fails in one group was still measured in others.
    first = next((found for _, found in measured if found.fate == "measured"), measured[0][1])
    return RoundResult(
        **identity,
        fate=first.fate,
        reason=first.reason,
        error=first.error,
        same_as=None,
        times=tuple(times for group, found in measured for times in _times(found, group)),
    )


def _times(measured: Measurement, group: int) -> tuple[RoundTimes, ...]:
    if not measured.samples:
        return ()
    smallest, best = min(measured.samples), best_rows(measured)
    calls, rows = measured.samples[smallest], measured.samples[best]
    at_once = best * measured.candidate.instances
    return tuple(
        RoundTimes(
            number=group * _TURNS_AT_MOST + number,
            call=median(calls[number]),
            row=fmean(rows[number]) / at_once,
        )
        for number in sorted(calls.keys() & rows.keys())
    )


def _line(results: list[RoundResult], parameters: RoundParameters) -> str:
    """What leads after the round, for people."""
    seconds = {
        each.candidate: median(times.of(parameters.objective) for times in each.times)
        for each in results
        if each.fate == "measured" and each.times
    }
    if not seconds:
        return "nothing could be measured"
    leads = min(seconds, key=lambda name: seconds[name])
    what = "per call" if parameters.objective == "latency" else "per row"
    return f"{len(seconds)} measured to the end; {leads} leads with {1000 * seconds[leads]:.3g} ms {what}"
