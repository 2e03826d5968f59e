"""The fate of each candidate before the selection: where it dropped out, and why, in a sentence with numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.artifacts.candidate import CandidateIdentity, candidate_identity
from orchestrator.artifacts.decision import CandidateFate
from orchestrator.artifacts.fates import StepFate
from orchestrator.artifacts.measurement import Objective
from orchestrator.artifacts.runtime_report import CandidateRuntimeResult, RuntimeMeasurement
from orchestrator.artifacts.server_report import CandidateServerResult, ServerMeasurement
from orchestrator.artifacts.verdict import GateResult, Verdict
from orchestrator.backends.table import BACKENDS
from orchestrator.diagnostics import Diagnostic
from orchestrator.measure.finalists import not_faster, undecided
from orchestrator.steps.parameters import CandidateParameters, SearchedParameters

__all__ = ["ConsideredCandidate", "candidate_before_selection"]


@dataclass(frozen=True, slots=True)
class ConsideredCandidate:
    """One candidate and its results.

    Attributes:
        identity: its name, variant, format, precision and backend.
        as_given: whether it is the user's original model.
        verdict: of its verification; None if there is none.
        runtime, server: its results in the two reports; None if that benchmark was not run.
        fate: None while it can still win.
        reason: of its fate, a sentence without a full stop.
        error: what failed, if that is why it has its fate.
    """

    identity: CandidateIdentity
    as_given: bool = False
    verdict: Verdict | None = None
    runtime: CandidateRuntimeResult | None = None
    server: CandidateServerResult | None = None
    fate: CandidateFate | None = None
    reason: str = ""
    error: Diagnostic | None = None

    @property
    def name(self) -> str:
        """The candidate's name."""
        return self.identity.candidate

    @property
    def backend(self) -> str:
        """The backend that would serve it."""
        return self.identity.backend

    @property
    def over_the_wire(self) -> ServerMeasurement | None:
        """The measurement of its server; None if it was not measured, and then it is compared by its runtime."""
        return None if self.server is None else self.server.measured

    @property
    def wire(self) -> ServerMeasurement:
        """The measurement of its server, which is known to exist."""
        assert self.over_the_wire is not None, f"the server of {self.name} was measured"
        return self.over_the_wire

    @property
    def in_runtime(self) -> RuntimeMeasurement:
        """The measurement of its runtime, which every candidate has that can win."""
        assert self.runtime is not None, f"{self.name} can win"
        assert self.runtime.measured is not None, f"{self.name} can win"
        return self.runtime.measured

    @property
    def without_server(self) -> str:
        """The reason why its server was not measured."""
        return "" if self.server is None else self.server.reason

    def with_fate(self, fate: CandidateFate, reason: str, error: Diagnostic | None = None) -> ConsideredCandidate:
        """A copy with this fate."""
        return replace(self, fate=fate, reason=reason, error=error)


def candidate_before_selection(
    each: CandidateParameters,
    *,
    own_steps: Sequence[str],
    steps: Mapping[str, StepFate],
    verdict: Verdict | None,
    runtime: CandidateRuntimeResult | None,
    server: CandidateServerResult | None,
    objective: Objective,
    runtime_level: Collection[str],
    searched: SearchedParameters | None = None,
) -> ConsideredCandidate:
    """A candidate; with a fate if it already dropped out before the selection.

    Args:
        each: a candidate that was not refused.
        own_steps: the ids of the steps that convert and verify it.
        steps: step id → its fate.
        verdict: of its verification; None if there is none.
        runtime: its result in the runtime benchmark; None if there is no report.
        server: its result in the server benchmark; None if there is no report.
        objective: what is optimized for.
        runtime_level: backends whose candidates may win by their runtime results if they have no server.
        searched: how a search ended for it; None for a finalist, and without a search.
    """
    found = ConsideredCandidate(candidate_identity(each), each.as_given, verdict, runtime, server)
    fate = (
        _step_fate(own_steps, steps)
        or _verification_fate(verdict)
        or (None if searched is None else (searched.fate, searched.reason))
        or _runtime_fate(runtime, objective)
        or _server_fate(server, found.backend, runtime_level)
    )
    return found if fate is None else found.with_fate(*fate)


_Fate = tuple[CandidateFate, str] | tuple[CandidateFate, str, Diagnostic | None] | None


def _step_fate(own: Sequence[str], steps: Mapping[str, StepFate]) -> _Fate:
    ended = [(step, steps[step]) for step in own if step in steps and steps[step].status != "done"]
    if not ended:
        return None
    # A skipped step only says that another one failed.
    step, outcome = next(((s, o) for s, o in ended if o.status == "failed"), ended[0])
    error = outcome.error
    assert error is not None, "a step that is not done has an error"
    fate: CandidateFate = "verification failed" if outcome.kind == "verify" else "conversion failed"
    return fate, f"{step}: {error.sentence}", error


def _verification_fate(verdict: Verdict | None) -> _Fate:
    if verdict is None or verdict.passed:
        return None
    failed = [gate for gate in verdict.gates if not gate.passed]
    reason = "; ".join(_gate(gate) for gate in failed) or "a gate failed"
    return "verification failed", reason


def _gate(result: GateResult) -> str:
    where = f"{result.gate} of {result.output}"
    if result.detail:
        return f"{where}: {result.detail}"
    measured, limit = result.numbers
    return f"{where} is {measured}, the limit is {limit}"


def _runtime_fate(result: CandidateRuntimeResult | None, objective: Objective) -> _Fate:
    if result is None:
        return "not measured", "no server can be measured on this machine, and only a server can prove `slo`"
    match result.fate:
        case "dominated" | "out of memory":
            return result.fate, result.reason, result.error
        case "failed" | "not measured":
            return "not measured", result.reason, result.error
        case "measured":
            if reason := undecided(result, objective):
                return "undecided", reason
            reason = not_faster(result, objective)
            return ("not faster than the baseline", reason) if reason else None


def _server_fate(result: CandidateServerResult | None, backend: str, runtime_level: Collection[str]) -> _Fate:
    if result is None:
        return "not measured", "the server benchmark was not run"
    match result.fate:
        case "measured":
            return None
        case "not a finalist":
            return "dominated", result.reason
        case "out of memory":
            return "out of memory", result.reason, result.error
        case "failed":
            return "not measured", result.reason, result.error
        case "no server":
            if backend in runtime_level:
                return None
            if not BACKENDS[backend].served:
                return "for devices", f"{result.reason}; to use it, set `deploy: {{target: folder, path: ...}}`"
            return "not measured", result.reason, result.error
