"""What a reader of the decision must know to weigh it: what was not proven, and what was noisy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from orchestrator.artifacts.measurement import Objective
from orchestrator.artifacts.runtime_report import RuntimeReport, RuntimeResult
from orchestrator.artifacts.server_report import ServerReport
from orchestrator.artifacts.variant_facts import VariantFacts
from orchestrator.measure.finalists import against_baseline
from orchestrator.select.fates import Candidate
from orchestrator.select.ranking import Choice
from orchestrator.select.service_level import service_level
from orchestrator.steps.parameters import SelectParameters

__all__ = ["decision_notes"]

_NOISY = 3.0
"""An interval whose upper end is this many times its lower one leaves open how much faster something is."""


def decision_notes(
    parameters: SelectParameters,
    variants: Mapping[str, Path],
    reports: tuple[RuntimeReport, ServerReport],
    candidates: Sequence[Candidate],
    choice: Choice,
    *,
    held: bool,
) -> tuple[str, ...]:
    """The notes of a decision, a sentence each.

    Args:
        parameters: of the step `select`.
        variants: variant → its folder, of those that were made.
        reports: of the runtime benchmark, and of the server benchmark.
        candidates: all of them, with their fates.
        choice: the winner.
        held: whether the winner holds the service level.
    """
    runtime, server = reports
    return (
        *_of_the_choice(choice, held=held),
        *_of_the_benchmarks(parameters, runtime, server),
        *_of_what_stands_in(parameters, candidates, choice.winner),
        *_of_programs(candidates),
        *_of_variants(variants, candidates),
        *_of_noise(runtime, candidates, parameters.objective),
    )


def _of_the_choice(choice: Choice, *, held: bool) -> Iterator[str]:
    if not held:
        wire = choice.winner.over_the_wire
        missed = wire is not None and service_level(wire) == "missed"
        yield f"SLO {'not met' if missed else 'not proven'}; slo.enforce is false, so the best candidate was taken"
    if choice.compared == "runtimes":
        yield f"chosen by what the runtimes showed: {choice.why_runtimes}"


def _of_the_benchmarks(parameters: SelectParameters, runtime: RuntimeReport, server: ServerReport) -> Iterator[str]:
    if runtime.samples == "random":
        yield "parity and speed were proven on random inputs only: no real `samples:` are given"
    if runtime.baseline.fate != "measured":
        yield f"nothing could be compared with the baseline: {runtime.baseline.reason}"
    if server.rate is not None and parameters.slo.throughput is None:
        yield f"the spec gives no slo.throughput: latency was measured at {server.rate:.4g}/s"
    machine = server.measured_on
    if machine.accelerators is not None:
        gpus = ", ".join(machine.accelerators)
        yield f"measured on {gpus} with driver {machine.driver}; other GPUs have other latencies"
    if server.rate is not None and server.load_generator.shares_cpus:
        yield server.load_generator.note
    if machine.cpus != machine.cpus_wanted:
        yield machine.how


def _of_what_stands_in(
    parameters: SelectParameters, candidates: Sequence[Candidate], winner: Candidate
) -> Iterator[str]:
    """That the winner is the model as given in another format than its own, which no server takes, and what that costs."""
    source = parameters.source
    if not winner.as_given or winner.row.format == source or winner.runtime is None:
        return
    if any(c.as_given and c.row.format == source and c.fate == "lost" for c in candidates):
        return  # it was compared as it is
    comparison = against_baseline(winner.runtime, parameters.objective)
    cost = "" if comparison is None else f"; it takes {comparison.ratio:.2f} times as long as that in its own runtime"
    yield f"{winner.name} stands for the model as given, since no server takes {source}{cost}"


def _of_programs(candidates: Sequence[Candidate]) -> Iterator[str]:
    """What was measured in another version of a server than the one that is rendered."""
    for found in candidates:
        wire = found.over_the_wire
        if wire is not None and wire.program is not None and not wire.program.rendered:
            yield (
                f"the server of {found.name} was measured in {wire.program.name} ({wire.program.version}), which is not "
                "the version that is rendered"
            )


def _of_variants(variants: Mapping[str, Path], candidates: Sequence[Candidate]) -> Iterator[str]:
    """What the steps that made the variants say of how far they are proven."""
    for found in candidates:
        if (folder := variants.get(found.row.variant)) is not None:
            yield from (f"{found.name}: {note}" for note in VariantFacts.read(folder).notes)


def _of_noise(runtime: RuntimeReport, candidates: Sequence[Candidate], objective: Objective) -> Iterator[str]:
    """Where the numbers vary too much, or had not settled when they were taken."""
    wide, unsettled = [], []
    results: list[tuple[str, RuntimeResult]] = [("baseline", runtime.baseline)]
    for found in candidates:
        if found.runtime is not None:
            results.append((found.name, found.runtime))
            comparison = against_baseline(found.runtime, objective)
            if comparison is not None and (comparison.high is None or comparison.low * _NOISY < comparison.high):
                high = "inf" if comparison.high is None else f"{comparison.high:.2f}"
                wide.append(f"{found.name} ({comparison.low:.2f} to {high})")
        if found.over_the_wire is not None and not found.over_the_wire.warm_up.settled:
            unsettled.append(f"the server of {found.name}")
    for name, result in results:
        batches = () if result.measured is None else result.measured.batches
        sizes = [str(batch.rows) for batch in batches if batch.warm_up is not None and not batch.warm_up.settled]
        if sizes:
            unsettled.append(f"{name} at batch {', '.join(sizes)}")
    if wide:
        what = "latency" if objective == "latency" else "time for each row"
        yield f"noisy: by how much the {what} differs from the baseline's is uncertain for {', '.join(wide)}"
    if unsettled:
        yield f"warming up had not settled for {'; '.join(unsettled)}"
