"""What became of each candidate on its way to the choice: where it left, and why, in a sentence with numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.artifacts.candidate import CandidateRow, candidate_row
from orchestrator.artifacts.decision import CandidateFate
from orchestrator.artifacts.fates import StepFate
from orchestrator.artifacts.measurement import Objective
from orchestrator.artifacts.runtime_report import RuntimeMeasurement, RuntimeRow
from orchestrator.artifacts.server_report import ServerMeasurement, ServerRow
from orchestrator.artifacts.verdict import GateResult, Verdict
from orchestrator.backends.table import BACKENDS
from orchestrator.measure.finalists import not_faster, undecided
from orchestrator.steps.parameters import CandidateParameters

__all__ = ["Candidate", "candidate_before_the_choice"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One candidate and what is known of it.

    Attributes:
        row: which one it is.
        as_given: whether it is the model as the user gave it.
        runtime, server: its rows of the two reports; None where that benchmark did not take place.
        fate: None as long as it can win.
        reason: for its fate, a sentence without a full stop.
    """

    row: CandidateRow
    as_given: bool = False
    runtime: RuntimeRow | None = None
    server: ServerRow | None = None
    fate: CandidateFate | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        """The candidate's name."""
        return self.row.candidate

    @property
    def backend(self) -> str:
        """What would serve it."""
        return self.row.backend

    @property
    def over_the_wire(self) -> ServerMeasurement | None:
        """What was measured of its server; what has none here is compared by its runtime."""
        return None if self.server is None else self.server.measured

    @property
    def wire(self) -> ServerMeasurement:
        """The same, of one that is known to have it."""
        assert self.over_the_wire is not None, f"the server of {self.name} was measured"
        return self.over_the_wire

    @property
    def in_runtime(self) -> RuntimeMeasurement:
        """What was measured of its runtime, of one that can win."""
        assert self.runtime is not None, f"{self.name} can win"
        assert self.runtime.measured is not None, f"{self.name} can win"
        return self.runtime.measured

    @property
    def without_server(self) -> str:
        """Why its server was not measured."""
        return "" if self.server is None else self.server.reason

    def ended(self, fate: CandidateFate, reason: str) -> Candidate:
        """The same with its fate."""
        return replace(self, fate=fate, reason=reason)


def candidate_before_the_choice(
    each: CandidateParameters,
    *,
    own_steps: Sequence[str],
    steps: Mapping[str, StepFate],
    verdict: Verdict | None,
    runtime: RuntimeRow | None,
    server: ServerRow | None,
    objective: Objective,
    runtime_level: Collection[str],
) -> Candidate:
    """A candidate with its fate, if it has one before the choice.

    Args:
        each: a candidate that was tried.
        own_steps: the ids of the steps that make and verify it.
        steps: step id → how it ended.
        verdict: of its verification; None where there is none.
        runtime: its row of the runtime benchmark's report; None where there is no report.
        server: its row of the server benchmark's report; None where there is no report.
        objective: what is optimized for.
        runtime_level: backends that may be chosen by what their runtimes showed, where there is no server.
    """
    found = Candidate(candidate_row(each), each.as_given, runtime, server)
    fate = (
        _failed_step(own_steps, steps)
        or _verified(verdict)
        or _left_at_runtime(runtime, objective)
        or _left_at_server(server, found.backend, runtime_level)
    )
    return found if fate is None else found.ended(*fate)


_Fate = tuple[CandidateFate, str] | None


def _failed_step(own: Sequence[str], steps: Mapping[str, StepFate]) -> _Fate:
    ended = [(step, steps[step]) for step in own if step in steps and steps[step].status != "done"]
    if not ended:
        return None
    # What was skipped says only that another one failed.
    step, outcome = next(((s, o) for s, o in ended if o.status == "failed"), ended[0])
    error = outcome.error
    assert error is not None, "a step that is not done says why"
    said = f"{error.message}: {error.cause}" if error.cause else error.message
    fate: CandidateFate = "verification failed" if step.startswith("verify.") else "conversion failed"
    return fate, f"{step}: {said}"


def _verified(verdict: Verdict | None) -> _Fate:
    if verdict is None or verdict.passed:
        return None
    failed = [gate for gate in verdict.gates if not gate.passed]
    said = "; ".join(_gate(gate) for gate in failed) or "a gate was not passed"
    return "verification failed", said


def _gate(result: GateResult) -> str:
    where = f"{result.gate} of {result.output}"
    if result.detail:
        return f"{where}: {result.detail}"
    return f"{where} is {result.measured:.4g}, the limit is {result.limit:.4g}"


def _left_at_runtime(row: RuntimeRow | None, objective: Objective) -> _Fate:
    if row is None:
        return "not measured", "the runtime benchmark did not take place"
    match row.fate:
        case "dominated" | "out of memory":
            return row.fate, row.reason
        case "failed" | "not measured":
            return "not measured", row.reason
        case "measured":
            if reason := undecided(row, objective):
                return "undecided", reason
            reason = not_faster(row, objective)
            return ("not faster than the baseline", reason) if reason else None


def _left_at_server(row: ServerRow | None, backend: str, runtime_level: Collection[str]) -> _Fate:
    if row is None:
        return "not measured", "the server benchmark did not take place"
    match row.fate:
        case "measured":
            return None
        case "not a finalist":
            return "dominated", row.reason
        case "out of memory":
            return "out of memory", row.reason
        case "failed":
            return "not measured", row.reason
        case "no server":
            if backend in runtime_level:
                return None
            if not BACKENDS[backend].served:
                return "for devices", f"{row.reason}; `deploy: {{target: folder, path: ...}}` puts it into a folder"
            return "not measured", row.reason
