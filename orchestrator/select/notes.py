"""The notes of a decision: what was not proven, and which measurements were noisy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from orchestrator.artifacts.measurement import Objective, rate_text, times_text
from orchestrator.artifacts.runtime_report import PairedTimes, RuntimeReport, RuntimeResult
from orchestrator.artifacts.server_report import OtherProcesses, ServerReport
from orchestrator.artifacts.variant_facts import VariantFacts
from orchestrator.measure.finalists import against_baseline
from orchestrator.measure.statistics import FEWEST_ROUNDS
from orchestrator.select.fates import ConsideredCandidate
from orchestrator.select.ranking import Choice
from orchestrator.select.service_level import call_text, milliseconds, service_level
from orchestrator.select.sizing import proven_rate
from orchestrator.steps.parameters import SelectParameters

__all__ = ["decision_notes"]

_NOISY = 3.0
"""If the upper end of an interval is this many times the lower end, the comparison counts as noisy."""


def decision_notes(
    parameters: SelectParameters,
    variants: Mapping[str, Path],
    reports: tuple[RuntimeReport | None, ServerReport | None],
    candidates: Sequence[ConsideredCandidate],
    choice: Choice | None,
    *,
    met: bool,
) -> tuple[str, ...]:
    """The notes of a decision, a sentence each.

    Args:
        parameters: of the step `select`.
        variants: variant → its folder, for converted variants.
        reports: of the runtime benchmark and of the server benchmark; None for one that was not run.
        candidates: all of them, with their fates.
        choice: the winner; None if nothing won.
        met: whether the winner meets the service level.
    """
    runtime, server = reports
    return (
        *(() if choice is None else _choice_notes(choice, met=met)),
        *parameters.search_notes,
        *(() if runtime is None else _runtime_notes(runtime)),
        *(() if server is None else _server_notes(parameters, server)),
        *(() if choice is None else _original_model_notes(parameters, candidates, choice.winner)),
        *(() if choice is None else _wire_notes(choice.winner)),
        *_replica_notes(parameters, choice),
        *_program_notes(candidates),
        *_variant_notes(variants, candidates),
        *(() if runtime is None else _noise_notes(runtime, candidates, parameters.objective)),
    )


def _replica_notes(parameters: SelectParameters, choice: Choice | None) -> Iterator[str]:
    if choice is None or parameters.slo.total_throughput is None:
        return
    wire = choice.winner.over_the_wire
    if wire is None or proven_rate(wire) is None:
        yield "no rate of one replica is proven, so `slo.total_throughput` sets no number of replicas"


def _choice_notes(choice: Choice, *, met: bool) -> Iterator[str]:
    if not met:
        wire = choice.winner.over_the_wire
        missed = wire is not None and service_level(wire) == "missed"
        yield f"SLO {'not met' if missed else 'not proven'}; slo.enforce is false, so the best candidate was selected"
    if choice.compared == "runtimes":
        yield f"selected by the runtime benchmark: {choice.why_runtimes}"


def _runtime_notes(runtime: RuntimeReport) -> Iterator[str]:
    if runtime.samples == "random":
        yield "parity and speed were proven on random inputs only, because the spec has no `samples:`"
    if runtime.baseline.fate != "measured":
        yield f"the baseline could not be measured, so nothing was compared with it: {runtime.baseline.reason}"


def _server_notes(parameters: SelectParameters, server: ServerReport) -> Iterator[str]:
    if server.rate is not None and parameters.slo.throughput is None:
        yield f"the spec sets no slo.throughput: latency was measured at {rate_text(server.rate)}/s"
    machine = server.measured_on
    if machine.accelerators is not None:
        gpus = ", ".join(machine.accelerators)
        yield f"measured on {gpus} with driver {machine.driver}; latencies differ on other GPUs"
    if server.rate is not None and server.load_generator.shares_cpus:
        yield server.load_generator.note
    if machine.cpus != machine.cpus_wanted:
        yield machine.how
    disturbed = [
        (each.candidate, each.measured.others)
        for each in server.candidates
        if each.measured is not None and each.measured.others is not None
    ]
    if shown := [_disturbed_text(name, found) for name, found in disturbed if found.again or found.disturbed]:
        yield f"other processes used the CPUs while servers were measured: {'; '.join(shown)}"


def _disturbed_text(name: str, found: OtherProcesses) -> str:
    """Such as `onnx-int8: 48 %, 3 segments measured again, 1 still disturbed`."""
    again = f", {found.again} segment{'s' * (found.again != 1)} measured again" if found.again else ""
    left = f", {found.disturbed} {'still ' if again else ''}disturbed" if found.disturbed else ""
    return f"{name}: {100 * found.cpus:.0f} %{again}{left}"


def _original_model_notes(
    parameters: SelectParameters, candidates: Sequence[ConsideredCandidate], winner: ConsideredCandidate
) -> Iterator[str]:
    """If the winner is the original model, converted because no server takes its format: this fact, and what it costs."""
    source = parameters.source
    if not winner.as_given or winner.identity.format == source or winner.runtime is None:
        return
    if any(c.as_given and c.identity.format == source and c.fate == "lost" for c in candidates):
        return  # the original format competed too, and lost
    comparison = against_baseline(winner.runtime, parameters.objective)
    cost = "" if comparison is None else f"; it takes {times_text(comparison.ratio)} times as long as the original"
    yield f"{winner.name} is the original model, converted because no server takes {source}{cost}"


def _wire_notes(winner: ConsideredCandidate) -> Iterator[str]:
    """How clients have to send tensors for what was measured of the winner, if there is a choice."""
    server = winner.over_the_wire
    if server is None or len(server.wires) == 1:
        return
    others = "; ".join(
        f"{each.name}: {milliseconds(each.call)}" if each.call is not None else call_text(each)
        for each in server.wires
        if each.wire != server.wire
    )
    yield f"measured with {server.over.name}: {call_text(server.over)}; {others}"


def _program_notes(candidates: Sequence[ConsideredCandidate]) -> Iterator[str]:
    """Servers that were measured in another version than the rendered one."""
    for found in candidates:
        wire = found.over_the_wire
        if wire is not None and wire.program is not None and not wire.program.rendered:
            yield (
                f"the server of {found.name} was measured with {wire.program.name} ({wire.program.version}), which is not "
                "the rendered version"
            )


def _variant_notes(variants: Mapping[str, Path], candidates: Sequence[ConsideredCandidate]) -> Iterator[str]:
    """What the steps that created the variants noted, and what the variants have frozen."""
    for found in candidates:
        if (folder := variants.get(found.identity.variant)) is not None:
            facts = VariantFacts.read(folder)
            yield from (f"{found.name}: {note}" for note in facts.notes)
            if facts.frozen:
                lines = "; ".join(f"{line.place}: {line.code}" for line in facts.frozen)
                yield (
                    f"{found.name}: tracing froze what the model's code decides by a tensor, as `verify.accept_traced` allows; "
                    f"it is right only for requests that lead to the same there as the samples ({lines})"
                )


def _noise_notes(
    runtime: RuntimeReport, candidates: Sequence[ConsideredCandidate], objective: Objective
) -> Iterator[str]:
    """Measurements that vary too much, were repeated too rarely, or were taken before warm-up had settled."""
    wide, few, unsettled = [], [], []
    results: list[tuple[str, RuntimeResult]] = [("baseline", runtime.baseline)]
    for found in candidates:
        if found.runtime is not None:
            results.append((found.name, found.runtime))
            comparison = against_baseline(found.runtime, objective)
            match comparison:
                case None:
                    pass
                case PairedTimes(high=None):
                    few.append(f"{found.name} ({comparison.rounds})")
                case PairedTimes(low=low, high=float(high)) if low * _NOISY < high:
                    wide.append(f"{found.name} ({times_text(low)} to {times_text(high)} times)")
        if found.over_the_wire is not None and not found.over_the_wire.warm_up.settled:
            unsettled.append(f"the server of {found.name}")
    for name, result in results:
        batches = () if result.measured is None else result.measured.batches
        sizes = [str(batch.rows) for batch in batches if batch.warm_up is not None and not batch.warm_up.settled]
        if sizes:
            unsettled.append(f"{name} at batch {', '.join(sizes)}")
    what = "latency" if objective == "latency" else "time per row"
    if wide:
        yield f"noisy: the ratio of the {what} to the baseline's is uncertain for {', '.join(wide)}"
    if few:
        yield (
            f"measured in too few rounds to compare the {what} with the baseline's, which takes {FEWEST_ROUNDS}: "
            f"{', '.join(few)}; raise `optimize.time_budget`, or set fewer `benchmark.batch_sizes`"
        )
    if unsettled:
        yield f"warm-up had not settled for {'; '.join(unsettled)}"
