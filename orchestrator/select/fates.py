"""What became of each candidate on its way to the choice: where it left, and why, in a sentence with numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.artifacts.fates import StepFate
from orchestrator.artifacts.verdict import GateResult, Verdict
from orchestrator.backends.table import BACKENDS
from orchestrator.measure.finalists import NO_SERVER, not_faster, undecided

__all__ = ["Standing", "standing"]


@dataclass(slots=True)
class Standing:
    """One candidate: filled from the top of its way to where it left it.

    Attributes:
        row: of the parameter `candidates`.
        fate: `contends` until the choice; see docs/measuring.md for all of them.
        reason: a sentence without a full stop.
        runtime, server: its rows of the two reports, as far as it came.
    """

    row: Mapping[str, Any]
    fate: str = "contends"
    reason: str = ""
    runtime: Mapping[str, Any] = field(default_factory=dict)
    server: Mapping[str, Any] = field(default_factory=dict)

    @property
    def variant(self) -> str:
        """Its variant's name."""
        return str(self.row["variant"])

    @property
    def over_the_wire(self) -> bool:
        """Whether its server was measured; what has none here contends with what its runtime showed."""
        return self.server.get("fate") == "measured"

    @property
    def backend(self) -> str:
        """What would serve it."""
        return str(self.row["backend"])


def standing(
    row: Mapping[str, Any],
    *,
    steps: Mapping[str, StepFate],
    verdict: Verdict | None,
    runtime: Mapping[str, Any],
    server: Mapping[str, Any],
    objective: str,
    runtime_level: Collection[str],
) -> Standing:
    """Where a candidate stands before the choice.

    Args:
        row: of the parameter `candidates`.
        steps: step id → how it ended.
        verdict: its verdict.json, if it was verified.
        runtime: its row of the runtime benchmark's report; empty if there is none.
        server: its row of the server benchmark's report; empty if there is none.
        objective: `latency`, `throughput` or `cost`.
        runtime_level: backends that may be chosen by what their runtimes showed, where there is no server.
    """
    found = Standing(row, runtime=runtime, server=server)
    fate = (
        _refused(row)
        or _failed_step(row["steps"], steps)
        or _verified(verdict)
        or _left_at_runtime(runtime, objective)
        or _left_at_server(server, str(row["backend"]), runtime_level)
    )
    if fate is not None:
        found.fate, found.reason = fate
    return found


_Fate = tuple[str, str] | None


def _refused(row: Mapping[str, Any]) -> _Fate:
    return ("refused", row["refused"]) if row["refused"] else None


def _failed_step(own: Sequence[str], steps: Mapping[str, StepFate]) -> _Fate:
    ended = [(step, steps[step]) for step in own if step in steps and steps[step].status != "done"]
    if not ended:
        return None
    # What was skipped says only that another one failed.
    step, outcome = next(((s, o) for s, o in ended if o.status == "failed"), ended[0])
    error = outcome.error
    assert error is not None, "a step that is not done says why"
    said = f"{error.message}: {error.cause}" if error.cause else error.message
    fate = "verification failed" if step.startswith("verify.") else "conversion failed"
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


def _left_at_runtime(runtime: Mapping[str, Any], objective: str) -> _Fate:
    if not runtime:
        return "not measured", "the runtime benchmark did not take place"
    if runtime["fate"] in {"dominated", "out of memory"}:
        return runtime["fate"], runtime["reason"]
    if runtime["fate"] != "measured":
        return "not measured", runtime["reason"]
    if reason := undecided(runtime, objective):
        return "undecided", reason
    reason = not_faster(runtime, objective)
    return ("not faster than the baseline", reason) if reason else None


def _left_at_server(server: Mapping[str, Any], backend: str, runtime_level: Collection[str]) -> _Fate:
    if not server:
        return "not measured", "the server benchmark did not take place"
    if server["fate"] == "not a finalist":
        return "dominated", server["reason"]
    if server["fate"] == "out of memory":
        return "out of memory", server["reason"]
    if server["fate"] == NO_SERVER and backend in runtime_level:
        return None
    if server["fate"] == NO_SERVER and not BACKENDS[backend].served:
        return "for devices", f"{server['reason']}; `deploy: {{target: folder, path: ...}}` puts it into a folder"
    return None if server["fate"] == "measured" else ("not measured", server["reason"])
